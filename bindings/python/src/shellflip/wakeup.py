"""That a signal is heard at once. CPython's own handler only sets a flag, which the main thread looks at between two
bytecodes: a signal that comes after the last look and before poll(2), or that the kernel gives to another thread,
would wait until the poll ends by itself. signal.set_wakeup_fd closes the gap.
"""

from __future__ import annotations

import os
import signal
import socket


class Wakeup:
    """A socket that becomes readable with every signal, while it is in use."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """What to poll."""
        return self._reader.fileno()

    def close(self) -> None:
        """Gives it back. On another thread than the main one it stays open for good: Python would write the numbers
        of signals into whatever had its descriptor next."""
        if self.release():
            self._reader.close()
            self._writer.close()
        else:
            _kept.append(self)

    def clear(self) -> bytes:
        """What has come."""
        try:
            return self._reader.recv(4096)
        except OSError:  # nothing, or closed
            return b""

    def begin(self) -> int | None:
        """For one poll: what was set before, for `end`. None: this is not the main thread, which alone runs signal
        handlers."""
        try:
            return signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        except ValueError:
            return None

    def end(self, before: int | None) -> None:
        """The end of `begin`."""
        if before is None:
            return
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        numbers = self.clear()
        if numbers and before not in (-1, self._writer.fileno()):
            _write_quietly(before, numbers)  # an event loop's, which is not running now

    def hold(self) -> bool:
        """For as long as an event loop runs, where nobody else has set one: the loop's own serves as well."""
        before = self.begin()
        if before is None:
            return False
        if before in (-1, self._writer.fileno()):
            return True
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        return False

    def release(self) -> bool:
        """The end of `hold`; in a forked child too, whose signals are not its parent's. False: it may be in use
        still, since this is not the main thread, which alone has set it."""
        if self._writer.fileno() < 0:
            return True
        try:
            before = signal.set_wakeup_fd(-1)
        except ValueError:
            return False
        if before not in (-1, self._writer.fileno()):
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        return True


#: Closed on another thread.
_kept: list[Wakeup] = []


def _write_quietly(descriptor: int, numbers: bytes) -> None:
    try:
        os.write(descriptor, numbers)
    except OSError:
        return  # closed, or full, which wakes it as well
