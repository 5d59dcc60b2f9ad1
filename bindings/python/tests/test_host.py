"""What hosts do to Flip: signals, hooks that raise or never return, forks, events that nobody has read at the end."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import kit

#: A server in two kinds; HOOKS is replaced by keyword arguments of Flip, AFTER by what runs once it is ready.
SYNC = """
import json, logging, multiprocessing, os, signal, subprocess, sys, threading, time
from shellflip import *
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
counter = 0
def refuse(who): raise Refused("not now")
def boom(who): raise RuntimeError("a bug")
def denied(file): raise PermissionError(13, "no disk")
def unnamed(who): raise OSError(-2, "no such name")
def beyond(who): raise OSError(2**40, "no such number")
def hang(who): time.sleep(3600)
def save(file): file.write(b"%d" % counter)
def main():
    global counter
    with Flip(HOOKS) as flip:
        listener = flip.listen(os.environ["ADDRESS"])
        counter = int(flip.state or 0)
        flip.ready()
        AFTER
        while client := flip.accept(listener):
            with client:
                counter += 1
                client.recv(4096)
                about = {"pid": os.getpid(), "generation": flip.generation, "counter": counter}
                body = json.dumps(about).encode()
                client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
        listener.close()
        flip.drain()
if __name__ == "__main__":
    main()
"""
ASYNC = """
import asyncio, json, logging, os, sys, time
from shellflip import *
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
counter = 0
async def refuse(who): raise Refused("not now")
async def boom(who): raise RuntimeError("a bug")
async def denied(file): raise PermissionError(13, "no disk")
async def unnamed(who): raise OSError(-2, "no such name")
async def beyond(who): raise OSError(2**40, "no such number")
async def hang(who): await asyncio.sleep(3600)
async def save(file):
    await asyncio.sleep(0.01)
    file.write(b"%d" % counter)
async def main():
    global counter
    async with Flip(HOOKS) as flip:
        listener = flip.listen(os.environ["ADDRESS"])
        counter = int(flip.state or 0)
        async def handle(reader, writer):
            global counter
            async with flip.connection():
                counter += 1
                await reader.readuntil(b"\\r\\n\\r\\n")
                about = {"pid": os.getpid(), "generation": flip.generation, "counter": counter,
                         "loop": type(asyncio.get_running_loop()).__module__}
                body = json.dumps(about).encode()
                writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        server = await asyncio.start_server(handle, sock=listener, start_serving=False)
        await flip.aready()
        await server.start_serving()
        AFTER
        kind = await flip.wait_shutdown()
        print("shutdown", kind.name, flush=True)
        server.close()
        await flip.adrain()
if __name__ == "__main__":
    RUN
