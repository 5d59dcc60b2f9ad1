"""State from one generation to the next: what passes between the host's last write and the successor's first look."""

from __future__ import annotations

from harness import (
    C_PROGRAMS,
    Context,
    Goal,
    Measure,
    Row,
    Skipped,
    command,
    memory_available,
    named_numbers,
    together_in_turns,
)
from sizes import GIB, MIB, ROOM, Size

FLOOR = "floor: the host writes it into a memfd"
WHOLE = "libshellflip, from the first write until it can be used"
BEYOND = "libshellflip, of that after the host's last write"
STREAM = "over a socket pair into memory, as shellflip and ecdysis do"
PRINTED = {"memfd": FLOOR, "whole": WHOLE, "beyond": BEYOND, "stream": STREAM}


def measure(context: Context) -> Measure:
    size = Size(256 * MIB) if context.quick else Size(GIB)
    result = Measure("state", f"{size} of state to the successor", plot="bars")
    if 2 * size.bytes + ROOM > memory_available():
        result.skipped.append(Skipped(str(size), "too little memory is free"))
        return result

    def one_turn() -> dict[str, list[float]]:
        printed = named_numbers(command([C_PROGRAMS / "bench_state", str(size.mib), "1"]))
        return {who: [us / 1000 for us in printed[name]] for name, who in PRINTED.items()}

    taken = together_in_turns([one_turn], context.rounds(full=20, quick=6))
    for who in PRINTED.values():
        result.rows.append(
            Row(
                who,
                "ms",
                taken[who],
                against=FLOOR if who in (WHOLE, STREAM) else None,
                goal=Goal(1.0) if who == BEYOND else None,
            )
        )
    result.lines.append(
        "It can be used once flip_take_state has returned, the state is mapped and its first and last byte are read. "
        "The socket pair is a program of this benchmark: 1 MiB a call, the reader's memory fresh; the copies that "
        "the hosts of these libraries make besides, to serialise and to parse, are on neither side."
    )
    return result
