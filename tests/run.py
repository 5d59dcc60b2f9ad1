#!/usr/bin/env python3
"""Runs the test suites one after the other and says what passed, what failed, and what was skipped and why.

Called by `make test`, `make deep` (--deep) and `make check` (--quick). Each suite has its own time limit, after which
all its processes are killed and the tests that had not finished are named. A suite that ran no test has failed.
Whole logs are in target/test-logs. The last line is always `N passed, N failed, N skipped`; the exit status is 1 if
anything failed.

A test that cannot run here prints `SKIPPED: <test>: <reason>` and returns. What is not part of the project and was
really run prints `RAN: <what>` (a release of systemd); the summary names it.
"""

import argparse
import dataclasses
import fnmatch
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "test-logs"
WEB = str(LOGS.with_name("rust-web"))
VENV = LOGS.with_name("python")  # made by `make python`
LIBRARY = ["--package", "libshellflip", "--features", "faults"]
TAIL_LINES = 60
BUILD_LIMIT = 1800
DEEP_FACTOR = 6
MARK = "SHELLFLIP_TEST_RUN"

# Integration files with a limit of their own, in seconds; the others have 300.
LIMITS = {"alone_leaks": 600, "alone_sanitizers": 600, "systemd": 900}


@dataclasses.dataclass
class Suite:
    name: str
    command: list
    limit: int = 300
    alone: bool = False  # saturates the machine: after all the others, one test at a time
    quick: bool = False  # part of `make check`
    kind: str = "cargo"  # which output to read: cargo, pytest, go


def suites():
    found = [
        Suite("unit", cargo(*LIBRARY, "--lib"), quick=True),
        Suite("kit", cargo("--package", "testkit"), quick=True),
        Suite("interleavings", cargo("--package", "interleavings"), limit=600, quick=True),
        # With the faults as all others: builds with and without share one libshellflip.so, and cargo takes the one for the
        # other.
        Suite("rust", cargo("--package", "graceflip", "--all-features", "--features", "shellflip/faults"), 1200),
        # In a workspace of its own, which nothing else has to build.
        Suite("rust-web", cargo("--locked", "--manifest-path", "examples/rust/web/Cargo.toml", "--target-dir", WEB), 1200),
        # With the library as the other suites have it: the servers of these tests link the same file.
        Suite("flipctl", cargo("--package", "flipctl", "--features", "libshellflip/faults")),
    ]
    pytest = [str(VENV / "bin" / "python"), "-m", "pytest", "-q", "-ra", "bindings/python"]
    found.append(Suite("python", pytest, limit=900, kind="pytest"))
    for path in sorted((ROOT / "tests").glob("*.rs")):
        name = path.stem
        alone = name.startswith("alone_")
        quick = name.startswith("model") or name == "header"
        command = cargo(*LIBRARY, "--test", name, threads=1 if alone else 3)
        found.append(Suite(name, command, LIMITS.get(name, 300), alone, quick))
    if any("/// ```" in path.read_text() or "//! ```" in path.read_text() for path in (ROOT / "src").rglob("*.rs")):
        found.append(Suite("doc", cargo(*LIBRARY, "--doc")))
    found += go_suites()
    return sorted(found, key=lambda suite: suite.alone)


def go_suites():
    """The Go package with the Go in PATH and the race detector, and with the oldest one that is supported."""
    script = str(ROOT / "tests" / "go.sh")
    oldest = pathlib.Path("/usr/lib/go-1.19/bin/go")
    found = [Suite("go", [script, "go", "-race"], 400, kind="go")] if shutil.which("go") else []
    if oldest.exists():
        found.append(Suite("go-1.19", [script, str(oldest)], 400, kind="go"))
    return found


def cargo(*what, threads=3):
    # --show-output: else cargo swallows the SKIPPED lines of tests that pass.
    return ["cargo", "test", *what, "--", "--show-output", f"--test-threads={threads}"]