"""
KINDS = {
    "sync": SYNC,
    "asyncio": ASYNC.replace("RUN", "asyncio.run(main())"),
    "uvloop": ASYNC.replace("RUN", "import uvloop; uvloop.run(main())"),
}
both = pytest.mark.parametrize("kind", KINDS)


class Host:
    def __init__(self, family: kit.Family, directory: pathlib.Path, address: str) -> None:
        self.family, self.path, self.address = family, directory / "app.py", address
        self.pid = 0

    def write(self, kind: str, hooks: str = "", after: str = "pass") -> None:
        indent = " " * 8
        lines = textwrap.indent(textwrap.dedent(after).strip(), indent).strip()
        self.path.write_text(KINDS[kind].replace("HOOKS", hooks).replace("AFTER", lines))

    def start(self, kind: str, hooks: str = "", after: str = "pass", *, strict: bool = True) -> Host:
        self.write(kind, hooks, after)
        env = {"ADDRESS": self.address, "SHELLFLIP_LOG": "error"}
        self.family.python(self.path, env=env, strict=strict)
        self.pid = self.family.serving(self.address)
        return self

    def ask(self) -> dict[str, Any]:
        return kit.ask(self.address)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def logs(self, text: str) -> None:
        kit.wait_for(f"the log has {text}", lambda: text in self.family.log())

    def upgrade(self) -> None:
        self.pid = self.family.upgrade(self.address, self.pid)

    def fails(self, reason: str) -> None:
        """An upgrade, which fails for this reason, and the next request is answered as ever."""
        self.send(signal.SIGUSR1)
        self.logs(reason)
        assert self.ask()["pid"] == self.pid

    def stop(self, number: int = signal.SIGTERM, *, complaints: bool = False) -> None:
        self.send(number)
        assert self.family.status(self.pid) == 0, self.family.log()
        kit.wait_for("nobody is left", lambda: not self.family.processes())
        if not complaints:
            self.family.no_complaints()


@pytest.fixture
def host(family: kit.Family, tmp_path: pathlib.Path, tcp: str) -> Host:
    return Host(family, tmp_path, tcp)


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_sigterm_and_ctrl_c_stop_with_exit_status_0(kind: str, number: int, host: Host) -> None:
    host.start(kind).stop(number)


@both
def test_a_second_stop_cuts_the_drain_short(kind: str, host: Host) -> None:
    # Where a ResourceWarning is an error, uvloop never ends closing a loop with an open transport.
    host.start(kind, strict=kind != "uvloop")
    with kit.connect(host.address) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        kit.wait_for("it is accepted", lambda: host.ask()["counter"] >= 2)
        if kind == "sync":  # serves one connection at a time: it ends when this one does
            client.close()
            host.stop()
            return
        host.send(signal.SIGINT)
        host.logs("shutdown: Stop")
        host.send(signal.SIGINT)
        # Sooner than the drain time-out of 30 s.
        assert host.family.status(host.pid, 20) == 1
        assert "FlipError" in host.family.log()


def test_signals_can_be_left_alone(host: Host) -> None:
    host.start("sync", "signals=False")
    host.send(signal.SIGUSR1)
    assert host.family.status(host.pid) == -signal.SIGUSR1


def test_signals_can_be_chosen(host: Host) -> None:
    host.start("sync", "signals={signal.SIGHUP: Request.UPGRADE, signal.SIGTERM: Request.STOP}")
    host.pid = host.family.upgrade(host.address, host.pid, number=signal.SIGHUP)
    host.stop()


def test_ctrl_c_is_keyboardinterrupt_where_it_is_left_to_python(host: Host) -> None:
    host.start("sync", "signals={signal.SIGTERM: Request.STOP}")
    host.send(signal.SIGINT)
    assert host.family.status(host.pid) == -signal.SIGINT
    assert "KeyboardInterrupt" in host.family.log()


@both
def test_a_hook_refuses(kind: str, host: Host) -> None:
    host.start(kind, "on_upgrade=refuse").fails("not now")
    assert "Traceback" not in host.family.log()
    host.stop()


@both
@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ("on_upgrade=boom", "on_upgrade raised RuntimeError: a bug"),
        ("on_state=denied", "PermissionError: [Errno 13]"),
        ("on_upgrade=unnamed", "on_upgrade raised OSError: [Errno -2] no such name"),
        ("on_upgrade=beyond", "upgrade failed"),
    ],
)
def test_an_exception_in_a_hook_refuses_and_is_logged(kind: str, hooks: str, reason: str, host: Host) -> None:
    host.start(kind, hooks)
    for _ in range(2):
        host.fails(reason)
    assert "Traceback" in host.family.log()
    host.stop(complaints=True)


def test_a_forked_child_does_not_end_what_its_parent_counts(host: Host) -> None:
    after = """
        mine = flip.accept(listener)
        with flip.connection():
            child = os.fork()
            if child == 0:
                mine.close()
        if child == 0:
            with flip.connection():
                print("in the child", flip.connections, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print("in the parent", flip.connections, flush=True)
        mine.close()
        print("then", flip.connections, flush=True)
    """
    host.write("sync", after=after)
    env = {"ADDRESS": host.address, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    host.family.python(host.path, env=env, strict=False)
    with kit.wait_for("a connection", lambda: _connected(host.address)):
        host.logs("then")
    for line in ("in the child 1", "in the parent 1", "then 0"):
        assert line in host.family.log()
    host.pid = host.family.serving(host.address)
    host.stop()


def _connected(address: str) -> socket.socket | None:
    try:
        return kit.connect(address)
    except OSError:
        return None


def test_a_hook_that_never_returns_fails_the_upgrade_in_a_loop(host: Host) -> None:
    host.start("asyncio", "on_upgrade=hang, upgrade_timeout=0.5")
    for _ in range(2):
        host.fails("upgrade failed")
        host.family.log_path.write_text("")
    host.stop()


def test_a_hook_that_never_returns_holds_its_thread_and_nobody_else(host: Host) -> None:
    # Another thread goes on accepting; the one that is in the hook is the host's to end.
    after = """
        def serve():
            while client := flip.accept(listener):
                with client:
                    client.recv(4096)
                    body = b'{"pid": %d}' % os.getpid()
                    client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
        for _ in range(3):
            threading.Thread(target=serve, daemon=True).start()
        flip.wait()
    """
    host.start("sync", "on_upgrade=hang, upgrade_timeout=0.5", after)
    host.send(signal.SIGUSR1)
    for _ in range(5):
        assert host.ask()["pid"] == host.pid
    host.logs("upgrade failed")
    host.send(signal.SIGTERM)


@both
def test_state_crosses(kind: str, host: Host) -> None:
    host.start(kind, "on_state=save")
    for _ in range(3):
        before = host.ask()["counter"]
        host.upgrade()
        assert host.ask()["counter"] > before
    host.stop()


@both
def test_a_failed_upgrade_is_told(kind: str, host: Host) -> None:
    host.start(kind, "on_failure=lambda failure: print('told', failure.kind.name, flush=True)")
    right = host.path.read_text()
    host.path.write_text("raise SystemExit(3)")
    host.fails("told EXITED")
    assert "exited with status 3" in host.family.log()
    host.path.write_text(right)
    host.upgrade()
    host.stop()


def test_events_that_nobody_read_do_no_harm_at_the_end(host: Host) -> None:
    # An upgrade has been asked for, its question waits, and the program just ends.
    after = """
        flip.request(Request.UPGRADE)
        time.sleep(0.3)
        listener.close()
        sys.exit(0)
    """
    host.write("sync", "on_upgrade=boom, on_state=save", after)
    pid = host.family.python(host.path, env={"ADDRESS": host.address})
    assert host.family.status(pid) == 0
    host.family.no_complaints()


def test_an_end_without_close_is_clean(host: Host) -> None:
    code = """
        import sys
        from shellflip import *
        flip = Flip(on_upgrade=print)
        listener = flip.listen(sys.argv[1])
        flip.ready()
        flip.request(Request.UPGRADE)
        flip.watch(print)
        listener.close()
    """
    host.path.write_text(textwrap.dedent(code))
    for _ in range(5):
        pid = host.family.python("-X", "dev", host.path, host.address)
        assert host.family.status(pid) == 0
    host.family.no_complaints()


def test_a_forked_child_has_its_own_signals_and_ends_alone(host: Host) -> None:
    after = """
        pid = os.fork()
        if pid == 0:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            listener.close()
            try:
                flip.request(Request.UPGRADE)
            except ChildProcessError:
                pass
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        pid = os.fork()
        if pid == 0:
            time.sleep(3600)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        print("forked", flush=True)
    """
    if sys.version_info >= (3, 12):
        after = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(after)
    host.start("sync", "", after)
    assert "forked" in host.family.log()
    assert host.ask()["pid"] == host.pid, "the child's end has closed nothing of its parent's"
    host.upgrade()
    host.stop()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
@pytest.mark.parametrize("end", ["flip.close()", "import atexit; atexit._run_exitfuncs()"], ids=["close", "exit"])
def test_a_child_of_an_event_loop_ends_alone(kind: str, end: str, host: Host) -> None:
    # What the child takes out of the kernel's set, which it shares with its parent, its parent does not hear of any
    # more. SystemExit would go through the loop, which does so on its own.
    after = f"""
        import contextlib
        def heard():
            for number in os.listdir("/proc/self/fd"):
                with contextlib.suppress(FileNotFoundError), open(f"/proc/self/fdinfo/{{number}}") as about:
                    yield from (line for line in about if line.startswith("tfd:"))
        before = sorted(heard())
        pid = os.fork()
        if pid == 0:
            try:
                {end}
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert before == sorted(heard()), (before, sorted(heard()))
        print("forked", flush=True)
    """
    if sys.version_info >= (3, 12):
        after = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(after)
    host.start(kind, "", after)
    assert "forked" in host.family.log()
    host.upgrade()
    host.stop()


def test_forked_workers_accept_and_end_with_their_master(host: Host) -> None:
    after = """
        for _ in range(2):
            if os.fork() == 0:
                while client := flip.accept(listener):
                    with client:
                        client.recv(4096)
                        body = b'{"pid": %d, "generation": %d}' % (os.getppid(), flip.generation)
                        client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
                listener.close()
                flip.drain()
                sys.exit(0)
        flip.wait()
        listener.close()
        for _ in range(2):
            assert os.wait()[1] == 0
        sys.exit(0)
    """
    if sys.version_info >= (3, 12):
        after = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(after)
    host.start("sync", "", after)
    with kit.Load(host.address, connections=0, streams=3) as load:
        for _ in range(3):
            host.upgrade()
    load.nothing_failed(generations=4)
    host.stop()


def signals_of_a_worker() -> str:
    """As the README has it."""
    text = (kit.PACKAGE / "README.md").read_text()
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("signal.signal(")]
    assert lines
    return "; ".join(lines)


@pytest.mark.parametrize(
    ("number", "whom"),
    [(signal.SIGTERM, os.killpg), (signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)],
    ids=["systemctl stop", "Ctrl-C", "the master dies"],
)
def test_a_forked_worker_finishes_what_it_has_begun(
    number: int, whom: Callable[[int, int], None], host: Host
) -> None:
    after = f"""
        for _ in range(2):
            if os.fork() == 0:
                {signals_of_a_worker()}
                while client := flip.accept(listener):
                    with client:
                        print(f"begun by {{os.getpid()}} for {{client.getpeername()[1]}}.", flush=True)
                        head = b""
                        while not head.endswith(b"\\r\\n\\r\\n"):
                            head += client.recv(4096)
                        body = b'{{"pid": %d}}' % os.getppid()
                        client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
                listener.close()
                flip.drain()
                os._exit(0)
        print("forked", flush=True)
        flip.wait()
        listener.close()
        for _ in range(2):
            assert os.wait()[1] == 0
        sys.exit(0)
    """
    if sys.version_info >= (3, 12):
        after = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(after)
    host.write("sync", "", after)
    master = host.family.python(host.path, env={"ADDRESS": host.address})
    host.logs("forked")
    with kit.connect(host.address) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        port = client.getsockname()[1]
        begun = kit.wait_for("a worker has it", lambda: re.search(rf"begun by (\d+) for {port}\.", host.family.log()))
        whom(master, number)
        left = {int(begun[1])} | ({master} if number != signal.SIGKILL else set())
        kit.wait_for("the idle worker has ended", lambda: host.family.processes() <= left)
        client.sendall(b"\r\n")
        assert kit.receive(client).startswith(b"HTTP/1.0 200")
    kit.wait_for("nobody is left", lambda: not host.family.processes())
    assert host.family.status(master) == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    host.family.no_complaints()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_forked_workers_have_event_loops_of_their_own(loop: str, host: Host) -> None:
    after = f"""
        import {loop} as loops, asyncio
        async def handle(reader, writer):
            async with flip.connection():
                await reader.readuntil(b"\\r\\n\\r\\n")
                body = b'{{"pid": %d, "generation": %d}}' % (os.getppid(), flip.generation)
                writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        async def work():
            server = await asyncio.start_server(handle, sock=listener)
            assert await flip.wait_shutdown() is not Shutdown.DETACH
            server.close()
            await flip.adrain()
        for _ in range(2):
            if os.fork() == 0:
                loops.run(work())
                sys.exit(0)
        flip.wait()
        listener.close()
        for _ in range(2):
            assert os.wait()[1] == 0
        sys.exit(0)
    """
    if sys.version_info >= (3, 12):
        after = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(after)
    host.start("sync", "", after)
    with kit.Load(host.address, connections=0, streams=3) as load:
        for _ in range(3):
            host.upgrade()
    load.nothing_failed(generations=4)
    host.stop()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_in_the_host(method: str, host: Host) -> None:
    after = f"""
        context = multiprocessing.get_context("{method}")
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        child = context.Process(target=time.sleep, args=(3600,))
        child.start()
        child.terminate()
        child.join()
        assert child.exitcode == -signal.SIGTERM, child.exitcode
        print("multiprocessed", flush=True)
    """
    if sys.version_info >= (3, 12):
        after = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + textwrap.dedent(after)
    host.start("sync", "", after)
    assert "multiprocessed" in host.family.log()
    host.upgrade()
    host.stop()


def test_logging_goes_to_one_logger(host: Host) -> None:
    host.start("asyncio")
    host.upgrade()
    host.stop()
    assert "shellflip INFO upgraded to process" in host.family.log()
    assert "shutdown UPGRADE" in host.family.log()
    assert "shutdown STOP" in host.family.log()


@both
def test_upgrade_by_call(kind: str, host: Host) -> None:
    call = "pid = flip.upgrade()" if kind == "sync" else "pid = await asyncio.to_thread(flip.upgrade)"
    host.start(kind, "", f"if flip.generation == 0:\n    {call}\n    print(f'successor {{pid}}', flush=True)")
    # Of one answer: for a moment both generations serve.
    about = kit.wait_for("a successor", lambda: found if (found := host.ask())["generation"] == 1 else None)
    host.pid = about["pid"]
    host.logs(f"successor {host.pid}")
    host.stop()


def test_a_successor_starts_with_the_standard_error_that_was_there_at_flip(
    host: Host, tmp_path: pathlib.Path
) -> None:
    reopens = f"""
        if flip.generation == 0:
            os.dup2(os.open("{tmp_path}/rotated", os.O_CREAT | os.O_WRONLY), 2)
    """
    host.start("sync", "", reopens)
    assert os.readlink(f"/proc/{host.pid}/fd/2") == f"{tmp_path}/rotated"
    host.upgrade()
    assert os.readlink(f"/proc/{host.pid}/fd/2") == str(host.family.log_path)
    host.stop()


def test_the_loop_is_the_one_that_was_asked_for(host: Host) -> None:
    host.start("uvloop")
    assert host.ask()["loop"].startswith("uvloop"), json.dumps(host.ask())
    with kit.Load(host.address, connections=0, streams=3) as load:
        for _ in range(5):
            host.upgrade()
    load.nothing_failed(generations=6)
    host.stop()
