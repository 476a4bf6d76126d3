"""How long the steps take, and all of them together; beside an older commit, if one is given.

    python benchmarks/steps.py
    python benchmarks/steps.py --against v1 --runs 5

Each script is run in turn with a process that only imports what the script imports, and with the
script of the older commit. Printed are medians: seconds, how many times its imports a step takes,
and how many times as fast as the older commit it is, by the clock and by the processor time of all
its processes. The latter is steadier where other work runs beside it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from older import ROOT, check_out
from tabulate import tabulate

sys.path.insert(0, str(ROOT))

from alignment.arguments import Formatter

# run_name is not "__main__": all of the imports, none of the work.
IMPORTS = "import runpy, sys; sys.path.insert(0, {0!r}); runpy.run_path({1!r}, run_name='imported')"
TRAINING = "Checkpoint6/align_training.py", "--steps", "10", "--processes", "1"


class Time(NamedTuple):
    """Of one command, in seconds."""

    clock: float
    processor: float


def measure(folder, results, *command):
    """Time of a command in `folder`, whose results go to the folder `results`."""
    before, start = os.times(), time.perf_counter()
    full = [sys.executable, *command]
    if command[0] != "-c":
        full += ["--result-dir", results]
    done = subprocess.run(full, cwd=folder, capture_output=True, text=True)
    clock, after = time.perf_counter() - start, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} in {folder}: {done.stdout}{done.stderr}")
    user, system = after.children_user, after.children_system
    processor = user + system - before.children_user - before.children_system
    return Time(clock, processor)


def median(pairs, value):
    return statistics.median(value(*pair) for pair in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured")
    parser.add_argument("--against", metavar="REF", help="a commit. Its steps are run too, in turn")
    args = parser.parse_args()
    commands = [(step.name,) for step in sorted(ROOT.glob("0[1-5]_test_*.py"))]
    commands += [TRAINING, ("-m", "alignment")]
    rows = []
    with tempfile.TemporaryDirectory() as work:
        new = Path(work) / "result"
        old_folder = check_out(args.against, Path(work) / "old") if args.against else None
        # Makes what is missing, and fills the disk cache.
        measure(ROOT, new, *commands[1])
        if old_folder:
            measure(old_folder, Path(work) / "old_result", *commands[1])
        for command in commands:
            name = " ".join(command)
            both, beside = [], []
            for _ in range(args.runs):
                now = measure(ROOT, new, *command)
                if command[0].startswith("0"):
                    code = IMPORTS.format(str(ROOT), str(ROOT / command[0]))
                    both.append((now, measure(ROOT, new, "-c", code)))
                else:
                    both.append((now, None))
                if old_folder:
                    beside.append((now, measure(old_folder, Path(work) / "old_result", *command)))
            row = [name, median(both, lambda now, _: now.clock)]
            is_step = both[0][1] is not None
            row.append(median(both, lambda now, imp: now.clock / imp.clock) if is_step else None)
            if old_folder:
                row.append(median(beside, lambda now, old: old.clock / now.clock))
                row.append(median(beside, lambda now, old: old.processor / now.processor))
            rows.append(row)
            print(f"{name}: {row[1]:.1f} s", flush=True)
    headers = ["command", "seconds", "times its imports", "times as fast", "by processor time"]
    print(f"\nmedian of {args.runs}\n{tabulate(rows, headers[: len(rows[0])], floatfmt='.2f')}")


if __name__ == "__main__":
    main()
