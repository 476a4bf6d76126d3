"""Seconds and memory for listing an image folder of ImageNet's size.

    python benchmarks/listing.py
    python benchmarks/listing.py --classes 10 --images 1000 --runs 1

Makes empty files in a temporary folder, which is removed at the end, and lists them with
torchvision's ImageFolder and with the port's: afresh, and from its cache. Each run is a process of
its own, in turn; prints medians. Memory is what the process has grown by; the peak is what it has
grown by at most on the way.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tabulate import tabulate  # noqa: E402

from alignment.arguments import Formatter, count  # noqa: E402

LISTING = """
import gc, resource, sys, time
sys.path.insert(0, {root!r})
{setup}
gc.collect()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

before = resident()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
start = time.perf_counter()
dataset = {call}
seconds = time.perf_counter() - start
assert len(dataset) == {images}
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, resident() - before, int(peak.split()[1]) * 1024 - before)
"""


def make_files(root, classes, images):
    """Names as long as ImageNet's, n01440764/n01440764_10026.JPEG."""
    for number in range(classes):
        folder = root / f"n{number:08}"
        folder.mkdir(parents=True)
        for image in range(number, images, classes):
            os.close(os.open(folder / f"n{number:08}_{image}.JPEG", os.O_CREAT))


def measure(setup, call, images):
    """[seconds, bytes, bytes at most] of a process."""
    code = LISTING.format(root=str(ROOT), setup=setup, call=call, images=images)
    command = [sys.executable, "-W", "ignore", "-c", code]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(number) for number in printed.split()[-3:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--classes", type=count, default=1000, help="how many folders")
    parser.add_argument(
        "--images",
        type=count,
        default=1_281_167,
        help="how many files in all",
    )
    parser.add_argument("--runs", type=count, default=3, help="how often each is measured")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "train", Path(folder) / "cache"
        make_files(root, args.classes, args.images)
        time.sleep(2.1)  # a folder that has just changed is not remembered
        port = "import paddle_mv3"
        ways = {
            "torchvision": (
                "import torch_ref, torchvision",
                f"torchvision.datasets.ImageFolder({str(root)!r})",
            ),
            "port": (port, f"paddle_mv3.ImageFolder({str(root)!r})"),
            "port, cached": (port, f"paddle_mv3.ImageFolder({str(root)!r}, cache={str(cache)!r})"),
        }
        measure(*ways["port, cached"], args.images)  # fills the cache
        (file,) = cache.iterdir()
        print(f"{args.images} files in {args.classes} folders, cache of {size(file)} MB")
        runs = [{way: measure(*ways[way], args.images) for way in ways} for _ in range(args.runs)]
    rows = []
    for way in ways:
        seconds, held, peak = (
            statistics.median(column) for column in zip(*(run[way] for run in runs))
        )
        rows.append([way, f"{seconds:.2f}", f"{held / 1e6:.0f}", f"{peak / 1e6:.0f}"])
    headers = ["listing", "seconds", "MB", "MB at most"]
    print(tabulate(rows, headers, disable_numparse=True, stralign="right"))


def size(file):
    return f"{file.stat().st_size / 1e6:.0f}"


if __name__ == "__main__":
    main()
