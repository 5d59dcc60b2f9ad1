"""What every measure is made of: contenders that take turns, rows of samples, goals, and what could not be measured.

Absolute times drift from minute to minute on a machine that others use too. So all contenders of a measure run in one
go, in turns and in another order each round, and the result is the ratio to the first row's within one round.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
C_PROGRAMS = TARGET / "c"
RELEASE = TARGET / "release"


@dataclass(frozen=True)
class Goal:
    """An upper limit for a row's median, or for its ratio to `against`."""

    limit: float
    ratio: bool = False

    def text(self, unit: str) -> str:
        return f"≤ {self.limit:g} ×" if self.ratio else f"≤ {self.limit:g} {unit}".rstrip()


@dataclass
class Row:
    """One line of a table: who, and the samples of each round. All samples are in `unit`."""

    who: str
    unit: str
    rounds: list[list[float]]
    against: str | None = None
    """The `who` of the row of the same measure that this one is compared with."""
    goal: Goal | None = None
    x: float | None = None
    """Where it stands on a plot's x axis, for a row that is one of a series."""
    series: str | None = None
    note: str = ""

    @property
    def samples(self) -> list[float]:
        return [sample for samples in self.rounds for sample in samples]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def spread(self) -> tuple[float, float]:
        """Where the middle nine tenths of the samples lie."""
        samples = self.samples
        if len(samples) < 2:
            return samples[0], samples[0]
        cuts = statistics.quantiles(samples, n=20, method="inclusive")
        return cuts[0], cuts[-1]

    def ratios(self, other: Row) -> list[float]:
        """To the other row, round by round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return [statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs]


@dataclass(frozen=True)
class Skipped:
    """A line that there is no measurement for, and why."""

    who: str
    why: str


@dataclass
class Measure:
    """One table, and at most one plot."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    plot: str | None = None
    """`bars`: a bar for each row, against the others; `lines`: `series` over `x`, both axes logarithmic."""
    x_label: str = ""
    lines: list[str] = field(default_factory=list)
    """What else is to be said under the table."""
    seconds: float = 0.0
    """How long it took; of several tables from one run the first one says it."""

    def row(self, who: str) -> Row:
        return next(row for row in self.rows if row.who == who)


@dataclass(frozen=True)
class Context:
    """How thorough this run is."""

    quick: bool

    def rounds(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def note(self, text: str) -> None:
        print(f"  {text}", flush=True)


@dataclass(frozen=True)
class Contender:
    """Who takes part, and one round of it: the samples, at least one."""

    who: str
    run: Callable[[], list[float]]


class Broken(Exception):
    """A program of the benchmark did not do what it is for: a bug, not a result."""


def in_turns(contenders: Sequence[Contender], rounds: int) -> dict[str, list[list[float]]]:
    """Each round has everybody once; who begins changes, so that nobody always follows the same one."""
    taken: dict[str, list[list[float]]] = {contender.who: [] for contender in contenders}
    for number in range(rounds):
        shift = number % len(contenders)
        for contender in [*contenders[shift:], *contenders[:shift]]:
            samples = contender.run()
            if not samples:
                raise Broken(f"{contender.who}: no samples")
            taken[contender.who].append(samples)
    return taken


def together_in_turns(
    parties: Sequence[Callable[[], dict[str, list[float]]]], rounds: int
) -> dict[str, list[list[float]]]:
    """The same for programs that each run several contenders in turns themselves, and give the samples of all."""
    taken: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        shift = number % len(parties)
        for party in [*parties[shift:], *parties[:shift]]:
            for who, samples in party().items():
                if not samples:
                    raise Broken(f"{who}: no samples")
                taken.setdefault(who, []).append(samples)
    return taken


def command(arguments: Sequence[str | Path], *, timeout: float = 120.0, env: dict[str, str] | None = None) -> str:
    """What the program prints; it must end with status 0. Its output may come from processes that outlive it."""
    ours, theirs = os.pipe()
    with subprocess.Popen(arguments, stdout=theirs, env=env) as process:
        os.close(theirs)
        deadline = time.monotonic() + timeout
        text = _until_closed(ours, deadline, arguments)
        try:
            status = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            raise Broken(f"{arguments[0]}: still there after {timeout:.0f} s") from None
    if status != 0:
        raise Broken(f"{' '.join(map(str, arguments))}: status {status}")
    return text


def _until_closed(end: int, deadline: float, arguments: Sequence[str | Path]) -> str:
    chunks: list[bytes] = []
    try:
        while True:
            readable, _, _ = select.select([end], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise Broken(f"{arguments[0]}: its output does not end")
            chunk = os.read(end, 65536)
            if not chunk:
                return b"".join(chunks).decode()
            chunks.append(chunk)
    finally:
        os.close(end)


def numbers(text: str) -> list[float]:
    """One number a line."""
    return [float(line) for line in text.split()]


def named_numbers(text: str) -> dict[str, list[float]]:
    """A name and a number a line, by name."""
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        name, number = line.rsplit(maxsplit=1)
        found.setdefault(name, []).append(float(number))
    return found


def memory_available() -> int:
    """Bytes that can be had without swapping, as /proc/meminfo has it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise Broken("/proc/meminfo has no MemAvailable")
