"""From the request until the successor is live, in servers with more and more listeners."""

from __future__ import annotations

import statistics
from functools import partial

from harness import C_PROGRAMS, Contender, Context, Goal, Measure, Row, Skipped, command, in_turns, numbers

PROGRAM = C_PROGRAMS / "bench_listeners"
MOST = 10_000
MOST_IN_QUICK = 4_000
MORE_AT_1000_MS = 4.0
UPGRADES = 5


def who(count: int) -> str:
    return f"libshellflip, {count:,} listener{'' if count == 1 else 's'}"


def chain(count: int) -> list[float]:
    """Generations that replace each other, each with so many listeners; milliseconds."""
    return [us / 1000 for us in numbers(command([PROGRAM, str(count), str(UPGRADES)]))]


def measure(context: Context) -> Measure:
    result = Measure("listeners", "Request to live, by listeners", plot="lines", x_label="listeners")
    most = int(command([PROGRAM, "0"]))
    wanted = [1, 10, 100, 1000, MOST_IN_QUICK if context.quick else MOST]
    counts = sorted({min(count, most) for count in wanted})
    beyond = [count for count in wanted if count > most]
    if beyond:
        why = f"the hard limit of descriptors has room for {most:,}, at two for each and a few"
        result.skipped.append(Skipped(", ".join(f"{count:,} listeners" for count in beyond), why))
    contenders = [Contender(who(count), partial(chain, count)) for count in counts]
    taken = in_turns(contenders, context.rounds(full=12, quick=3))
    for count in counts:
        result.rows.append(
            Row(
                who(count),
                "ms",
                taken[who(count)],
                against=who(1) if count > 1 else None,
                x=count,
                series="libshellflip",
            )
        )
    if 1000 in counts:
        one, thousand = (result.row(who(count)) for count in (1, 1000))
        more = [
            [statistics.median(ours) - statistics.median(theirs)]
            for ours, theirs in zip(thousand.rounds, one.rounds, strict=True)
        ]
        result.rows.append(Row("libshellflip, what 1,000 take more than 1", "ms", more, goal=Goal(MORE_AT_1000_MS)))
        if counts[-1] > 1000:
            further = (result.row(who(counts[-1])).median - thousand.median) / (counts[-1] - 1000) * 1000
            until_then = statistics.median([value for values in more for value in values])
            result.lines.append(
                f"For each further 1,000 listeners, up to {counts[-1]:,}: {further:.1f} ms (the first 1,000: "
                f"{until_then:.1f} ms)."
            )
    return result
