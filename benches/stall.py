"""The longest time that a thread which writes to memory is held up while its process starts a successor."""

from __future__ import annotations

from functools import partial

from harness import C_PROGRAMS, Context, Goal, Measure, Row, command, named_numbers, together_in_turns
from sizes import Size, sizes

WAYS = {
    "nothing": "floor: nothing is started",
    "spawn": "posix_spawn",
    "fork": "fork and exec",
    "upgrade": "libshellflip",
}
EACH = 5


def who(way: str, size: Size) -> str:
    return f"{WAYS[way]}, {size}"


def one_process(size: Size) -> dict[str, list[float]]:
    """Fills the memory once and starts programs in all ways in turns; milliseconds."""
    printed = named_numbers(command([C_PROGRAMS / "bench_stall", str(size.mib), str(EACH)]))
    return {who(way, size): [us / 1000 for us in printed[way]] for way in WAYS}


def measure(context: Context) -> Measure:
    fit, skipped = sizes(context)
    taken = together_in_turns([partial(one_process, size) for size in fit], context.rounds(full=6, quick=4))
    result = Measure(
        "stall",
        "Longest stall of a writing thread, by resident memory",
        skipped=skipped,
        plot="lines",
        x_label="GiB resident in the process that starts the other",
    )
    for way, series in WAYS.items():
        for size in fit:
            result.rows.append(
                Row(
                    who(way, size),
                    "ms",
                    taken[who(way, size)],
                    against=who("nothing", size) if way != "nothing" else None,
                    goal=Goal(0.5) if way == "upgrade" else None,
                    x=size.gib,
                    series=series,
                )
            )
    result.lines.append(
        "The longest gap between two writes within 50 ms from the request on, or until the program has answered "
        "where that takes longer. It holds what the scheduler takes away as well: the first rows are that alone."
    )
    return result
