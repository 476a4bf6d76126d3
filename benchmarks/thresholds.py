"""How far a right port strays from the reference in float32, over many sets of weights.

    python benchmarks/thresholds.py                # 20 seeds, both models, a few minutes
    python benchmarks/thresholds.py --seeds 3

The numbers that alignment/thresholds.py quotes.
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alignment import cli  # noqa: F401  # isort: skip  (before paddle and torch)

import numpy as np
import paddle
import torch
from tabulate import tabulate

import paddle_mv3
import torch_ref
from alignment.arguments import Formatter
from alignment.stages.fake import gen_fake_data
from alignment.training.steps import record_losses
from alignment.weights import make_alive
from torch2paddle import convert

backward = importlib.import_module("05_test_backward")


def pair(name, seed):
    """(Paddle model, PyTorch model) with the same live weights, without dropout."""
    torch_model = make_alive(torch_ref.MODELS[name](dropout=0.0), seed)
    paddle_model = paddle_mv3.MODELS[name](dropout=0.0)
    paddle_model.set_state_dict(convert(torch_model.state_dict(), paddle_model))
    return paddle_model.eval(), torch_model.eval()


def eval_differences(name, seed, images, labels):
    """Mean absolute difference of logits and of loss, and the logits' mean size."""
    paddle_model, torch_model = pair(name, seed)
    with torch.no_grad(), paddle.no_grad():
        reference = torch_model(torch.from_numpy(images))
        port = paddle_model(paddle.to_tensor(images))
        loss_ref = torch.nn.CrossEntropyLoss()(reference, torch.from_numpy(labels))
        loss = paddle.nn.CrossEntropyLoss()(port, paddle.to_tensor(labels))
    reference = reference.numpy()
    return (
        np.abs(port.numpy() - reference).mean(),
        abs(float(loss) - float(loss_ref)),
        np.abs(reference).mean(),
    )


def train_difference(name, seed, images, labels):
    """The largest difference of a loss in step 05's three iterations."""
    sides = backward.start(*pair(name, seed), images, labels)
    port, reference = (record_losses(side, backward.MAX_ITER).data for side in sides)
    return max(float(np.abs(port[k] - reference[k])) for k in reference if k.startswith("loss"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument(
        "--seeds",
        type=int,
        default=20,
        help="how many sets of random weights",
    )
    args = parser.parse_args()
    images, labels = gen_fake_data(backward.BATCH_SIZE)
    rows = []
    for name in paddle_mv3.MODELS:
        logits, losses, sizes = zip(
            *(eval_differences(name, seed, images, labels) for seed in range(args.seeds))
        )
        train = [train_difference(name, seed, images, labels) for seed in range(args.seeds)]
        for what, values in (
            ("logits' mean size", sizes),
            ("logits, mean difference", logits),
            ("loss, difference", losses),
            ("train loss, largest of three", train),
        ):
            rows.append((name, what, min(values), float(np.median(values)), max(values)))
    print(tabulate(rows, ["model", "", "least", "median", "most"], floatfmt=".2g"))


if __name__ == "__main__":
    paddle.set_device("cpu")
    main()