class Result:
    def __init__(self, suite):
        self.suite = suite
        self.done, self.failures, self.skips = {}, [], {}
        self.counted = [0, 0, 0]  # passed, failed, skipped as the runner itself sums up
        self.summed_up = False
        self.problems = []
        self.ran = set()
        self.seconds = 0.0

    LINE = re.compile(r"^test (.+?)(?: - should panic)? \.\.\. (ok|FAILED|ignored)(?:, (.*))?$")
    CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
    GO = re.compile(r"^--- (PASS|FAIL|SKIP): (\S+)")
    SKIP = re.compile(r"^SKIPPED: ([^:\s]+(?:::[^:\s]+)*): (.+)")
    PYTEST_SKIP = re.compile(r"^SKIPPED \[\d+\] (\S+?): (.+)")
    PYTEST_SUM = re.compile(r"^=* ?(?=.*\b(?:passed|failed|skipped|errors?)\b).* in [\d.]+s")

    def read(self, line):
        """Takes in one line of output; returns the name of a test that failed in it."""
        if self.suite.kind == "build":
            return None
        if match := self.SKIP.match(line):
            self.skips[match[1]] = match[2].strip()
        if line.startswith("RAN: "):
            self.ran.add(line.removeprefix("RAN: ").strip())
        if self.suite.kind == "cargo":
            return self.read_cargo(line)
        if self.suite.kind == "pytest":
            return self.read_pytest(line)
        return self.read_go(line)

    def read_cargo(self, line):
        if match := self.CARGO.match(line):
            self.summed_up = True
            for i in range(3):
                self.counted[i] += int(match[i + 1])
        elif match := self.LINE.match(line):
            self.done[match[1]] = match[2]
            if match[2] == "ignored":
                self.skips[match[1]] = match[3] or "ignored, without a reason"
            elif match[2] == "FAILED":
                return match[1]
        return None

    def read_pytest(self, line):
        if match := self.PYTEST_SKIP.match(line):
            self.skips[match[1]] = match[2]
        elif self.PYTEST_SUM.match(line):
            self.summed_up = True
            for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed)", line):
                column = {"passed": 0, "skipped": 2, "xfailed": 2}.get(word, 1)
                self.counted[column] += int(number)
        elif match := re.match(r"^(?:FAILED|ERROR) (\S+)", line):
            return match[1]
        return None

    def read_go(self, line):
        if match := self.GO.match(line):
            self.summed_up = True
            self.counted[{"PASS": 0, "FAIL": 1, "SKIP": 2}[match[1]]] += 1
            if match[1] == "SKIP":
                self.skips.setdefault(match[2], "see the log")
            return match[2] if match[1] == "FAIL" else None
        return None

    def totals(self):
        passed, failed, skipped = self.counted
        if not self.summed_up:
            words = list(self.done.values())
            passed, failed, skipped = words.count("ok"), words.count("FAILED"), words.count("ignored")
        # A test that printed SKIPPED and returned was counted as passed by its runner.
        silent = len(self.skips) - skipped if self.suite.kind == "cargo" else 0
        silent = max(0, min(silent, passed))
        # What went wrong outside of any test is one failure more; a failing test explains its runner's exit status.
        return passed - silent, failed + len(self.problems), skipped + silent


def living(leader, mark):
    """The living processes of a suite but its leader, as pid → command: of its process group, or marked in their
    environment, since tests give their servers groups of their own."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == leader:
            continue
        try:
            stat = pathlib.Path("/proc", entry, "stat").read_text()
            command = pathlib.Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        state, _, group = stat.rpartition(")")[2].split()[:3]
        if state not in "ZX" and (int(group) == leader or mark.encode() in environment):
            found[int(entry)] = command.strip()[:80]
    return found


def still_living(leader, mark, seconds):
    """What is left of a suite once it had `seconds` to go."""
    until = time.monotonic() + seconds
    while (left := living(leader, mark)) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def kill_all(leader, mark):
    """Ends a whole suite. The leader is not reaped yet, so that nobody else can have its number or its group's."""
    os.killpg(leader, signal.SIGKILL)
    until = time.monotonic() + 10
    # In rounds: a server that is being killed may have started its successor just then.
    while (left := living(leader, mark)) and time.monotonic() < until:
        for pid in left:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if pid in living(leader, mark):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except OSError:
                pass
            finally:
                os.close(pidfd)
        time.sleep(0.05)


