"""How close right trainers come to the bounds of Checkpoint6/align_training.py, over seeds.

    python benchmarks/align_training.py --seeds 10

Each seed is another start, other draws, other masks: 50 steps in float64, and the free runs in
float32. Printed is the largest difference of each kind, and its bound; all are right, so one above
its bound is a false alarm.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alignment.arguments import Formatter  # noqa: E402


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    flags.add_argument("--seeds", type=int, default=10, help="how many seeds")
    flags.add_argument("--steps", type=int, default=50, help="steps that are compared")
    args, others = flags.parse_known_args()
    largest, bounds, wrong = defaultdict(float), {}, []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, ROOT / "Checkpoint6" / "align_training.py", *others]
            command += ["--steps", str(args.steps), "--processes", "1", "--result-dir", folder]
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
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
