"""Flip in one process: its calls, their errors, its end. A handle is one per process, so each test closes its own."""

from __future__ import annotations

import errno
import math
import os
import pathlib
import resource
import select
import socket
import threading
import time
import warnings
from collections.abc import Iterator

import pytest

import kit
from shellflip import Failure, Flip, FlipError, Listener, Request, Shutdown
from shellflip.config import milliseconds


@pytest.fixture
def flip() -> Iterator[Flip]:
    with Flip(signals=False, drain_timeout=20 * kit.SCALE) as flip:
        yield flip


def address_of(listener: Listener) -> str:
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def test_a_listener_is_a_socket_that_others_share(flip: Flip) -> None:
    listener = flip.listen("tcp://127.0.0.1:0?nodelay=1")
    assert isinstance(listener, socket.socket)
    assert listener.gettimeout() == 0
    assert not os.get_inheritable(listener.fileno())
    with pytest.raises(OSError, match="every generation"):
        listener.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ValueError, match="non-blocking"):
        listener.setblocking(True)
    with pytest.raises(ValueError, match="non-blocking"):
        listener.settimeout(None)
    listener.setblocking(False)
    listener.listen(1)
    listener.close()


def test_nothing_is_accepted_before_ready(flip: Flip) -> None:
    with flip.listen("tcp://127.0.0.1:0") as listener, kit.connect(address_of(listener)):
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(TimeoutError):
            flip.accept(listener, 0.05)
        flip.ready()
        accepted, _peer = listener.accept()
        accepted.close()


def test_an_event_loop_is_told_that_no_descriptor_is_left(flip: Flip) -> None:
    with flip.listen("tcp://127.0.0.1:0") as listener:
        flip.ready()
        with pytest.raises(BlockingIOError):
            listener.accept()  # the first one reads a module
        with kit.connect(address_of(listener)):
            kit.wait_for("the library rests", kit.library_rests)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                with pytest.raises(OSError, match="EMFILE") as caught:
                    listener.accept()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert caught.value.errno == errno.EMFILE, "asyncio then leaves the listener alone for a second"
            accepted, _peer = listener.accept()
            accepted.close()


def test_a_connection_counts_until_it_is_closed(flip: Flip) -> None:
    with flip.listen("tcp://127.0.0.1:0") as listener:
        flip.ready()
        with kit.connect(address_of(listener)), kit.connect(address_of(listener)):
            first = flip.accept(listener, 5)
            assert first is not None
            second, _peer = listener.accept()
            assert flip.connections == 2
            file = second.makefile()
            second.close()
            assert flip.connections == 2, "a file from makefile holds it open"
            file.close()
            assert flip.connections == 1
            first.close()
            first.close()
            assert flip.connections == 0


def test_a_connection_that_is_collected_does_not_hold_a_drain(flip: Flip) -> None:
    with flip.listen("tcp://127.0.0.1:0") as listener:
        flip.ready()
        with kit.connect(address_of(listener)), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            connection = flip.accept(listener, 5)
            assert flip.connections == 1
            del connection
            assert flip.connections == 0


def test_connections_of_a_kept_listener_are_not_counted(flip: Flip) -> None:
    with flip.listen("tcp://127.0.0.1:0?keep=always") as listener:
        flip.ready()
        with kit.connect(address_of(listener)):
            connection = flip.accept(listener, 5)
            assert connection is not None
            assert flip.connections == 0
            flip.request(Request.STOP)
            assert flip.wait(5) is Shutdown.STOP
        connection.close()
        with kit.connect(address_of(listener)):
            late = flip.accept(listener, 5)
            assert late is not None, "it outlives a stop"
            late.close()
        assert flip.connections == 0


def test_a_guard_counts_in_both_kinds_of_block(flip: Flip) -> None:
    import asyncio

    async def inside() -> int:
        async with flip.connection():
            return flip.connections

    with flip.connection():
        assert flip.connections == 1
        assert asyncio.run(inside()) == 2
    assert flip.connections == 0


