"""The servers that are replaced: how each is started and asked for a successor, and how one knows that it is live.

Those in benches/peers and benches/c write one line, the time and their pid, at the moment when their library says
that they are live. nginx and HAProxy have no such place; for them it is their own notice that the new worker was
started, as it arrives here. That is a little earlier than the worker's first answer, so it errs in their favour.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import C_PROGRAMS, RELEASE, TARGET, Broken

PEERS = TARGET / "peers"
STEP = 10.0
"""Seconds that any one step may take."""

PAUSE = 0.03
"""Seconds between the end of a predecessor and the next request: the successor learns of that end only now, and some
refuse to be replaced before it."""

PR_SET_CHILD_SUBREAPER = 36


def nanoseconds() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def adopt(orphans: bool) -> None:
    """Whether a process that loses its parent becomes our child, so that it can be waited for."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0)


class Lines:
    """What comes through a pipe, line by line; nobody who writes into it waits for us."""

    def __init__(self, end: int) -> None:
        self.end, self.rest = end, b""
        os.set_blocking(end, False)

    def next(self, what: str) -> str:
        deadline = time.monotonic() + STEP
        while b"\n" not in self.rest:
            if not select.select([self.end], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Broken(f"no {what} after {STEP:.0f} s")
            self.rest += os.read(self.end, 65536)
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode(errors="replace")


class Server:
    """A program that serves one address, and its successors. A context manager: nothing of it is left behind."""

    def __init__(self) -> None:
        adopt(True)
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.groups: set[int] = set()
        self.listener: socket.socket | None = None
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        os.mkfifo(self.folder / "live")
        self.live = Lines(os.open(self.folder / "live", os.O_RDWR | os.O_CLOEXEC))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Returns once the first process is live."""
        raise NotImplementedError

    def request(self) -> int:
        """Asks for a successor; when."""
        raise NotImplementedError

    def live_at(self) -> int:
        """Waits until the successor is live; when that was."""
        raise NotImplementedError

    def settle(self) -> None:
        """Waits until the predecessor is gone and the next request may come."""
        raise NotImplementedError

    def launch(self, command: Sequence[str | Path], errors: int = 1, env: dict[str, str] | None = None) -> int:
        """In a process group of its own, which what it starts belongs to as well."""
        log = str(self.folder / "log")
        mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, mode, 0o600),
            (os.POSIX_SPAWN_DUP2, errors, 2),
        ]
        if self.listener is not None:
            files.append((os.POSIX_SPAWN_DUP2, self.listener.fileno(), 3))
        arguments = [str(word) for word in command]
        environment = {**os.environ, "LIVE": str(self.folder / "live"), **(env or {})}
        pid = os.posix_spawn(arguments[0], arguments, environment, file_actions=files, setpgroup=0)
        self.groups.add(pid)
        return pid

    def gone(self, pidfd: int, who: int) -> None:
        try:
            if not select.select([pidfd], [], [], STEP)[0]:
                raise Broken(f"process {who} is still there after {STEP:.0f} s")
        finally:
            os.close(pidfd)
        self.reap()

    def reap(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-group, os.WNOHANG)[0]:
                    pass

    def answering(self) -> int:
        """The pid of whoever answers on a new connection."""
        deadline = time.monotonic() + STEP
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as asked:
                asked.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                found = re.search(rb"pid\W+(\d+)", b"".join(iter(lambda: asked.recv(4096), b"")))
                if found:
                    return int(found[1])
            time.sleep(0.001)
        raise Broken(f"nobody answers on {self.address} after {STEP:.0f} s: {self.said()}")

    def said(self) -> str:
        log = self.folder / "log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " / ".join(lines[-3:])

    def close(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        deadline = time.monotonic() + STEP
        for group in self.groups:
            with contextlib.suppress(ChildProcessError):
                while time.monotonic() < deadline:
                    if not os.waitpid(-group, os.WNOHANG)[0]:
                        time.sleep(0.001)
        adopt(False)
        os.close(self.live.end)
        if self.listener is not None:
            self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Replacing(Server):
    """A program whose library replaces it when a signal comes."""

    def __init__(
        self,
        command: Sequence[str | Path],
        asked_by: signal.Signals,
        *,
        scheme: str = "",
        speaks: bool = True,
        inherits: bool = False,
    ) -> None:
        super().__init__()
        self.command = [*command, scheme + self.address]
        self.asked_by, self.speaks = asked_by, speaks
        self.pid, self.old = 0, -1
        if inherits:
            # As the service manager does for a socket unit, and as it does kept open here too.
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.port = self.listener.getsockname()[1]
            self.address = f"127.0.0.1:{self.port}"

    def start(self) -> None:
        # "auto" is what the program itself turns into its pid: it cannot be known before it is started.
        activation = {"LISTEN_FDS": "1", "LISTEN_PID": "auto"} if self.listener else {}
        self.pid = self.launch(self.command, env=activation)
        if self.speaks:
            self.live_at()
        else:
            self.answering()

    def request(self) -> int:
        self.old, self.old_pid = os.pidfd_open(self.pid), self.pid
        now = nanoseconds()
        os.kill(self.pid, self.asked_by)
        return now

    def live_at(self) -> int:
        try:
            when, pid = self.live.next("line that says it is live").split()
        except Broken as broken:
            raise Broken(f"{self.command[0]}: {broken}: {self.said()}") from None
        self.pid = int(pid)
        return int(when)

    def settle(self) -> None:
        if self.speaks and self.pid == self.old_pid:
            self.live_at()
        try:
            self.gone(self.old, self.old_pid)
        except Broken as broken:
            raise Broken(f"{self.command[0]}: {broken}: {self.said()}") from None
        if not self.speaks:
            self.pid = self.answering()
        time.sleep(PAUSE)


class Restarting(Replacing):
    """A program that is stopped, and started anew once it has gone: what is left where nothing replaces a process."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        super().__init__(command, signal.SIGTERM)

    def live_at(self) -> int:
        if self.old >= 0:
            old, self.old = self.old, -1
            self.gone(old, self.old_pid)
            self.launch(self.command)
        return super().live_at()

    def settle(self) -> None:
        if self.old >= 0:
            self.live_at()


class Logging(Server):
    """A program that writes notices to standard error."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = executable(program)
        ours, self.errors = os.pipe()
        self.notices = Lines(ours)
        self.live_now = 0

    def notice(self, pattern: str) -> re.Match[str]:
        """The next notice of that kind; all before it are dropped."""
        deadline = time.monotonic() + STEP
        while time.monotonic() < deadline:
            found = re.search(pattern, self.notices.next(f"notice of {self.program}"))
            if found:
                return found
        raise Broken(f"{self.program}: no notice {pattern!r} after {STEP:.0f} s")

    def close(self) -> None:
        super().close()
        os.close(self.notices.end)
        os.close(self.errors)


NGINX_CONF = """
pid {folder}/pid;
error_log stderr notice;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address};
        location / {{
            default_type text/plain;
            return 200 "hello from pid $pid\\n";
        }}
    }}
}}
"""


class Nginx(Logging):
    """As its documentation upgrades the executable: SIGUSR2, then SIGWINCH and SIGQUIT to the old master."""

    def __init__(self) -> None:
        super().__init__("nginx")
        self.master = 0

    def start(self) -> None:
        configuration = self.folder / "nginx.conf"
        configuration.write_text(NGINX_CONF.format(folder=self.folder, address=self.address))
        pid = self.launch([self.program, "-p", self.folder, "-c", configuration], self.errors)
        self.started()
        # As long as its parent is there, the master takes it for a predecessor and itself for the successor.
        self.gone(os.pidfd_open(pid), pid)

    def started(self) -> None:
        # SIGWINCH is taken by a master in the background only, which has a session of its own.
        self.master = int(self.notice(r"(\d+)#\d+: start worker process \d+")[1])
        self.live_now = nanoseconds()
        self.groups.add(os.getpgid(self.master))

    def request(self) -> int:
        self.old, self.old_master = os.pidfd_open(self.master), self.master
        now = nanoseconds()
        os.kill(self.master, signal.SIGUSR2)
        return now

    def live_at(self) -> int:
        self.started()
        return self.live_now

    def settle(self) -> None:
        if self.master == self.old_master:
            self.started()
        os.kill(self.old_master, signal.SIGWINCH)
        os.kill(self.old_master, signal.SIGQUIT)
        self.gone(self.old, self.old_master)
        time.sleep(PAUSE)


HAPROXY_CFG = """
global
    stats socket {folder}/admin mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option idle-close-on-response
