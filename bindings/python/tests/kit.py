"""What the tests share: server processes of several generations, their exit statuses, requests, and load by flipload.

The test process is a subreaper, so that a generation whose predecessor has exited becomes its child and its exit
status is known. Nothing here waits without a deadline, and every deadline is stretched by
SHELLFLIP_TEST_TIMEOUT_SCALE.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
ROOT = PACKAGE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
RECIPES = PACKAGE / "recipes"
SCALE = float(os.environ.get("SHELLFLIP_TEST_TIMEOUT_SCALE") or 1)
MARK = "SHELLFLIP_PYTHON_TEST"

#: Every warning of ours, and every ResourceWarning of anybody, is an error. -W knows modules by their exact name
#: only.
MODULES = sorted(path.stem for path in (PACKAGE / "src" / "shellflip").glob("*.py"))
STRICT = [
    "-W",
    "error::ResourceWarning",
    *itertools.chain(*(("-W", f"error:::shellflip.{name}") for name in MODULES)),
]

#: What a clean exit does not print.
COMPLAINTS = ("Traceback", "Exception ignored", "Warning", "never awaited", "was destroyed but it is pending")

_PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
_numbers = itertools.count()


def wait_for(what: str, attempt: Callable[[], T | None], seconds: float = 20) -> T:
    """The first value that is not None or False."""
    until = time.monotonic() + seconds * SCALE
    while True:
        last = time.monotonic() > until
        value = attempt()
        if value is not None and value is not False:
            return value
        assert not last, f"not within {seconds * SCALE:.0f} s: {what}"
        time.sleep(0.005)


def library_rests() -> bool:
    """Whether the library has done all that it does once this process is ready: its two threads sleep."""
    stats = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/stat")]
    states = [stat.rpartition(") ")[2][0] for stat in stats if "(shellflip)" in stat]
    return states == ["S", "S"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def connect(address: str, seconds: float = 20) -> socket.socket:
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        where: Any = address.removeprefix("unix:").removeprefix("//")
        where = "\0" + where[1:] if where.startswith("@") else where
    else:
        client = socket.socket()
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        where = (host, int(port))
    client.settimeout(seconds * SCALE)
    try:
        client.connect(where)
    except BaseException:
        client.close()
        raise
    return client


def receive(client: socket.socket) -> bytes:
    """Until the server closes."""
    data = b""
    while part := client.recv(65536):
        data += part
    return data


def hello(address: str) -> bytes:
    """What a server says that answers no requests."""
    with connect(address) as client:
        return receive(client)


def get(address: str, path: str = "/") -> tuple[bytes, bytes]:
    """Head and body of one answer on a connection of its own."""
    with connect(address) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = receive(client).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), (head, body)
    if b"transfer-encoding: chunked" in head.lower():
        body = body.partition(b"\r\n")[2].partition(b"\r\n")[0]
    return head, body


def ask(address: str, path: str = "/") -> dict[str, Any]:
    """Who answers."""
    found: dict[str, Any] = json.loads(get(address, path)[1])
    return found


def parent_of(pid: int) -> int:
    stat = pathlib.Path("/proc", str(pid), "stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def _in_child() -> None:
    # Whoever started the tests may ignore signals, and that would be inherited.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)


class Family:
    """A server and all its generations. A context manager that leaves no process behind."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.mark = f"{os.getpid()}-{next(_numbers)}"
        self.log_path = directory / f"log-{self.mark}"
        self._statuses: dict[int, int] = {}
        self._known: set[int] = set()

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        wait_for("the processes of this test are gone", lambda: not self.processes())

    def start(
        self,
        command: Sequence[str | pathlib.Path],
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
    ) -> int:
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd or self.directory,
                env={**os.environ, **(env or {}), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_in_child,
            )
        process.returncode = 0  # its status is collected here, like those of its successors
        self._known.add(process.pid)
        return process.pid

    def python(
        self,
        *arguments: str | pathlib.Path,
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        strict: bool = True,
    ) -> int:
        return self.start([sys.executable, *(STRICT if strict else []), *arguments], env, cwd)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def processes(self) -> set[int]:
        """All that carry the mark and are alive."""
        self._reap()
        found = set()
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                marked = f"{MARK}={self.mark}".encode() in pathlib.Path("/proc", entry, "environ").read_bytes().split(
                    b"\0"
                )
                state = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marked and state not in "ZX":
                found.add(int(entry))
        self._known |= found
        return found

    def _reap(self) -> None:
        for pid in self._known - self._statuses.keys():
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # its predecessor's still
            if done:
                self._statuses[pid] = os.waitstatus_to_exitcode(status)

    def status(self, pid: int, seconds: float = 20) -> int:
        """How it ended; waits for it."""
        self._known.add(pid)

        def ended() -> int | None:
            self._reap()
            return self._statuses.get(pid)

        try:
            return wait_for(f"process {pid} ends", ended, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def serving(self, address: str, besides: int = 0, who: Callable[[str], int] | None = None) -> int:
        """The process that answers, once it is another one than `besides`."""

        def answers() -> int | None:
            try:
                pid = who(address) if who is not None else int(ask(address)["pid"])
            except (OSError, AssertionError, ValueError):
                return None
            return pid if pid != besides else None

        try:
            pid = wait_for(f"a process besides {besides} answers on {address}", answers)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        self._known.add(pid)
        return pid

    def upgrade(
        self, address: str, old: int, who: Callable[[str], int] | None = None, number: int = signal.SIGUSR1
    ) -> int:
        """Replaces `old`, and waits until it has exited, with 0."""
        os.kill(old, number)
        new = self.serving(address, old, who)
        assert self.status(old) == 0, self.log()
        return new

    def stop(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Ends the last one, and looks at what all of them have printed."""
        os.kill(pid, number)
        assert self.status(pid) == 0, self.log()
        wait_for("nobody is left", lambda: not self.processes())
        self.no_complaints()

    def no_complaints(self) -> None:
        log = self.log()
        assert not any(complaint in log for complaint in COMPLAINTS), log


@dataclasses.dataclass(frozen=True)
class Operator:
    """Where to ask a program that has no control socket of its own, and the environment to start it with."""

    address: str
    env: Mapping[str, str]


def control_socket(directory: pathlib.Path) -> Operator:
    """One for every Flip of a program that is run as it is."""
    address = f"unix://{directory}/ctl"
    (directory / "sitecustomize.py").write_text(
        "import shellflip\n"
        "made = shellflip.Flip\n"
        f"shellflip.Flip = lambda **settings: made(**{{**settings, 'control_socket': {address!r}}})\n"
    )
    return Operator(address, {"PYTHONPATH": str(directory)})


class Load:
    """flipload, for as long as the block runs. It never retries; every failure counts."""

    def __init__(self, address: str, *arguments: str, connections: int = 6, streams: int = 2) -> None:
        self._command = [
            str(TARGET / "release" / "flipload"),
            address,
            f"--connections={connections}",
            f"--streams={streams}",
            f"--timeout={10 * SCALE}",
            *arguments,
        ]
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_in_child
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            output, _nothing = self._process.communicate(timeout=30 * SCALE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        self.report = json.loads(output)

    def nothing_failed(self, *, generations: int = 0) -> None:
        assert self.report["failed"] == 0, json.dumps(self.report, indent=1)
        assert self.report["answered"] > 0
        assert len(self.report["seen"]) >= generations, self.report["seen"]


class Slow:
    """A request that takes 1.5 s, begun before the block."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.answer: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.answer = ask(self._address, "/slow")

    def __enter__(self) -> Slow:
        self._thread.start()
        time.sleep(0.3)  # it is being answered by then; were it not, the new process would answer and the test fail
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30 * SCALE)
