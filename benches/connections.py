"""Counting a connection: begun and ended, by one thread and by two at once, beside the ways of tokio and hyper."""

import os
import statistics
from pathlib import Path

from harness import C_PROGRAMS, TARGET, Contender, Context, Goal, Measure, Row, Skipped, command, in_turns, numbers

COUNTING = TARGET / "bench-counting" / "release" / "counting"
FLOOR = "floor: one shared atomic counter"
OURS = "flip_conn_begin, flip_conn_end"
WAYS: dict[str, list[str | Path]] = {
    FLOOR: [C_PROGRAMS / "bench_connections", "atomic"],
    OURS: [C_PROGRAMS / "bench_connections", "shellflip"],
    "tokio-util: TaskTracker token": [COUNTING, "task_tracker"],
    "hyper-util: GracefulShutdown watcher": [COUNTING, "graceful_shutdown"],
}


def named(who: str, threads: int) -> str:
    return f"{who}, {threads} thread{'s' if threads > 1 else ''}"


def measure(context: Context) -> Measure:
    result = Measure("connections", "Begin and end of one connection", plot="bars")
    ms = str(context.rounds(full=200, quick=100))
    together = [1, 2] if len(os.sched_getaffinity(0)) > 1 else [1]
    if together == [1]:
        result.skipped.append(Skipped("2 threads", "one processor: no two threads count at once"))

    def contender(who: str, threads: int) -> Contender:
        arguments = [*WAYS[who], str(threads), ms]
        return Contender(named(who, threads), lambda: numbers(command(arguments)))

    taken = in_turns([contender(who, threads) for threads in together for who in WAYS], context.rounds(20, 5))
    for threads in together:
        for who in WAYS:
            result.rows.append(
                Row(
                    named(who, threads),
                    "ns",
                    taken[named(who, threads)],
                    against=None if who == FLOOR else named(FLOOR, threads),
                    goal=Goal(10) if who == OURS else None,
                )
            )
    for who in WAYS if together == [1, 2] else []:
        alone, two = result.row(named(who, 1)), result.row(named(who, 2))
        growth = 2 * statistics.median(alone.ratios(two))
        held = f" (goal ≥ 1: {'held' if growth >= 1 else 'missed'})" if who == OURS else ""
        result.lines.append(f"{who}: two threads count {growth:.2f} × as many connections a second as one{held}")
    return result
