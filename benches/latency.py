"""From the request until the successor is live: a small C server, beside the least that a process costs."""

from harness import C_PROGRAMS, Contender, Context, Goal, Measure, Row, command, in_turns, numbers

FLOOR = "floor: posix_spawn and one byte"
OURS = "libshellflip, C"


def measure(context: Context) -> Measure:
    result = Measure("latency", "Request to live, small server", plot="bars")
    each = 20
    contenders = [
        Contender(FLOOR, lambda: numbers(command([C_PROGRAMS / "bench_floor", str(each)]))),
        Contender(OURS, lambda: numbers(command([C_PROGRAMS / "bench_upgrade", str(each)]))),
    ]
    taken = in_turns(contenders, context.rounds(full=20, quick=5))
    for who, rounds in taken.items():
        in_ms = [[sample / 1000 for sample in samples] for samples in rounds]
        ours = who == OURS
        result.rows.append(
            Row(
                who,
                "ms",
                in_ms,
                against=None if who == FLOOR else FLOOR,
                goal=Goal(1.5, ratio=True) if ours else None,
            )
        )
    return result
