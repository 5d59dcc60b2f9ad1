"""How much memory the processes of `resident` and `stall` have, and what of that this machine has room for."""

from __future__ import annotations

from dataclasses import dataclass

from harness import Context, Skipped, memory_available

MIB = 1 << 20
GIB = 1 << 30
ROOM = 2 * GIB
"""What is left to everybody else: a machine that is short of memory is slow in ways of its own."""


@dataclass(frozen=True)
class Size:
    """Resident memory of a process."""

    bytes: int

    @property
    def mib(self) -> int:
        return self.bytes // MIB

    @property
    def gib(self) -> float:
        return self.bytes / GIB

    def __str__(self) -> str:
        return f"{self.bytes // GIB} GiB" if self.bytes >= GIB else f"{self.mib} MiB"


SMALL = Size(16 * MIB)


def sizes(context: Context) -> tuple[list[Size], list[Skipped]]:
    """The small one first."""
    wanted = [SMALL, *(Size(gib * GIB) for gib in ([1] if context.quick else [1, 4, 8]))]
    available = memory_available()
    fit = [size for size in wanted if size.bytes + ROOM <= available or size is SMALL]
    why = f"{Size(available // GIB * GIB)} of memory are free, and {Size(ROOM)} of that are left alone"
    return fit, [Skipped(f"{size} resident", why) for size in wanted if size not in fit]
