"""A thread per connection. Replace it while it runs: edit this file, then kill -USR1 the pid."""

import contextlib
import os
import socket
import sys
import threading

from shellflip import Connection, Flip, FlipError


def serve(client: Connection, generation: int) -> None:
    with client, contextlib.suppress(OSError):
        client.settimeout(2)
        client.sendall(f"hello from pid {os.getpid()} generation {generation}\n".encode())
        # Closing with unread input resets the connection, and a reset can destroy the answer: read the input away.
        client.shutdown(socket.SHUT_WR)
        for _ in range(64):
            if not client.recv(256):
                break


def main(address: str) -> int:
    with Flip() as flip:
        listener = flip.listen(address)
        flip.ready()
        while client := flip.accept(listener):
            threading.Thread(target=serve, args=(client, flip.generation), daemon=True).start()
        listener.close()
        try:
            flip.drain()
        except FlipError as error:
            print(f"connections were left behind: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:8080"))
