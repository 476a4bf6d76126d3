"""What each step spends beyond importing the frameworks.

    python benchmarks/steps.py

Runs each script and, alternating with it, a process that only imports what the script imports;
prints medians in seconds. The goal is 1.5 s of work a step.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = sorted(ROOT.glob("0[1-5]_test_*.py"))
# run_name is not "__main__": all of the imports, none of the work.
IMPORTS = "import runpy, sys; sys.path.insert(0, {0!r}); runpy.run_path({1!r}, run_name='imported')"


def seconds(*command):
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print(f"{'step':22}{'imports':>9}{'whole':>9}{'work':>9}   seconds, median of {args.runs}")
    for step in STEPS:
        seconds(step)  # makes what is missing, fills the disk cache
        pairs = [
            (seconds("-c", IMPORTS.format(str(ROOT), str(step))), seconds(step))
            for _ in range(args.runs)
        ]
        imports, whole = (statistics.median(column) for column in zip(*pairs))
        work = statistics.median(whole - imports for imports, whole in pairs)
        print(f"{step.name:22}{imports:9.2f}{whole:9.2f}{work:9.2f}")


if __name__ == "__main__":
    main()
