"""How time and memory of `check` grow with a model: with its layers, and at 300 million parameters.

    python benchmarks/trace.py            # 8 to 64 layers: seconds and memory for each layer
    python benchmarks/trace.py --large    # 24 blocks of width 1024, as ViT-L/16: 8 minutes, 15 GB

Each size runs in a process of its own, so that peak memory is that size's.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alignment import environment  # noqa: E402, F401  isort: skip  (before paddle and torch)

import paddle  # noqa: E402
import torch  # noqa: E402
from tabulate import tabulate  # noqa: E402

from alignment import check  # noqa: E402
from alignment.arguments import Formatter  # noqa: E402

PATCH, PIXELS = 16, 64


class Reference(torch.nn.Module):
    """A vision transformer: patches, blocks of attention and two linear layers, a classifier."""

    def __init__(self, depth, width, heads):
        super().__init__()
        nn = torch.nn
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "attention": nn.MultiheadAttention(width, heads, batch_first=True),
                    "norm2": nn.LayerNorm(width),
                    "fc1": nn.Linear(width, 4 * width),
                    "act": nn.GELU(),
                    "fc2": nn.Linear(4 * width, width),
                }
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 100)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            y = block["norm1"](x)
            x = x + block["attention"](y, y, y, need_weights=False)[0]
            x = x + block["fc2"](block["act"](block["fc1"](block["norm2"](x))))
        return self.head(x.mean(1))


class Port(paddle.nn.Layer):
    def __init__(self, depth, width, heads):
        super().__init__()
        nn = paddle.nn
        self.patches = nn.Conv2D(3, width, PATCH, PATCH)
        self.blocks = nn.LayerList()
        for _ in range(depth):
            self.blocks.append(
                nn.LayerDict(
                    {
                        "norm1": nn.LayerNorm(width),
                        "attention": nn.MultiHeadAttention(width, heads),
                        "norm2": nn.LayerNorm(width),
                        "fc1": nn.Linear(width, 4 * width),
                        "act": nn.GELU(),
                        "fc2": nn.Linear(4 * width, width),
                    }
                )
            )
        self.head = nn.Linear(width, 100)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose([0, 2, 1])
        for block in self.blocks:
            x = x + block["attention"](block["norm1"](x))
            x = x + block["fc2"](block["act"](block["fc1"](block["norm2"](x))))
        return self.head(x.mean(1))


def run(depth, width, heads, checks):
    """Prints "seconds MB parameters layers" of one comparison; exit status 1 if it differs."""
    start = time.perf_counter()
    shape = f"2x3x{PIXELS}x{PIXELS}"
    model = depth, width, heads
    report = check(
        lambda: Port(*model), lambda: Reference(*model), shape, checks=checks, sizes=1, steps=1
    )
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in Reference(*model).parameters())
    print(f"{seconds:.3f} {memory:.0f} {parameters} {6 * depth + 2}")
    print(report.text(), file=sys.stderr)
    sys.exit(0 if report.aligned else 1)


def measure(depth, width, heads, checks, verbose=False):
    """(seconds, MB, parameters, layers) of a process of its own."""
    command = [sys.executable, __file__, "--one", depth, width, heads, ",".join(checks)]
    result = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, env=os.environ
    )
    if result.returncode:
        sys.exit(f"error: the comparison failed:\n{result.stderr}")
    if verbose:
        print(result.stderr)
    seconds, memory, parameters, layers = result.stdout.split()[-4:]
    return float(seconds), float(memory), int(parameters), int(layers)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--large", action="store_true", help="300 million parameters")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    checks = ("forward", "backward", "training")
    if args.one:
        depth, width, heads = map(int, args.one[:3])
        run(depth, width, heads, tuple(args.one[3].split(",")))
    if args.large:
        seconds, memory, parameters, layers = measure(24, 1024, 16, checks, verbose=True)
        print(
            f"{parameters:,} parameters, {layers} layers: {seconds:.0f} s, {memory / 1024:.1f} GB"
        )
        return
    rows = []
    for depth in (8, 16, 32, 64):
        seconds, memory, parameters, layers = measure(depth, 128, 4, checks)
        rows.append([layers, parameters, seconds, 1000 * seconds / layers, memory])
    first = rows[0]
    for row in rows:
        row.append((row[2] - first[2]) / (row[0] - first[0]) * 1000 if row is not first else None)
    headers = ["layers", "parameters", "seconds", "ms/layer", "MB", "ms per layer more"]
    print(tabulate(rows, headers, floatfmt=("", ",", ".1f", ".0f", ".0f", ".0f"), intfmt=","))


if __name__ == "__main__":
    main()
