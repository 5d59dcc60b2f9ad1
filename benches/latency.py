"""From the request until the successor is live: small servers that nobody talks to, beside the least that a process
costs.

From the signal to the moment when the new process's library says that it is live, which the new process writes
down itself (benches/servers.py). What follows, until the old process is gone and the next request may come, does not
count. For libshellflip that moment is when flip_ready returns 0, which is after the predecessor has let it serve; the
others say it as soon as they have told their predecessor.

A process that has just waited finds cold caches, and one that asks itself in a loop does not: each is compared with a
floor that is asked in the same way.
"""

from collections.abc import Callable
from statistics import median

import servers
from harness import C_PROGRAMS, Broken, Contender, Context, Goal, Measure, Row, Skipped, command, in_turns, numbers
from servers import Kind

FLOOR = "floor: posix_spawn and one byte, by call"
RELEASED = "libshellflip, C, by call"

KINDS = [
    servers.FLOOR,
    servers.C_LIVE,
    servers.RUST,
    servers.SHELLFLIP,
    servers.ECDYSIS,
    servers.GO,
    servers.TABLEFLIP,
    servers.NGINX,
    servers.HAPROXY,
]
SLOW = 3
"""Upgrades in a round for those whose old process needs a long time to go."""


def upgrades(context: Context, kind: Kind, count: int) -> Callable[[], list[float]]:
    def once() -> list[float]:
        samples = []
        with kind.make() as server:
            server.start()
            for _ in range(count):
                asked = server.request()
                samples.append((server.live_at() - asked) / 1e6)
                server.settle()
        return samples

    def run() -> list[float]:
        try:
            return once()
        except Broken as broken:
            if kind.ours:
                raise
            context.note(f"{kind.who}, once more: {broken}")
            return once()

    return run


def program(name: str, count: int) -> Callable[[], list[float]]:
    return lambda: [sample / 1000 for sample in numbers(command([C_PROGRAMS / name, str(count)]))]


def measure(context: Context) -> Measure:
    result = Measure("latency", "Request to live, small server", plot="bars")
    each = 10
    contenders = [
        Contender(FLOOR, program("bench_floor", each)),
        Contender(RELEASED, program("bench_upgrade", each)),
    ]
    for kind in KINDS:
        why = kind.missing()
        if why:
            result.skipped.append(Skipped(kind.who, why))
        else:
            count = SLOW if kind in (servers.ECDYSIS, servers.HAPROXY) else each
            contenders.append(Contender(kind.who, upgrades(context, kind, count)))
    taken = in_turns(contenders, context.rounds(full=20, quick=4))
    notes = {kind.who: kind.note for kind in KINDS} | {RELEASED: "flip_upgrade to its return"}
    for who, rounds in taken.items():
        result.rows.append(
            Row(
                who,
                "ms",
                rounds,
                against=None if who.startswith("floor") else FLOOR if who == RELEASED else servers.FLOOR.who,
                goal=Goal(1.5, ratio=True) if who in (servers.C_LIVE.who, RELEASED) else None,
                note=notes.get(who, ""),
            )
        )
    result.lines.append(below_every_peer(result))
    return result


def below_every_peer(result: Measure) -> str:
    """The goal that is no number: round by round, so that a slow minute hits both."""
    ours = result.row(servers.C_LIVE.who)
    peers = [row for row in result.rows if not row.who.startswith(("floor", "libshellflip"))]
    faster = [row.who for row in peers if median(ours.ratios(row)) >= 1]
    if not peers:
        return "Below every peer: there is none here"
    return f"{ours.who} below every peer: {'missed: ' + ', '.join(faster) if faster else 'held'}"
