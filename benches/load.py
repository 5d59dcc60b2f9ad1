"""Servers that are replaced under the demo's load: what fails, and how much longer answers take.

32 keep-alive connections that send their next request with the last answer, and one stream of new connections;
nothing is tried again. Each server is loaded twice in a round, with and without upgrades, for the same time.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import servers
from harness import RELEASE, Broken, Contender, Context, Goal, Measure, Row, Skipped, in_turns
from servers import Kind, Server

CONTROLS = [servers.HYPER, servers.CLOSE_AND_BIND, servers.REUSEPORT]
KINDS = [
    servers.C,
    servers.RUST,
    servers.GO,
    servers.SHELLFLIP,
    servers.SHELLFLIP_ALONE,
    servers.ECDYSIS,
    servers.TABLEFLIP,
    servers.NGINX,
    servers.HAPROXY,
    *CONTROLS,
]

HOW = {
    "refused": "refused",
    "reset": "reset",
    "early_eof": "closed without an answer",
    "short_answer": "cut in the answer",
    "timed_out": "no answer in time",
    "wrong_answer": "wrong answer",
    "other": "otherwise",
}


@dataclass
class Run:
    """One server in one round."""

    quiet: dict[str, Any]
    busy: dict[str, Any]
    upgrades: int
    stuck: str = ""


class Load:
    """The load client, from entering to leaving; then `report` is what it says."""

    def __init__(self, server: Server) -> None:
        self.command: list[str | Path] = [
            RELEASE / "flipload",
            f"tcp://{server.address}",
            "--connections",
            "32",
            "--streams",
            "1",
        ]
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Load:
        self.client = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.send_signal(signal.SIGINT)
        try:
            said, _errors = self.client.communicate(timeout=30.0)
        except subprocess.TimeoutExpired:
            self.client.kill()
            self.client.communicate()
            raise Broken("flipload does not end") from None
        if self.client.returncode not in (0, 1):  # 1: something failed
            raise Broken(f"flipload: status {self.client.returncode}")
        self.report = json.loads(said)
        if not self.report["answered"]:
            raise Broken(f"flipload had no answer at all from {self.command[1]}")


def disturb(server: Server, seconds: float, upgrades: int) -> tuple[int, str]:
    """How many upgrades took place, and why no more."""
    began = time.monotonic()
    for number in range(upgrades):
        time.sleep(max(0.0, began + seconds * (number + 0.5) / upgrades - time.monotonic()))
        try:
            server.request()
            server.settle()
        except Broken as stuck:
            return number, str(stuck)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return upgrades, ""


def round_of(kind: Kind, seconds: float, upgrades: int, quiet_first: bool) -> Run:
    run = Run({}, {}, 0)
    for quiet in (quiet_first, not quiet_first):
        with kind.make() as server:
            server.start()
            server.answering()
            with Load(server) as load:
                if quiet:
                    time.sleep(seconds)
                else:
                    run.upgrades, run.stuck = disturb(server, seconds, upgrades)
        if quiet:
            run.quiet = load.report
        else:
            run.busy = load.report
    if run.quiet["failed"]:
        raise Broken(f"{kind.who}: {run.quiet['failed']} requests failed although nothing was replaced")
    if run.stuck and kind.ours:
        raise Broken(f"{kind.who}: {run.stuck}")
    return run


def measure(context: Context) -> list[Measure]:
    seconds, upgrades = (0.8, 2) if context.quick else (6.0, 15)
    rounds = context.rounds(full=3, quick=1)
    runs: dict[str, list[Run]] = {}
    skipped, contenders = [], []
    for kind in KINDS:
        why = kind.missing()
        if why:
            skipped.append(Skipped(kind.who, why))
            continue
        runs[kind.who] = []

        def once(kind: Kind = kind) -> list[float]:
            mine = runs[kind.who]
            mine.append(round_of(kind, seconds, upgrades, quiet_first=len(mine) % 2 == 0))
            return [mine[-1].busy["latency"]["p99_ms"]]

        contenders.append(Contender(kind.who, once))
    in_turns(contenders, rounds)
    present = [kind for kind in KINDS if kind.who in runs]
    return [
        failures(present, runs, skipped, upgrades * rounds),
        latency([kind for kind in present if kind not in CONTROLS], runs),
    ]


def failures(kinds: list[Kind], runs: dict[str, list[Run]], skipped: list[Skipped], upgrades: int) -> Measure:
    result = Measure("load", f"Failed requests in {upgrades} upgrades", plot="bars", skipped=skipped)
    for kind in kinds:
        failed = sum(run.busy["failed"] for run in runs[kind.who])
        goal = Goal(0) if kind.ours else None
        # One sample: a median over rounds would hide the round in which something failed.
        result.rows.append(Row(kind.who, "", [[failed]], goal=goal, note=account(kind, runs[kind.who], upgrades)))
    result.lines.append(
        "Crossed: the server closed a keep-alive connection while a request was on its way. HTTP allows that, and "
        "lets a client send a GET again, on its own account. This client does not."
    )
    for kind in kinds:
        if kind in CONTROLS and not result.row(kind.who).median:
            result.lines.append(f"{kind.who} should fail and did not: this run was too short to see it, or is void")
    return result


def account(kind: Kind, runs: list[Run], upgrades: int) -> str:
    """Out of how many, and what the failures were."""
    parts = [kind.note] if kind.note else []
    parts.append(f"{sum(run.busy['answered'] for run in runs):,} answered")
    how: Counter[str] = Counter()
    for run in runs:
        how.update(run.busy["failures"])
    parts += [f"{count} {HOW[name]}" for name, count in how.most_common()]
    details = [failure for run in runs for failure in run.busy["first_failures"]]
    crossed = sum(map(crosses, details))
    if details:
        # The client keeps the details of the first fifty of a run.
        whose = "" if len(details) == how.total() else f" of {len(details)} looked at"
        parts.append("all crossed" if crossed == len(details) else f"{crossed}{whose} crossed")
    done = sum(run.upgrades for run in runs)
    if done < upgrades:
        parts.append(f"only {done} upgrades: {next(run.stuck for run in runs if run.stuck)}")
    return "; ".join(parts)


def crosses(failure: dict[str, Any]) -> bool:
    """Whether an open connection was closed just when a further request was sent on it."""
    found = re.search(r"\(keep-alive connection \d+, request (\d+) on it, .*, 0 bytes", failure["detail"])
    return bool(found and int(found[1]) > 1 and failure["kind"] in ("early_eof", "reset"))


def latency(kinds: list[Kind], runs: dict[str, list[Run]]) -> Measure:
    result = Measure("load_p99", "99 of 100 answers within", plot="bars")
    for kind in kinds:
        quiet, busy = (
            [run.quiet["latency"] for run in runs[kind.who]],
            [run.busy["latency"] for run in runs[kind.who]],
        )
        undisturbed = f"{kind.who}, undisturbed"
        result.rows += [
            Row(undisturbed, "ms", [[one["p99_ms"]] for one in quiet], note=slowest(quiet)),
            Row(
                f"{kind.who}, being replaced",
                "ms",
                [[one["p99_ms"]] for one in busy],
                against=undisturbed,
                goal=Goal(1.2, ratio=True) if kind.ours else None,
                note=slowest(busy),
            ),
        ]
    return result


def slowest(latencies: list[dict[str, float]]) -> str:
    return f"slowest {max(one['max_ms'] for one in latencies):.1f} ms"