def test_a_stop_ends_waiting_and_the_drain_waits_for_connections(flip: Flip) -> None:
    with flip.listen("tcp://127.0.0.1:0") as listener:
        flip.ready()
        assert not flip.stopping
        assert flip.wait(0.05) is None
        with kit.connect(address_of(listener)):
            connection = flip.accept(listener, 5)
            assert connection is not None
            threading.Timer(0.1, flip.request, [Request.STOP]).start()
            assert flip.accept(listener) is None
            assert flip.stopping
            assert flip.wait() is Shutdown.STOP
            with pytest.raises(BlockingIOError):
                listener.accept()
            with pytest.raises(TimeoutError):
                flip.drain(0.05)
            threading.Timer(0.1, connection.close).start()
            flip.drain()


def test_the_drain_time_out_is_a_flip_error() -> None:
    with Flip(signals=False, drain_timeout=0.1) as flip:
        flip.ready()
        flip.request(Request.STOP)
        with flip.connection():
            assert flip.wait(5) is Shutdown.STOP
            with pytest.raises(FlipError) as caught:
                flip.drain()
    assert caught.value.kind is Failure.DEADLINE
    assert caught.value.errno == errno.ETIME


def test_a_detach_is_told_once(flip: Flip) -> None:
    flip.ready()
    flip.request(Request.DETACH)
    assert flip.wait(5) is Shutdown.DETACH
    assert flip.wait(0.1) is None
    flip.request(Request.STOP)
    assert flip.wait(5) is Shutdown.STOP


def test_a_loop_of_ones_own_watches_one_descriptor(flip: Flip) -> None:
    flip.ready()
    poller = select.poll()
    poller.register(flip, select.POLLIN)
    while poller.poll(0):
        assert flip.handle_events() is None
    threading.Timer(0.1, flip.request, [Request.STOP]).start()
    kind = None
    while kind is None:
        assert poller.poll(5000 * kit.SCALE)
        kind = flip.handle_events()
    assert kind is Shutdown.STOP
    assert poller.poll(0)


def test_system_errors_are_their_subclass_of_oserror(flip: Flip, tmp_path: pathlib.Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="EADDRINUSE") as caught:
            flip.listen(f"tcp://127.0.0.1:{other.getsockname()[1]}")
    assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(FileNotFoundError):
        flip.listen(f"unix://{tmp_path}/none/a.sock")
    with pytest.raises(OSError, match="tcp://") as invalid:
        flip.listen("tcp://somewhere:80")
    assert invalid.value.errno == errno.EINVAL


def test_what_is_asked_too_early_is_a_flip_error(flip: Flip) -> None:
    with pytest.raises(FlipError) as caught:
        flip.upgrade()
    assert caught.value.kind is Failure.NOT_READY


def test_a_program_that_cannot_be_started(flip: Flip) -> None:
    flip.ready()
    flip.set_command(["/nonexistent/program"])
    with pytest.raises(FlipError, match="ENOENT") as caught:
        flip.upgrade()
    assert caught.value.kind is Failure.SPAWN
    assert caught.value.errno == errno.ENOENT
    assert flip.successor_pid is None


def test_descriptors_are_passed_on_taken_and_forgotten(flip: Flip) -> None:
    with open(os.devnull) as file:
        flip.add("config", file)
        flip.add(b"\xff", file.fileno())
    assert flip.take("config") is None, "nothing was inherited"
    assert flip.inherit("tcp://127.0.0.1:1") is None
    assert flip.inherited() == []
    assert flip.forget("config")
    assert not flip.forget("config")


def test_generation_0_has_no_state_and_no_predecessor(flip: Flip) -> None:
    assert flip.generation == 0
    assert flip.state is None
    assert flip.state_file() is None
    flip.wait_predecessor(5)


def test_there_is_one_at_a_time(flip: Flip) -> None:
    with pytest.raises(FlipError) as caught:
        Flip(signals=False)
    assert caught.value.errno == errno.EBUSY


def test_a_closed_one_says_so() -> None:
    flip = Flip(signals=False)
    flip.close()
    flip.close()
    assert flip.closed
    for call in (flip.ready, flip.wait, flip.drain, flip.fileno, flip.upgrade, flip.connection):
        with pytest.raises(ValueError, match="closed"):
            call()
    with Flip(signals=False) as another:
        another.ready()


