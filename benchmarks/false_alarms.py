"""Is any right port called wrong? Runs the checks of steps 01 and 05 over many right ports.

    python benchmarks/false_alarms.py              # some ten minutes on 2 cores
    python benchmarks/false_alarms.py --seeds 2

Both models; many sets of weights; input sizes 32 to 320; batches of 1 to 16; width_mult 0.35 to
1.25; reduced_tail; dilated; 10 classes; weights that are extreme but right. Prints, for each group,
how many were judged, the verdicts, and how near the worst came to the bounds. Exit status 1 if any
was called wrong. The numbers that alignment/thresholds.py quotes for float64.
"""

import argparse
import importlib
import itertools
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alignment import cli  # noqa: F401  # isort: skip  (before paddle and torch)

import numpy as np
import paddle
import torch
from tabulate import tabulate

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.arguments import Formatter
from alignment.diff import DiffHelper
from alignment.precision import to_float64
from alignment.training.steps import compare_training
from alignment.weights import make_alive
from torch2paddle import convert, rules

forward = importlib.import_module("01_test_forward")
backward = importlib.import_module("05_test_backward")
MODELS = list(paddle_mv3.MODELS)


def pair(model, seed, extreme=None, **arguments):
    """(Paddle model, PyTorch model) with the same live weights, in eval mode."""
    reference = make_alive(torch_ref.MODELS[model](**arguments), seed, image_size=96)
    with torch.no_grad():
        norms = [m for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        if extreme == "tiny variances":
            for norm in norms[::3]:
                norm.running_var.mul_(1e-6)
                norm.weight.mul_(0.05)
        elif extreme == "large variances":
            for norm in norms[::3]:
                norm.running_var.mul_(1e6)
                norm.weight.mul_(1e3)
        elif extreme == "logits of 1e3":
            reference.classifier[3].weight.mul_(2e3)
            reference.classifier[3].bias.mul_(2e3)
    port = paddle_mv3.MODELS[model](**arguments)
    port.set_state_dict(convert(reference.state_dict(), port))
    return port.eval(), reference.eval()


def judge_forward(model, seed, size=224, batch=1, **arguments):
    """(verdict, float64 difference over its bound, ratio of the float32 errors) of step 01."""
    port, reference = pair(model, seed, **arguments)
    images = np.random.RandomState(seed).rand(batch, 3, size, size).astype(np.float32) - 0.5
    cpu = torch.device("cpu")
    records = [forward.forward_torch(reference, images, cpu), forward.forward_paddle(port, images)]
    to_float64(port, reference)
    images = images.astype(np.float64)
    records += [forward.forward_torch(reference, images, cpu), forward.forward_paddle(port, images)]
    helper = DiffHelper()
    helper.compare_info(*(record.data for record in records))
    verdict = helper.judge(diff_threshold=thresholds.LOGITS)["logits"]
    difference, ratio = helper.float64["logits"]
    amplified = thresholds.AMPLIFICATION * helper.amplified["logits"]
    return verdict.name, difference / max(thresholds.FORWARD_FLOAT64, amplified), ratio


def judge_training(model, seed, size=96, batch=4, steps=2, **arguments):
    """(verdict, float64 difference over its bound, nan) of step 05's comparison in float64."""
    port, reference = pair(model, seed, **arguments)
    to_float64(port, reference)
    images = np.random.RandomState(seed).rand(batch, 3, size, size) - 0.5
    labels = np.arange(batch) % 10
    sides = backward.start(port, reference, images, labels)
    training = compare_training(*sides, rules(port), steps)
    worst = max(row.value / (row.bound or 1) for row in training.differences)
    return "aligned" if training.compared("training").agrees else "misaligned", worst, float("nan")


def cases(seeds):
    """(group, judge, arguments)"""
    for model, seed in itertools.product(MODELS, range(seeds)):
        yield "weights", judge_forward, {"model": model, "seed": seed}
        for size in (32, 64, 97, 128, 160, 256, 320):
            arguments = {"model": model, "seed": seed, "size": size}
            yield "input size 32 to 320", judge_forward, arguments
    few = range(max(1, seeds // 5))
    for model, seed in itertools.product(MODELS, few):
        shared = {"model": model, "seed": seed, "size": 96}
        for batch in (2, 3, 8, 16):
            yield "batch 2 to 16", judge_forward, {**shared, "batch": batch}
        for width in (0.35, 0.5, 0.75, 1.25):
            yield "width_mult 0.35 to 1.25", judge_forward, {**shared, "width_mult": width}
        for flag in ("reduced_tail", "dilated"):
            yield flag, judge_forward, {**shared, flag: True}
        yield "10 classes", judge_forward, {**shared, "num_classes": 10}
        for extreme in ("tiny variances", "large variances", "logits of 1e3"):
            yield extreme, judge_forward, {**shared, "extreme": extreme}
        for size, batch in ((64, 4), (96, 8), (160, 4)):
            yield "training", judge_training, {**shared, "size": size, "batch": batch}
        for arguments in ({"width_mult": 0.35}, {"reduced_tail": True}, {"dilated": True}):
            yield "training, other arguments", judge_training, {**shared, **arguments}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument(
        "--seeds",
        type=int,
        default=20,
        help="how many sets of random weights",
    )
    args = parser.parse_args()
    paddle.set_device("cpu")
    groups = {}
    for group, judge, arguments in cases(args.seeds):
        result = judge(**arguments)
        groups.setdefault(group, []).append(result)
        if result[0] not in ("aligned", "rounding"):
            print(f"FALSE ALARM {group} {arguments}: {result}", flush=True)
    rows = []
    for group, results in groups.items():
        names, over, ratios = zip(*results)
        count = Counter(names)
        passed = ", ".join(f"{count[name]} {name}" for name in sorted(count))
        rows.append((group, len(results), passed, max(over), max(ratios)))
    headers = ["group", "ports", "verdicts", "worst / bound", "float32 error / PyTorch's"]
    print(tabulate(rows, headers, floatfmt=".2g"))
    wrong = sum(n not in ("aligned", "rounding") for r in groups.values() for n, _, _ in r)
    print(f"{wrong} of {sum(map(len, groups.values()))} right ports called wrong")
    raise SystemExit(int(wrong > 0))


if __name__ == "__main__":
    main()
