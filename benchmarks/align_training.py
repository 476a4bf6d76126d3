"""How close right trainers come to the bounds of Checkpoint6/align_training.py; how long it takes.

    python benchmarks/align_training.py --seeds 10
    python benchmarks/align_training.py --seeds 0 --against v1 --runs 3

Each seed is another start, other samples, other masks: 50 steps in float64, and the free runs in
float32. Printed is the largest difference of each kind, and its bound; all are right, so one above
its bound is a false alarm.

With --against, the default run, two processes too, is timed in turn with that of the older commit.
Printed are medians of the seconds, and how many times as fast it is, by the clock and by the
processor time of all its processes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from older import ROOT, check_out
from steps import measure, median
from tabulate import tabulate

sys.path.insert(0, str(ROOT))

from alignment.arguments import Formatter

SCRIPT = Path("Checkpoint6") / "align_training.py"


def measure_bounds(seeds, steps, others):
    """Prints the table of differences; True if each seed is aligned."""
    largest, bounds, wrong = defaultdict(float), {}, []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, ROOT / SCRIPT, *others]
            command += ["--steps", str(steps), "--processes", "1", "--result-dir", folder]
            done = subprocess.run(
                [*command, "--seed", str(seed)], capture_output=True, text=True, timeout=1200
            )
            if done.returncode == 2:
                sys.exit(done.stderr)
            log = Path(folder) / "log" / "train_align_steps.json"
            if not json.loads(log.read_text())["aligned"]:
                wrong.append(f"seed {seed}: {done.stdout}")
            for kind, (value, bound) in json.loads(log.read_text())["largest"].items():
                value = float(value)
                share = value / bound if bound else value
                if share >= largest[kind]:
                    largest[kind], bounds[kind] = share, (value, bound)
        print(f"seed {seed}: {'aligned' if not done.returncode else 'NOT ALIGNED'}", flush=True)
    print(
        tabulate([(k, *v) for k, v in bounds.items()], ["kind", "largest", "bound"], floatfmt="g")
    )
    print("\n".join(wrong))
    return not wrong


def measure_time(commit, runs, steps, others):
    """Prints how long this and the older commit take, in turn."""
    command = [SCRIPT, "--steps", str(steps), *others]
    with tempfile.TemporaryDirectory() as work:
        old = check_out(commit, Path(work) / "old")
        folders = (ROOT, Path(work) / "result"), (old, Path(work) / "old_result")
        for folder, results in folders:  # makes what is missing, and fills the disk cache
            measure(folder, results, SCRIPT, "--steps", "10", "--processes", "1", *others)
        pairs = []
        for run in range(runs):
            now, before = (measure(folder, results, *command) for folder, results in folders)
            pairs.append((now, before))
            print(f"run {run + 1}: {now.clock:.1f} s, {commit} {before.clock:.1f} s", flush=True)
    row = [
        median(pairs, lambda now, _: now.clock),
        median(pairs, lambda now, old: old.clock / now.clock),
        median(pairs, lambda now, old: old.processor / now.processor),
    ]
    headers = ["seconds", "times as fast", "by processor time"]
    print(f"\n{steps} steps, median of {runs}\n{tabulate([row], headers, floatfmt='.2f')}")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    flags.add_argument("--seeds", type=int, default=10, help="how many seeds")
    flags.add_argument("--steps", type=int, default=50, help="steps that are compared")
    flags.add_argument("--against", metavar="REF", help="a commit. It is timed in turn with this")
    flags.add_argument("--runs", type=int, default=3, help="how often each is timed")
    args, others = flags.parse_known_args()
    aligned = not args.seeds or measure_bounds(args.seeds, args.steps, others)
    if args.against:
        measure_time(args.against, args.runs, args.steps, others)
    sys.exit(not aligned)


if __name__ == "__main__":
    main()
