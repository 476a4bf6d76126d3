"""Time of an optimizer's step: the port's RMSProp beside Paddle's own optimizers and PyTorch's.

    python benchmarks/optimizers.py

Same gradients, float32, parameters of the model in two groups (with and without decay). Medians of
alternating steps; the last column is the median of the ratios to Paddle's RMSProp in each round.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alignment import cli  # noqa: F401  # isort: skip  (before paddle)

import numpy as np
import paddle
import torch
from tabulate import tabulate

import paddle_mv3
import torch_ref
from alignment.arguments import Formatter


def paddle_steps(model_name):
    """{name: a function that takes one step}."""
    rng = np.random.default_rng(0)

    def groups():
        model = paddle_mv3.MODELS[model_name]()
        for parameter in model.parameters():
            if not parameter.stop_gradient:
                gradient = rng.standard_normal(parameter.shape).astype("float32")
                parameter.grad = paddle.to_tensor(gradient * 0.01)
        return paddle_mv3.weight_decay_groups(model, 1e-5, norm_weight_decay=0.0)

    framework = paddle.optimizer.RMSProp(1e-4, 0.9, 0.0316, 0.9, parameters=groups())
    steps = {"paddle.optimizer.RMSProp": framework.step}
    for name in paddle_mv3.OPTIMIZERS:
        steps[f"port's {name}"] = paddle_mv3.create_optimizer(name, groups(), 1e-4).step
    return steps


def torch_steps(model_name):
    model = torch_ref.MODELS[model_name]()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 0.01
    steps = {}
    for name in paddle_mv3.OPTIMIZERS:
        groups = torch_ref.weight_decay_groups(model, 1e-5, norm_weight_decay=0.0)
        steps[f"PyTorch's {name}"] = torch_ref.create_optimizer(name, groups, 1e-4).step
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument(
        "--model",
        choices=paddle_mv3.MODELS,
        default="mobilenet_v3_small",
        help="which network",
    )
    parser.add_argument("--rounds", type=int, default=30, help="how often each is measured")
    args = parser.parse_args()
    steps = {**paddle_steps(args.model), **torch_steps(args.model)}
    seconds = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(args.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    base = np.array(seconds["paddle.optimizer.RMSProp"])
    rows = [
        [name, 1e3 * np.median(times), np.median(times / base)] for name, times in seconds.items()
    ]
    print(tabulate(rows, ["optimizer", "ms per step", "ratio"], floatfmt=("", ".2f", ".2f")))


if __name__ == "__main__":
    main()