def test_close_wakes_the_threads_that_wait() -> None:
    flip = Flip(signals=False)
    listener = flip.listen("tcp://127.0.0.1:0")
    flip.ready()
    ended: list[str] = []

    def waits(name: str) -> None:
        try:
            flip.accept(listener) if name == "accept" else flip.wait()
        except ValueError:
            ended.append(name)

    threads = [threading.Thread(target=waits, args=(name,)) for name in ("accept", "wait")]
    for thread in threads:
        thread.start()
    watched = flip.watch(lambda kind: ended.append("never"))
    time.sleep(0.1)
    flip.close()
    for thread in threads:
        thread.join(10 * kit.SCALE)
    assert not watched.is_alive()
    assert sorted(ended) == ["accept", "wait"]
    listener.close()


def test_unknown_arguments_and_times_that_are_none() -> None:
    with pytest.raises(TypeError, match="no_such"):
        Flip(signals=False, no_such=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="time-out"):
        Flip(signals=False, drain_timeout=-1)
    with pytest.raises(OSError, match=r"time-out|year|milliseconds") as caught:
        Flip(signals=False, upgrade_timeout=0)
    assert caught.value.errno == errno.EINVAL
    with Flip(signals=False, watchdog=True, fd_store=False, max_draining=0, probation=0.5, pid_file=None) as flip:
        flip.ready()


def test_times_are_rounded_up_and_infinity_is_the_longest() -> None:
    longest = 2**31 - 1
    times = {None: -1, 0: 0, 1e-9: 1, 0.0015: 2, 1: 1000, 0.05: 50, 1e300: longest, math.inf: longest}
    assert {seconds: milliseconds(seconds) for seconds in times} == times
    for wrong in (-1e-9, -math.inf, math.nan):
        with pytest.raises(ValueError, match="time-out"):
            milliseconds(wrong)


def test_what_c_would_cut_short_is_refused(flip: Flip) -> None:
    for call in (
        lambda: flip.listen("tcp://127.0.0.1:0\0junk"),
        lambda: flip.set_env("A", "one\0two"),
        lambda: flip.set_command(["a", "one\0two"]),
        lambda: flip.take(b"a\0b"),
    ):
        with pytest.raises(ValueError, match="null byte"):
            call()
    with pytest.raises(TypeError, match="list of words"):
        flip.set_command("python3 server.py")


def test_a_request_that_is_none_says_so_itself(flip: Flip) -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        flip.listen("tcp://192.0.2.1:1")
    with pytest.raises(OSError, match=r"Invalid argument$"):
        flip.request(99)  # type: ignore[arg-type]


@pytest.mark.parametrize("forever", [90 * 86400, math.inf])
def test_a_very_long_time_can_be_waited_for(forever: float, flip: Flip) -> None:
    flip.ready()
    threading.Timer(0.05, flip.request, [Request.STOP]).start()
    assert flip.wait(forever) is Shutdown.STOP


def test_a_copy_of_a_connection_is_not_counted(flip: Flip) -> None:
    with flip.listen("tcp://127.0.0.1:0") as listener:
        flip.ready()
        with kit.connect(address_of(listener)) as client:
            connection = flip.accept(listener, 5)
            assert connection is not None
            connection.settimeout(3)
            copy = connection.dup()
            assert (flip.connections, copy.gettimeout(), copy.get_inheritable()) == (1, 3, False)
            connection.close()
            assert flip.connections == 0
            client.sendall(b"more")
            assert copy.recv(10) == b"more"
            copy.close()
    assert flip.connections == 0


def test_a_hook_that_exits_does_not_end_the_thread_of_watch() -> None:
    asked: list[str] = []

    def check(who: str) -> None:
        asked.append(who)
        raise SystemExit(2)  # as argparse does

    over = threading.Event()
    with Flip(signals=False, command=["/bin/true"], on_upgrade=check) as flip:
        flip.ready()
        flip.watch(lambda why: over.set())
        for count in (1, 2):
            with pytest.raises(FlipError):
                flip.upgrade()
            assert len(asked) == count
        flip.request(Request.STOP)
        assert over.wait(20 * kit.SCALE)


def test_a_hook_may_close() -> None:
    made: list[Flip] = []
    with Flip(signals=False, command=["/bin/true"], on_upgrade=lambda who: made[0].close()) as flip:
        made.append(flip)
        flip.ready()
        flip.request(Request.UPGRADE)
        with pytest.raises(ValueError, match="closed"):
            flip.wait(20 * kit.SCALE)


def test_signals_need_the_main_thread() -> None:
    caught: list[Exception] = []

    def make() -> None:
        try:
            Flip()
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
    with Flip(signals=False):
        pass
