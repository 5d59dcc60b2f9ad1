"""A server whose state survives its own replacement: it counts per client, one request a connection.

    echo alice | nc 127.0.0.1 8080        alice 1 pid 4711 generation 0

The state is written when the library asks for it (on_state). From then on this process accepts nothing: what it
counted after that would be lost. Clients wait in the kernel's queue, for the successor, or for this process if the
upgrade fails (on_failure). While the file named by REFUSE exists, upgrades are refused.
"""

import contextlib
import json
import os
import select
import socket
import sys
from collections import Counter
from typing import BinaryIO

from shellflip import Failure, Flip, FlipError, Refused, Shutdown


class Server:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.accepting = True

    def may_be_replaced(self, asked_by: str) -> None:
        refuse = os.environ.get("REFUSE")
        if refuse and os.path.exists(refuse):
            raise Refused("the operator asked for no upgrades (REFUSE)")

    def save(self, file: BinaryIO) -> None:
        self.accepting = False
        file.write(json.dumps(self.counts).encode())

    def goes_on(self, failure: FlipError) -> None:
        print(f"stateful: upgrade failed: {failure}", file=sys.stderr)
        self.accepting = True

    def serve(self, client: socket.socket, generation: int) -> None:
        client.settimeout(1)
        try:
            with client, client.makefile("rwb") as stream:
                words = stream.readline(32).decode(errors="replace").split()
                if words:
                    self.counts[words[0]] += 1
                    count = self.counts[words[0]]
                    stream.write(f"{words[0]} {count} pid {os.getpid()} generation {generation}\n".encode())
        except OSError:
            pass  # the client's affair


def main(address: str) -> None:
    server = Server()
    with Flip(on_upgrade=server.may_be_replaced, on_state=server.save, on_failure=server.goes_on) as flip:
        listener = flip.listen(address)
        try:
            server.counts.update(json.loads(flip.state or b"{}"))
        except FlipError as error:
            if error.kind is not Failure.STATE:
                raise
            print(f"stateful: {error}; starting with none", file=sys.stderr)
        if "FAIL" in os.environ and flip.generation > 0:
            sys.exit(1)
        flip.ready()
        print(f"stateful: pid {os.getpid()}, generation {flip.generation}: serving", file=sys.stderr)
        while flip.handle_events() in (None, Shutdown.DETACH):
            watched = [flip.fileno(), listener.fileno()] if server.accepting else [flip.fileno()]
            readable, _, _ = select.select(watched, [], [])
            if readable == [listener.fileno()]:
                # Not flip.accept, which handles events: the state could be written between this look and the accept.
                with contextlib.suppress(BlockingIOError, ConnectionAbortedError):  # another one was quicker
                    client, _ = listener.accept()
                    server.serve(client, flip.generation)
        listener.close()
        flip.drain()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8080")
