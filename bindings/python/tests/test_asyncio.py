"""Flip in an event loop of this process: who waits for what at once, and what its end means to them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import kit
from shellflip import Flip, FlipError, Request, Shutdown
from shellflip.asgi import stopped

LONG = 20 * kit.SCALE


def run(body: Callable[[Flip], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """With a Flip that is ready; what the loop complains about is an error."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with Flip(signals=False, **settings) as flip:
            await flip.aready()
            await asyncio.wait_for(body(flip), LONG)

    asyncio.run(main())
    assert not complaints


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    await asyncio.wait_for(look(), LONG)


def test_any_number_of_tasks_may_wait_for_the_drain() -> None:
    async def body(flip: Flip) -> None:
        async with flip.connection():
            flip.request(Request.STOP)
            await stopped(flip)
            waiting = [asyncio.create_task(flip.adrain()) for _ in range(3)]
            with pytest.raises(TimeoutError):
                await flip.adrain(0.05)
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)

    run(body)


def test_close_tells_whoever_waits() -> None:
    async def body(flip: Flip) -> None:
        waiting = asyncio.create_task(flip.wait_shutdown())
        await asyncio.sleep(0)
        flip.close()
        with pytest.raises(ValueError, match="closed"):
            await waiting

    run(body)


def test_close_on_another_thread_tells_who_waits_for_the_drain() -> None:
    async def body(flip: Flip) -> None:
        guard = flip.connection()
        guard.__enter__()
        flip.request(Request.STOP)
        await stopped(flip)
        waiting = asyncio.create_task(flip.adrain())
        await asyncio.sleep(0.05)
        await asyncio.to_thread(flip.close)
        with pytest.raises((ValueError, FlipError)):
            await waiting

    run(body)


def test_after_a_close_on_another_thread_signals_are_written_nowhere() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))

    async def main() -> None:
        flip = Flip(signals=False)
        await flip.aready()
        await asyncio.to_thread(flip.close)
        pairs = [socket.socketpair() for _ in range(16)]
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: bool(heard))
        for one, other in pairs:
            for end in (one, other):
                end.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    assert not end.recv(10), "a signal's number"
                end.close()

    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_datagram_transport_is_left_alone_at_shutdown() -> None:
    async def body(flip: Flip) -> None:
        datagrams, listener = flip.listen("udp://127.0.0.1:0"), flip.listen("tcp://127.0.0.1:0")
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=datagrams)
        server = await asyncio.start_server(lambda _, writer: writer.close(), sock=listener)
        flip.request(Request.STOP)
        await stopped(flip)
        # From now on it is another process's to accept.
        assert not loop.remove_reader(listener.fileno())
        transport.close()
        server.close()

    run(body)


def test_a_loop_in_another_thread_is_refused_while_one_is_running() -> None:
    async def body(flip: Flip) -> None:
        refused: list[BaseException] = []

        def other() -> None:
            try:
                asyncio.run(flip.wait_shutdown())
            except RuntimeError as error:
                refused.append(error)

        waiting = asyncio.create_task(flip.wait_shutdown())
        await asyncio.sleep(0)
        await asyncio.to_thread(other)
        assert "another thread" in str(refused)
        flip.request(Request.STOP)
        assert await waiting is Shutdown.STOP

    run(body)


def test_a_failure_does_not_end_what_is_done_about_the_one_before() -> None:
    told: list[str] = []

    async def on_failure(failure: FlipError) -> None:
        told.append("began")
        await until(lambda: told.count("began") == 2)
        told.append("ended")

    async def body(flip: Flip) -> None:
        for number in (1, 2):
            flip.request(Request.UPGRADE)
            await until(lambda number=number: told.count("began") == number)  # type: ignore[misc]
        await until(lambda: told.count("ended") == 2)

    run(body, command=["/bin/false"], on_failure=on_failure)


def test_the_thread_of_the_loop_cannot_wait_for_an_upgrade_from_its_first_moment_on() -> None:
    async def body(flip: Flip) -> None:
        with pytest.raises(OSError, match="would wait for itself") as raised:
            flip.upgrade()
        assert raised.value.errno == errno.EDEADLK
        # Another thread can.
        with pytest.raises(FlipError):
            await asyncio.to_thread(flip.upgrade)

    run(body, command=["/bin/false"], on_upgrade=lambda who: None, upgrade_timeout=LONG / 4)


def test_threads_that_only_once_read_events_may_upgrade() -> None:
    with Flip(signals=False, command=["/bin/false"], on_upgrade=lambda who: None) as flip:
        flip.ready()
        assert flip.wait(0.01) is None  # reads them here
        over = threading.Event()
        watcher = flip.watch(lambda why: over.set())

        def fails() -> bool:
            try:
                flip.upgrade()
            except FlipError:
                return True
            except OSError:  # EDEADLK, until the watcher has looked
                return False
            raise AssertionError("/bin/false took over")

        kit.wait_for("an upgrade that fails for what it runs", fails)
        flip.request(Request.STOP)
        assert over.wait(LONG)
        watcher.join()