def run(suite, limit):
    result = Result(suite)
    started = time.monotonic()
    log_path = LOGS / f"{suite.name}.log"
    lines = queue.Queue()
    mark = f"{MARK}={os.getpid()}-{suite.name}"
    with open(log_path, "w", errors="replace") as log:
        process = subprocess.Popen(
            suite.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, text=True, errors="replace",
            env={**os.environ, MARK: mark.split("=", 1)[1]})
        reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True)
        reader.start()

        def take():
            try:
                line = lines.get(timeout=0.1)
            except queue.Empty:
                return False
            log.write(line)
            log.flush()
            if name := result.read(line.rstrip("\n")):
                result.failures.append(name)
                print(f"    FAILED {name}", flush=True)
            return True

        timed_out = False
        try:
            # WNOWAIT: the zombie keeps its process group's number from being given to others until all is killed.
            while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                take()
                if time.monotonic() - started > limit:
                    timed_out = True
                    break
            left = {} if timed_out else still_living(process.pid, mark, 2)
        finally:
            kill_all(process.pid, mark)
            status = process.wait()
        reader.join(5)
        while take():
            pass

    if timed_out:
        result.problems.append(f"killed at its limit of {limit} s; {unfinished(suite, result)}")
    elif status != 0 and not result.failures and result.counted[1] == 0:
        ended = f"ended by signal {-status}" if status < 0 else f"exited with status {status}"
        result.problems.append(f"{ended}, and no test says why")
    if left:
        names = ", ".join(f"{pid} ({command})" for pid, command in left.items())
        result.problems.append(f"left processes behind: {names}")
    if not result.problems and sum(result.totals()) == 0 and suite.kind != "build":
        result.problems.append("ran no test")
    result.seconds = time.monotonic() - started
    return result


def unfinished(suite, result):
    """Which tests had not finished: all that the suite lists but those that have a result."""
    if suite.kind != "cargo":
        return "see the end of its log"
    try:
        listed = subprocess.run([*suite.command, "--list"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "its tests cannot be listed"
    names = [line[: -len(": test")] for line in listed.splitlines() if line.endswith(": test")]
    open_names = [name for name in names if name not in result.done]
    return "running or not begun: " + (", ".join(open_names) or "none, it hung at its end")


def report(results):
    print()
    width = max(len(result.suite.name) for result in results)
    print(f"{'suite':<{width}}  passed  failed  skipped  seconds")
    sums = [0, 0, 0]
    for result in results:
        totals = result.totals()
        sums = [a + b for a, b in zip(sums, totals)]
        print(f"{result.suite.name:<{width}}  {totals[0]:>6}  {totals[1]:>6}  {totals[2]:>7}  {result.seconds:>7.1f}")
        for name, why in result.skips.items():
            print(f"{'':<{width}}  skipped {name}: {why}")
        for problem in result.problems:
            print(f"{'':<{width}}  {problem}")
    for what in sorted(set().union(*(result.ran for result in results))):
        print(f"{'':<{width}}  ran on {what}")
    print()
    print("{} passed, {} failed, {} skipped".format(*sums))
    return 1 if sums[1] else 0


def show(result):
    for problem in result.problems:
        print(f"    {problem}")
    if result.totals()[1]:
        log = LOGS / f"{result.suite.name}.log"
        print(f"    the end of {log}:")
        for line in log.read_text(errors="replace").splitlines()[-TAIL_LINES:]:
            print(f"    | {line}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the suites of `make check`")
    parser.add_argument("--deep", action="store_true", help="the long versions too (SHELLFLIP_DEEP=1)")
    parser.add_argument("names", nargs="*", help="only these suites; shell patterns")
    options = parser.parse_args()
    if options.deep:
        os.environ["SHELLFLIP_DEEP"] = "1"
    factor = DEEP_FACTOR if os.environ.get("SHELLFLIP_DEEP") == "1" else 1
    os.environ.setdefault("RUST_BACKTRACE", "1")
    # A running suite must be killed with its group, whichever way this process is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    chosen = [suite for suite in suites() if not options.quick or suite.quick]
    for name in options.names:
        if not any(fnmatch.fnmatch(suite.name, name) for suite in chosen):
            parser.error(f"there is no suite {name}")
    if options.names:
        chosen = [suite for suite in chosen if any(fnmatch.fnmatch(suite.name, name) for name in options.names)]

    LOGS.mkdir(parents=True, exist_ok=True)
    if not any(suite.name == "go-1.19" for suite in suites()):
        print("SKIPPED: go-1.19: there is no /usr/lib/go-1.19 (Debian 12: apt-get install golang-1.19-go)")
    results = []
    build = ["cargo", "test", "--locked", "--workspace", "--features", "libshellflip/faults", "--no-run"]
    for suite in [Suite("build", build, BUILD_LIMIT, kind="build"), *chosen]:
        print(f"{suite.name} …", flush=True)
        result = run(suite, suite.limit * (1 if suite.kind == "build" else factor))
        passed, failed, skipped = result.totals()
        print(f"    {passed} passed, {failed} failed, {skipped} skipped in {result.seconds:.1f} s", flush=True)
        show(result)
        results.append(result)
        if suite.kind == "build" and failed:
            break
    return report(results)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
