#!/usr/bin/env python3
"""Times an upgrade beside the least that starting a process costs, in turns, and prints medians and their ratio.

Called by `make bench` with the two programs. Absolute times depend on the machine and its load; the ratio of one run is
the result.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS, EACH = 10, 20


def floor(program):
    return [float(line) for line in subprocess.check_output([program, str(EACH)], text=True).split()]


def upgrade(program):
    """The first generation ends long before the last one, so the end of the output is what is waited for."""
    ours, theirs = os.pipe()
    with subprocess.Popen([program, str(EACH)], stdout=theirs) as first:
        os.close(theirs)
        with os.fdopen(ours) as output:
            times = [float(line) for line in output]
        first.wait()
    return times


def main():
    floor_program, upgrade_program = sys.argv[1:3]
    floors, upgrades, ratios = [], [], []
    for _ in range(ROUNDS):
        one, other = floor(floor_program), upgrade(upgrade_program)
        if len(other) != EACH:
            sys.exit(f"{upgrade_program}: {len(other)} of {EACH} upgrades")
        floors += one
        upgrades += other
        ratios.append(statistics.median(other) / statistics.median(one))
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors, Linux {'.'.join(os.uname().release.split('.')[:2])}, {ROUNDS} rounds of {EACH}")
    for name, values in (("floor: posix_spawn and one byte", floors), ("flip_upgrade, request to released", upgrades)):
        low, middle, high = (statistics.quantiles(values, n=20)[i] for i in (0, 9, 18))
        print(f"{name:36} median {middle / 1000:6.2f} ms   5 % {low / 1000:6.2f}   95 % {high / 1000:6.2f}")
    print(f"{'ratio, round by round':36} median {statistics.median(ratios):6.2f}      "
          f"least {min(ratios):6.2f}  greatest {max(ratios):6.2f}")


if __name__ == "__main__":
    main()
