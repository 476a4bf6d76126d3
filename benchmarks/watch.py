"""How long `python -m alignment --watch` takes from a saved change of the model to its verdict.

    python benchmarks/watch.py
    python benchmarks/watch.py --saves 9

In a copy of the repository a wrong epsilon is saved in the model, then the right one, in turn,
each while the steps of the save before still run. Beside it: step 01 by itself, in a new process.
Printed are medians: seconds, and how many times as long the step by itself takes.
"""

import argparse
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from older import ROOT
from tabulate import tabulate

sys.path.insert(0, str(ROOT))

from alignment.arguments import Formatter
from alignment.environment import end

STEP = "01_test_forward.py"
RIGHT, WRONG = "epsilon=0.001", "epsilon=0.01"
LONG = 600  # seconds without a line


def copy_of_repository(folder):
    """The files of the repository as they are, in `folder`."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return folder


def lines_with_times(stream):
    """Queue of (time, line) of a stream, filled by a thread."""
    lines = queue.Queue()

    def read():
        for line in stream:
            lines.put((time.perf_counter(), line))

    threading.Thread(target=read, daemon=True).start()
    return lines


def wait_for(lines, text):
    """(time, line) of the next line that has a text in it."""
    while True:
        when, line = lines.get(timeout=LONG)
        if text in line:
            return when, line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--saves", type=int, default=5, help="how often the model is saved")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = copy_of_repository(Path(work) / "repository")
        model = folder / "paddle_mv3" / "model.py"
        right = model.read_text()
        alone, saved = [], []
        for number in range(args.saves + 1):
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, STEP, "-q"], cwd=folder, check=True, stdout=subprocess.DEVNULL
            )
            if number:  # the first makes what is missing, and fills the disk cache
                alone.append(time.perf_counter() - begin)
        command = [sys.executable, "-m", "alignment", "--watch", "-q"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            lines = lines_with_times(process.stdout)
            wait_for(lines, "Watching")
            for number in range(args.saves):
                text, verdict = (
                    (right, " aligned: ") if number % 2 else (right.replace(RIGHT, WRONG), " NOT ")
                )
                begin = time.perf_counter()
                model.write_text(text)
                wait_for(lines, "paddle_mv3/model.py")
                when, line = wait_for(lines, STEP)
                if verdict not in line:
                    sys.exit(f"not {verdict.strip()} after save {number + 1}: {line}")
                saved.append(when - begin)
                time.sleep(1)
            end(process)
    rows = [["step 01 by itself", statistics.median(alone)]]
    rows += [["its first verdict after a save, --watch", statistics.median(saved)]]
    rows = [[*row, rows[0][1] / row[1]] for row in rows]
    print(tabulate(rows, ["", "seconds", "times as fast"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
