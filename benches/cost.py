"""What it costs to have the library in a process that is ready and does nothing: threads, memory, descriptors, load
time, and what it adds to a build."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import (
    C_PROGRAMS,
    RELEASE,
    ROOT,
    Broken,
    Contender,
    Context,
    Goal,
    Measure,
    Row,
    Skipped,
    command,
    in_turns,
    numbers,
)

FLOOR = "floor: starting a program that does nothing"
LOADED = "libshellflip: the same, linked with it"
KIB = 1024
ARENA = 64 << 20
"""What the C library aligns the heaps of its threads' arenas to."""


@dataclass(frozen=True)
class Process:
    """What /proc says of a process that is ready."""

    threads: int
    descriptors: int
    private: Counter[str]
    """KiB of memory that no file and no other process has, by where it lies."""


@contextmanager
def ready(program: str) -> Iterator[int]:
    """The pid of the program, once it has said that it is ready. It ends with its standard input."""
    with subprocess.Popen([C_PROGRAMS / program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdin is not None
            if process.stdout.readline() != b"ready\n":
                raise Broken(f"{program}: does not get ready")
            yield process.pid
            process.stdin.close()
            if process.wait(10) != 0:
                raise Broken(f"{program}: status {process.returncode}")
        finally:
            process.kill()


def look(pid: int) -> Process:
    proc = Path("/proc") / str(pid)
    return Process(
        threads=len(os.listdir(proc / "task")),
        descriptors=len(os.listdir(proc / "fd")),
        private=private(proc / "smaps"),
    )


def private(smaps: Path) -> Counter[str]:
    """Anonymous pages, those that were written to in private mappings of files among them (relocations, data). Not
    Private_Dirty, which takes the page cache of a program that was just built for this process's."""
    found: Counter[str] = Counter()
    where = ""
    for line in smaps.read_text().splitlines():
        head = line.split()
        if not head[0].endswith(":"):
            where = place(int(head[0].split("-")[0], 16), head[5] if len(head) > 5 else "")
        elif head[0] == "Anonymous:":
            found[where] += int(head[1])
    return found


def place(start: int, path: str) -> str:
    if path in ("[heap]", "[stack]"):
        return {"[heap]": "heap", "[stack]": "main stack"}[path]
    if "libshellflip" in path:
        return "the library's relocations and data"
    if path.startswith("/"):
        return "those of other libraries"
    return "malloc arenas of threads" if start % ARENA == 0 else "thread stacks and other mappings"


def stripped_size() -> int:
    """Bytes of the shared library as a distribution would install it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "libshellflip.so"
        command(["strip", "--strip-unneeded", "-o", file, RELEASE / "libshellflip.so"])
        return file.stat().st_size


def crates() -> int:
    """In the build, this one and what is needed at build time only among them."""
    tree = ["cargo", "tree", "--offline", "--package", "libshellflip", "--edges", "normal,build", "--prefix", "none"]
    done = subprocess.run([*tree, "--no-dedupe"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Broken(f"{' '.join(tree)}: status {done.returncode}")
    return len(set(done.stdout.splitlines()))


def measure(context: Context) -> Measure:
    result = Measure("cost", "The library in a process that is ready and does nothing")
    memory(context, result)
    sizes(result)
    load(context, result)
    return result


def memory(context: Context, result: Measure) -> None:
    more = {"threads": [], "private": [], "descriptors": []}  # type: dict[str, list[list[float]]]
    where: Counter[str] = Counter()
    rounds = context.rounds(full=20, quick=5)
    for _ in range(rounds):
        with ready("bench_cost_without") as without, ready("bench_cost") as with_it:
            theirs, ours = look(without), look(with_it)
        more["threads"].append([ours.threads - theirs.threads])
        more["private"].append([ours.private.total() - theirs.private.total()])
        more["descriptors"].append([ours.descriptors - theirs.descriptors])
        where.update(ours.private)
        where.subtract(theirs.private)
    result.rows += [
        Row("libshellflip, threads more", "", more["threads"], goal=Goal(2)),
        Row("libshellflip, private memory more", "KiB", more["private"], goal=Goal(300)),
        Row("libshellflip, descriptors more", "", more["descriptors"]),
    ]
    parts = ", ".join(f"{name} {kib / rounds:.0f}" for name, kib in where.most_common() if kib / rounds >= 1)
    result.lines.append(f"Of the private memory, in KiB: {parts}.")


def sizes(result: Measure) -> None:
    for who, tool in (("size of the stripped .so", "strip"), ("crates in the build", "cargo")):
        if shutil.which(tool) is None:
            result.skipped.append(Skipped(who, f"{tool} is not installed"))
        elif tool == "strip":
            result.rows.append(Row(f"libshellflip, {who}", "KiB", [[stripped_size() / KIB]], goal=Goal(700)))
        else:
            result.rows.append(Row(f"libshellflip, {who}", "", [[crates()]], goal=Goal(25)))


def load(context: Context, result: Measure) -> None:
    def starts(program: str) -> list[float]:
        return [us / 1000 for us in numbers(command([C_PROGRAMS / "bench_load", C_PROGRAMS / program, "40"]))]

    taken = in_turns(
        [
            Contender(FLOOR, lambda: starts("bench_nothing_without")),
            Contender(LOADED, lambda: starts("bench_nothing")),
        ],
        context.rounds(full=20, quick=5),
    )
    result.rows.append(Row(FLOOR, "ms", taken[FLOOR]))
    result.rows.append(Row(LOADED, "ms", taken[LOADED], against=FLOOR))