frontend hello
    bind {address}
    http-request return status 200 content-type text/plain lf-string "hello from pid %pid\\n"
"""


class Haproxy(Logging):
    """As its documentation reloads without a gap: master and worker, listeners passed on, SIGUSR2 to the master."""

    def __init__(self) -> None:
        super().__init__("haproxy")
        self.master = self.worker = 0
        # What it tells systemd. The master executes itself once more after it has said that loading was a success,
        # and loses a signal that comes meanwhile.
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(self.folder / "notify"))
        self.manager.settimeout(STEP)

    def start(self) -> None:
        configuration = self.folder / "haproxy.cfg"
        configuration.write_text(HAPROXY_CFG.format(folder=self.folder, address=self.address))
        notify = {"NOTIFY_SOCKET": str(self.folder / "notify")}
        self.master = self.launch([self.program, "-Ws", "-f", configuration], self.errors, notify)
        self.started()
        self.listening()

    def started(self) -> None:
        self.worker = int(self.notice(r"New worker \((\d+)\) forked")[1])
        self.notice("Loading success")
        self.live_now = nanoseconds()

    def listening(self) -> None:
        """Until the master takes signals again."""
        try:
            while b"READY=1" not in self.manager.recv(4096):
                pass
        except TimeoutError:
            raise Broken(f"{self.program}: the master is not ready after {STEP:.0f} s") from None

    def request(self) -> int:
        self.old, self.old_worker = os.pidfd_open(self.worker), self.worker
        now = nanoseconds()
        os.kill(self.master, signal.SIGUSR2)
        return now

    def live_at(self) -> int:
        self.started()
        return self.live_now

    def settle(self) -> None:
        if self.worker == self.old_worker:
            self.started()
        self.listening()
        self.gone(self.old, self.old_worker)
        time.sleep(PAUSE)

    def close(self) -> None:
        super().close()
        self.manager.close()


def executable(name: str) -> str:
    """Debian has daemons where the PATH of an ordinary user does not lead."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(name, path=path) or name


