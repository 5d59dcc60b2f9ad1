"""From the request until the successor is live, in Python and Go, beside what starting the language itself costs."""

from pathlib import Path

from harness import C_PROGRAMS, ROOT, TARGET, Contender, Context, Goal, Measure, Row, command, in_turns, numbers

PYTHON = TARGET / "python" / "bin" / "python"
GO = TARGET / "bench-go"
UPGRADE = ROOT / "benches" / "python" / "upgrade.py"
ONE_BYTE = "import os; os.write(3, b'.')"
GO_FLOOR = "floor: bare Go program"
PYTHON_FLOOR = "floor: bare Python interpreter"


def started(*program: str | Path) -> list[str | Path]:
    """Started with posix_spawn, and timed until the first thing it does, a byte on a pipe, arrives."""
    return [C_PROGRAMS / "bench_floor", "10", *program]


def importing(modules: str) -> list[str | Path]:
    return started(PYTHON, "-c", f"import {modules}; {ONE_BYTE}")


#: Each with its floor.
WAYS: dict[str, tuple[list[str | Path], str]] = {
    PYTHON_FLOOR: (started(PYTHON, "-c", ONE_BYTE), PYTHON_FLOOR),
    "interpreter, ctypes": (importing("ctypes"), PYTHON_FLOOR),
    "interpreter, ctypes, socket": (importing("ctypes, socket"), PYTHON_FLOOR),
    "interpreter, ctypes, socket, signal": (importing("ctypes, socket, signal"), PYTHON_FLOOR),
    "interpreter, shellflip": (importing("shellflip"), PYTHON_FLOOR),
    "upgrade, Python": ([PYTHON, UPGRADE, "10"], PYTHON_FLOOR),
    GO_FLOOR: (started(GO / "floor"), GO_FLOOR),
    "bare Go program with cgo": (started(GO / "cgo"), GO_FLOOR),
    "upgrade, Go": ([GO / "upgrade", "10"], GO_FLOOR),
    "upgrade, Go, archive": ([GO / "upgrade_static", "10"], GO_FLOOR),
}
NOTES = {
    "interpreter, ctypes": "what any package without a compiled part needs",
    "interpreter, ctypes, socket": "and what any server imports",
    "interpreter, ctypes, socket, signal": "and what any package with signal handlers imports",
    "interpreter, shellflip": "what of the upgrade is import of the package",
    "upgrade, Go, archive": "the same, built with -tags shellflip_static",
    "bare Go program with cgo": "what any package over a C library needs",
}


def measure(context: Context) -> Measure:
    result = Measure("bindings", "Request to live, small servers in Python and Go", plot="bars")

    def contender(who: str) -> Contender:
        return Contender(who, lambda: numbers(command(WAYS[who][0])))

    taken = in_turns([contender(who) for who in WAYS], context.rounds(full=20, quick=5))
    for who, rounds in taken.items():
        floor = WAYS[who][1]
        result.rows.append(
            Row(
                who,
                "ms",
                [[sample / 1000 for sample in samples] for samples in rounds],
                against=None if who == floor else floor,
                goal=Goal(1.2, ratio=True) if who.startswith("upgrade") else None,
                note=NOTES.get(who, ""),
            )
        )
    return result
