"""Signals by Python's own means: handlers of signal.signal that ask the library and return.

They run in the main thread, under asyncio and uvloop too, between two bytecodes: one that is deep in a C call hears
of the signal when that returns.
"""

import signal
from _thread import get_ident

from ._ffi import REQUEST_NONE, REQUEST_STOP, REQUEST_UPGRADE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

    from .kinds import Request

#: SIGINT too: a first Ctrl-C finishes what is open, a second one shortens the drain to 1.5 seconds.
DEFAULT: "Mapping[int, int]" = {
    signal.SIGUSR1: REQUEST_UPGRADE,
    signal.SIGTERM: REQUEST_STOP,
    signal.SIGINT: REQUEST_STOP,
}


class Signals:
    """The handlers that one Flip has installed, and what was there before."""

    def __init__(self, wanted: "bool | Mapping[int, Request]", ask: "Callable[[int], object]") -> None:
        self._bindings = DEFAULT if wanted is True else {} if wanted is False else _checked(wanted)
        self._ask = ask
        self._before: dict[int, object] = {}
        self._masks: dict[int, set[int | signal.Signals]] = {}
        try:
            for number, request in self._bindings.items():
                before = signal.getsignal(number)
                # Ignored at the start, as under nohup: a default does not change that, an explicit wish does.
                if request != REQUEST_NONE and not (wanted is True and before is signal.SIG_IGN):
                    signal.signal(number, self._arrived)
                    self._before[number] = before
        except ValueError as error:
            where = "signals can be handled in the main thread only: make Flip there, or with signals=False"
            raise ValueError(where) from error
        except BaseException:  # SIGKILL, for one, cannot be handled
            self.restore()
            raise

    def _arrived(self, number: int, frame: "FrameType | None") -> None:
        self._ask(self._bindings[number])

    def before_fork(self) -> None:
        """Holds them back: one that reached the child before its handlers are gone would be lost, and a worker that
        is told to end as soon as it exists would stay."""
        self._masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def after_fork(self) -> None:
        """Lets them come, in the parent, and in the child, whose handlers are restored by then."""
        if (before := self._masks.pop(get_ident(), None)) is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def restore(self) -> None:
        """Puts back what was there, where the handler is still ours. Only the main thread can; elsewhere nothing
        happens, and a signal that comes asks a handle that is closed, which is harmless."""
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) == self._arrived:
                # None: it was installed by C code and cannot be named here.
                old: Any = signal.SIG_DFL if before is None else before
                try:
                    signal.signal(number, old)
                except ValueError:  # not the main thread
                    self._before[number] = before
                    return

    @property
    def installed(self) -> bool:
        """Whether a handler may still be ours."""
        return bool(self._before)


def _checked(wanted: "Mapping[int, Request]") -> dict[int, int]:
    from .kinds import Request

    return {signal.Signals(number): Request(request) for number, request in wanted.items()}