@dataclass(frozen=True)
class Kind:
    """A server that takes part. `make` starts nothing yet."""

    who: str
    program: Path | str
    """A path, of what is built here; or a name, of what is installed."""
    make: Callable[[], Server]
    note: str = ""

    @property
    def ours(self) -> bool:
        return self.who.startswith("libshellflip")

    def missing(self) -> str | None:
        """Why it cannot take part here."""
        if isinstance(self.program, Path):
            return None if self.program.exists() else f"benches/peers/build has not built {self.program.name}"
        return None if os.access(executable(self.program), os.X_OK) else f"{self.program} is not installed"


def from_c(who: str, name: str, note: str, *arguments: str, folder: Path = C_PROGRAMS, speaks: bool = False) -> Kind:
    program = folder / name
    command: list[str | Path] = [program, *arguments]
    return Kind(who, program, lambda: Replacing(command, USR1, scheme="tcp://", speaks=speaks), note)


def from_peers(who: str, name: str, asked_by: signal.Signals, note: str = "", *, inherits: bool = False) -> Kind:
    program = PEERS / name
    return Kind(who, program, lambda: Replacing([program], asked_by, inherits=inherits), note)


USR1, HUP = signal.SIGUSR1, signal.SIGHUP
CONTROL = "negative control"

C = from_c("libshellflip, C", "http_v1", "examples/c/http_epoll.c")
FLOOR = from_c("floor: posix_spawn at a signal", "bench_asked", "", speaks=True)
C_LIVE = from_c("libshellflip, C", "bench_live", "", speaks=True)
RUST = from_peers("libshellflip, Rust on tokio", "graceflip", USR1)
GO = from_peers("libshellflip, Go", "libshellflip", USR1)
TABLEFLIP = from_peers("tableflip, Go", "tableflip", HUP)
ECDYSIS = from_peers("ecdysis, tokio", "ecdysis", HUP)
SHELLFLIP = from_peers("shellflip, tokio", "shellflip", USR1, "socket activation", inherits=True)
SHELLFLIP_ALONE = from_peers("shellflip, tokio, SO_REUSEPORT", "shellflip", USR1, "without a service manager")
NGINX = Kind("nginx", "nginx", Nginx, "USR2, WINCH, QUIT")
HAPROXY = Kind("HAProxy", "haproxy", Haproxy, "reload of master and worker")
HYPER = Kind("hyper, stopped and started", PEERS / "hyper", lambda: Restarting([PEERS / "hyper"]), CONTROL)
CLOSE_AND_BIND = from_c("close, then bind", "control_server", CONTROL, "--mode", "close-and-bind", folder=RELEASE)
REUSEPORT = from_c("SO_REUSEPORT by hand", "control_server", CONTROL, "--mode", "reuseport", folder=RELEASE)
