#!/usr/bin/env python3
"""Runs the measures one after the other, prints a table of each, and writes tables, plots and all samples.

Called by `make bench` and `make bench-quick`, which build the programs. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import plots
import report
from harness import TARGET, Broken, Context, Measure

MEASURES = [
    "latency",
    "load",
    "resident",
    "stall",
    "listeners",
    "state",
    "connections",
    "accept",
    "cost",
    "bindings",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under three minutes in all")
    parser.add_argument("--output", type=Path, default=TARGET / "bench", help="folder for tables, plots, samples")
    parser.add_argument("only", nargs="*", metavar="MEASURE", help=f"of: {' '.join(MEASURES)}")
    options = parser.parse_args()
    unknown = set(options.only) - set(MEASURES)
    if unknown:
        parser.error(f"no such measure: {' '.join(sorted(unknown))}")
    context, measures, broken = Context(options.quick), list[Measure](), list[str]()
    command = " ".join(["make", "bench-quick" if options.quick else "bench"])
    if options.only:
        command += f' MEASURES="{" ".join(options.only)}"'
    print(report.headline())
    for name in options.only or MEASURES:
        print(f"\n{name} …", flush=True)
        began = time.monotonic()
        try:
            made: Measure | list[Measure] = importlib.import_module(name).measure(context)
        except Broken as error:
            broken.append(f"bench: {name}: {error}")
            print(broken[-1], flush=True)
            continue
        tables = made if isinstance(made, list) else [made]
        tables[0].seconds = time.monotonic() - began
        measures += tables
        print("\n\n".join(report.table(measure) for measure in tables), flush=True)
        # After each: what took minutes to measure is not to be lost with what comes next.
        report.write(measures, options.output, command)
        plots.draw(tables, options.output)
    print(f"\n{report.goals(measures)}\n\n{options.output}: results.md, results.json, and the plots")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
