"""What is imported when: little before a successor serves, all that it may need later soon after."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

import kit
import shellflip
from shellflip import Flip, Request, Shutdown, _ffi


def run(code: str, **env: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60 * kit.SCALE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_little_is_imported_before_a_process_serves() -> None:
    # Each module takes a successor a tenth of a millisecond, an enumeration or threading several.
    code = """
import ctypes, socket, sys
before = set(sys.modules)
from shellflip import Flip, FlipError
with Flip() as flip, flip.listen("tcp://127.0.0.1:0"):
    flip.ready()
    print(*sorted(set(sys.modules) - before))
"""
    found = set(run(code).split())
    ours = {name for name in found if name.startswith("shellflip")}
    modules = ("_ffi", "config", "errors", "flip", "listener", "signals")
    assert ours == {"shellflip", *(f"shellflip.{name}" for name in modules)}
    assert found - ours <= {"atexit", "signal"}


def test_the_library_is_loaded_with_the_package() -> None:
    # It looks at the directory and the signals that the next generation starts with.
    code = "import {}, pathlib; print('libshellflip.so' in pathlib.Path('/proc/self/maps').read_text())"
    for module in ("shellflip", "shellflip.control"):
        assert run(code.format(module)) == "True\n"


def test_every_name_is_there_however_it_is_asked_for() -> None:
    for name in shellflip.__all__:
        assert run(f"from shellflip import {name}; print({name} is not None)") == "True\n"
        assert run(f"import shellflip; print(shellflip.{name} is not None)") == "True\n"
    assert run("from shellflip import *; print(Failure.STATE.value, control.__name__)") == "6 shellflip.control\n"
    assert set(shellflip.__all__) <= set(run("import shellflip; print(*dir(shellflip))").split())
    with pytest.raises(AttributeError, match="no_such"):
        shellflip.no_such  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="flip_no_such"):
        _ffi.lib.flip_no_such  # noqa: B018


def test_a_process_goes_on_when_its_package_is_replaced(tmp_path: pathlib.Path) -> None:
    # As a deployment does before it asks for the upgrade.
    copy = tmp_path / "shellflip"
    shutil.copytree(pathlib.Path(shellflip.__file__).parent, copy)
    code = f"""
import shutil, socket
from shellflip import Flip
assert Flip.__module__ == "shellflip.flip" and "{copy}" in __import__("shellflip").__file__
with Flip() as flip:
    listener = flip.listen("tcp://127.0.0.1:0")
    flip.ready()
    try:
        flip.accept(listener, 0)
    except TimeoutError:
        pass
    shutil.rmtree("{copy}")
    with socket.create_connection(listener.getsockname()), flip.accept(listener), flip.connection():
        print(flip.connections, flip.generation, flip.status()["state"], flip.state)
    from shellflip import FlipError, Guard, Failure, Request, control
    flip.set_command(["/nonexistent"])
    try:
        flip.upgrade()
    except FlipError as error:
        print(error.kind.name)
    try:
        control.status("unix:///nonexistent")
    except OSError as error:
        print(type(error).__name__)
    flip.request(Request.STOP)
    print(flip.accept(listener), flip.wait().name)
    listener.close()
    flip.drain()
"""
    said = run(code, PYTHONPATH=str(tmp_path), SHELLFLIP_LIBRARY=_ffi.library_path())
    assert said == "2 0 ready None\nSPAWN\nFileNotFoundError\nNone STOP\n"


def test_a_fork_in_the_middle_of_an_import_leaves_the_child_able_to_import() -> None:
    # A thread that waits loads what is needed later; the child has the module's lock and not the thread that held it.
    code = """
import importlib.abc, os, signal, sys, threading, warnings
from shellflip import Flip
warnings.simplefilter("ignore", DeprecationWarning)
begun, goes_on = threading.Event(), threading.Event()
class Pause(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "shellflip.connections":
            begun.set()
            goes_on.wait()
with Flip() as flip:
    flip.ready()
    sys.meta_path.insert(0, Pause())
    flip.watch(print)
    begun.wait()
    os.register_at_fork(before=goes_on.set)  # called before those that were registered earlier
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        with flip.connection():
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run(code) == "0\n"


def test_shutdown_leaves_a_descriptor_alone_that_was_a_listeners() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        async with Flip(signals=False) as flip:
            listener = flip.listen("tcp://127.0.0.1:0")
            await flip.aready()
            number = listener.fileno()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                listener.close()
                os.dup2(ours.fileno(), number)
                came: asyncio.Future[bytes] = loop.create_future()
                loop.add_reader(number, lambda: came.set_result(os.read(number, 1)))
                flip.request(Request.STOP)
                assert await flip.wait_shutdown() is Shutdown.STOP
                theirs.send(b"x")
                try:
                    return await asyncio.wait_for(came, 10 * kit.SCALE)
                finally:
                    loop.remove_reader(number)
                    os.close(number)

    assert asyncio.run(main()) == b"x"


def test_the_first_connection_may_take_the_last_descriptor() -> None:
    code = """
import os, resource, socket, sys
sys.path.insert(0, os.environ["TESTS"])
import kit
from shellflip import Flip
assert "shellflip.connections" not in sys.modules
with Flip(signals=False) as flip, flip.listen("tcp://127.0.0.1:0") as listener:
    flip.ready()
    with socket.create_connection(listener.getsockname()) as client:
        kit.wait_for("the library rests", kit.library_rests)
        last = os.dup(0)
        os.close(last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        accepted, _peer = listener.accept()
        print(accepted.fileno() == last, flip.connections)
        accepted.close()
"""
    assert run(code, TESTS=str(pathlib.Path(__file__).parent)) == "True 1\n"
