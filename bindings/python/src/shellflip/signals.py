"""Signals by Python's own means: handlers of signal.signal that ask the library and return.

They run in the main thread, under asyncio and uvloop too, between two bytecodes: one that is deep in a C call hears
of the signal when that returns.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType

from .config import Request

#: SIGINT too: a first Ctrl-C finishes what is open, a second one shortens the drain to 1.5 seconds.
DEFAULT: Mapping[int, Request] = {
    signal.SIGUSR1: Request.UPGRADE,
    signal.SIGTERM: Request.STOP,
    signal.SIGINT: Request.STOP,
}


class Signals:
    """The handlers that one Flip has installed, and what was there before."""

    def __init__(self, wanted: bool | Mapping[int, Request], ask: Callable[[Request], object]) -> None:
        bindings = {} if wanted is False else DEFAULT if wanted is True else wanted
        self._bindings = {signal.Signals(number): Request(request) for number, request in bindings.items()}
        self._ask = ask
        self._before: dict[signal.Signals, object] = {}
        self._masks = threading.local()
        if self._bindings and threading.current_thread() is not threading.main_thread():
            raise ValueError("signals can be handled in the main thread only: make Flip there, or with signals=False")
        try:
            for number, request in self._bindings.items():
                before = signal.getsignal(number)
                # Ignored at the start, as under nohup: a default does not change that, an explicit wish does.
                if request is not Request.NONE and not (wanted is True and before is signal.SIG_IGN):
                    signal.signal(number, self._arrived)
                    self._before[number] = before
        except BaseException:  # SIGKILL, for one, cannot be handled
            self.restore()
            raise

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._ask(self._bindings[signal.Signals(number)])

    def before_fork(self) -> None:
        """Holds them back: one that reached the child before its handlers are gone would be lost, and a worker that
        is told to end as soon as it exists would stay."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def after_fork(self) -> None:
        """Lets them come, in the parent, and in the child, whose handlers are restored by then."""
        if (before := vars(self._masks).pop("before", None)) is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def restore(self) -> None:
        """Puts back what was there, where the handler is still ours. Only the main thread can; elsewhere nothing
        happens, and a signal that comes asks a handle that is closed, which is harmless."""
        if threading.current_thread() is not threading.main_thread():
            return
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) == self._arrived:
                # None: it was installed by C code and cannot be named here.
                signal.signal(number, signal.SIG_DFL if before is None else before)  # type: ignore[arg-type]
