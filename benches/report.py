"""The tables: for the terminal and for the README the same Markdown, and everything as JSON for other programs."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from harness import Measure, Row


def figure(value: float) -> str:
    """Three digits that count, without an exponent; whole numbers, which are counts, as they are."""
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def headline() -> str:
    release = ".".join(os.uname().release.split(".")[:2])
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors, {model()}, Linux {release}"


def model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.split(":", 1)[1].split())
    return os.uname().machine


def verdict(row: Row, ratio: float | None) -> str:
    if row.goal is None:
        return ""
    reached = ratio if row.goal.ratio else row.median
    assert reached is not None, f"{row.who}: a goal for a ratio needs something to compare with"
    return f"{row.goal.text(row.unit)}: {'held' if reached <= row.goal.limit else 'missed'}"


def cells(measure: Measure, row: Row) -> list[str]:
    low, high = row.spread()
    ratio = statistics.median(row.ratios(measure.row(row.against))) if row.against else None
    return [
        row.who,
        f"{figure(row.median)} {row.unit}".rstrip(),
        "" if low == high else f"{figure(low)} to {figure(high)}",
        "" if ratio is None else f"{figure(ratio)} ×",
        verdict(row, ratio),
        row.note,
    ]


def table(measure: Measure) -> str:
    head = [measure.title, "median", "5 % to 95 %", "ratio", "goal", ""]
    text = markdown(head, [cells(measure, row) for row in measure.rows], always=2)
    after = [*measure.lines, *(f"Not measured: {skipped.who}: {skipped.why}" for skipped in measure.skipped)]
    return "\n".join([text, "", *(f"- {line}" for line in after)] if after else [text])


def goals(measures: list[Measure]) -> str:
    """All that has a goal, in one table."""
    head = ["what", "whose", "median", "ratio", "goal"]
    body = []
    for measure in measures:
        for row in measure.rows:
            if row.goal:
                who, median, _, ratio, verdict, _ = cells(measure, row)
                body.append([measure.title, who, median, ratio, verdict])
    return markdown(head, body, always=len(head)) if body else ""


def markdown(head: list[str], body: list[list[str]], *, always: int) -> str:
    """A table without the columns that are empty, but for the first ones."""
    keep = [column for column in range(len(head)) if column < always or any(line[column] for line in body)]
    lines = [[line[column] for column in keep] for line in [head, *body]]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(keep))]
    text = []
    for number, line in enumerate(lines):
        padded = [
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append(f"| {' | '.join(padded)} |")
        if number == 0:
            rule = ["-" * width if not at else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
            text.append(f"| {' | '.join(rule)} |")
    return "\n".join(text)


def as_json(measures: list[Measure]) -> dict[str, Any]:
    return {
        "headline": headline(),
        "measures": [
            {
                "name": measure.name,
                "title": measure.title,
                "seconds": round(measure.seconds, 1),
                "rows": [
                    {
                        "who": row.who,
                        "unit": row.unit,
                        "median": row.median,
                        "spread": row.spread(),
                        "ratio": statistics.median(row.ratios(measure.row(row.against))) if row.against else None,
                        "against": row.against,
                        "goal": row.goal.text(row.unit) if row.goal else None,
                        "x": row.x,
                        "series": row.series,
                        "note": row.note,
                        "rounds": row.rounds,
                    }
                    for row in measure.rows
                ],
                "lines": measure.lines,
                "skipped": [{"who": skipped.who, "why": skipped.why} for skipped in measure.skipped],
            }
            for measure in measures
        ],
    }


def write(measures: list[Measure], folder: Path, command: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(as_json(measures), indent=1) + "\n")
    parts = [headline(), f"`{command}`", goals(measures)]
    for measure in measures:
        parts += [f"![{measure.title}]({measure.name}.svg)" if measure.plot else "", table(measure)]
    (folder / "results.md").write_text("\n\n".join(part for part in parts if part) + "\n")
