"""From the request until the successor is live, in processes that have more and more memory resident."""

from __future__ import annotations

from functools import partial

from harness import C_PROGRAMS, Context, Goal, Measure, Row, command, named_numbers, together_in_turns
from sizes import SMALL, Size, sizes

WAYS = {"spawn": "floor: posix_spawn and one byte", "fork": "fork, exec and one byte", "upgrade": "libshellflip"}
EACH = 8


def who(way: str, size: Size) -> str:
    return f"{WAYS[way]}, {size}"


def one_process(size: Size) -> dict[str, list[float]]:
    """Fills the memory once and starts programs in all ways in turns; milliseconds."""
    printed = named_numbers(command([C_PROGRAMS / "bench_resident", str(size.mib), str(EACH)]))
    return {who(way, size): [us / 1000 for us in printed[way]] for way in WAYS}


def measure(context: Context) -> Measure:
    fit, skipped = sizes(context)
    taken = together_in_turns([partial(one_process, size) for size in fit], context.rounds(full=6, quick=4))
    result = Measure(
        "resident",
        "Request to live, by resident memory",
        skipped=skipped,
        plot="lines",
        x_label="GiB resident in the process that starts the other",
    )
    for way, series in WAYS.items():
        for size in fit:
            compared = size is not SMALL
            result.rows.append(
                Row(
                    who(way, size),
                    "ms",
                    taken[who(way, size)],
                    against=who(way, SMALL) if compared else None,
                    goal=Goal(1.2, ratio=True) if compared and way == "upgrade" else None,
                    x=size.gib,
                    series=series,
                )
            )
    result.lines.append(f"The ratio is to the same with {SMALL} resident. Pages of 4 KiB, all touched.")
    return result
