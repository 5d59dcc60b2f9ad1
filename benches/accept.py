"""Taking a connection from a full queue: flip_accept beside plain accept4, in the accepting thread's own time."""

from harness import C_PROGRAMS, Contender, Context, Goal, Measure, Row, command, in_turns, numbers

PLAIN = "accept4 on a listener that blocks"
OURS = "flip_accept, flip_conn_end"
WAYS = {PLAIN: "blocking", "poll, then accept4": "poll", OURS: "shellflip"}


def measure(context: Context) -> Measure:
    result = Measure("accept", "Accept of one connection, 400 queued", plot="bars")

    def contender(who: str, way: str) -> Contender:
        return Contender(who, lambda: numbers(command([C_PROGRAMS / "bench_accept", way, "10"])))

    taken = in_turns([contender(who, way) for who, way in WAYS.items()], context.rounds(full=40, quick=15))
    for who, rounds in taken.items():
        result.rows.append(
            Row(
                who,
                "µs",
                rounds,
                against=None if who == PLAIN else PLAIN,
                goal=Goal(1.1, ratio=True) if who == OURS else None,
                note="what can be woken, without a library" if who not in (PLAIN, OURS) else "",
            )
        )
    return result
