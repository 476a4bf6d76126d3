"""How far right exports stray from the model, over many sets of weights.

    python benchmarks/export.py                        # 20 seeds, both models, some minutes
    python benchmarks/export.py --seeds 3
    python benchmarks/export.py --weights FILE         # trained ones: a checkpoint of train.py

The numbers that Checkpoint6/export.py quotes: the largest difference of a logit over the spread of
the logits, 16 images of lite_data/val, batches of 1 and 16. "own error" is that of the model itself
in float32 from float64.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alignment import cli  # noqa: F401  # isort: skip  (before paddle and torch)

import paddle
from tabulate import tabulate

import paddle_mv3
import torch_ref
from alignment.arguments import Formatter
from alignment.files import save_pdparams
from alignment.weights import make_alive
from Checkpoint6 import export, tools
from torch2paddle import convert


def live_weights(name, seed, folder):
    """A file of live random weights."""
    model = make_alive(torch_ref.MODELS[name](), seed)
    path = Path(folder) / "live.pdparams"
    save_pdparams(convert(model.state_dict(), paddle_mv3.MODELS[name]()), path)
    return path


def differences(options, folder):
    """{column: value} for the export of a command line."""
    args = export.parser().parse_args([*map(str, options), "--output-dir", str(folder)])
    trained = tools.load_trained(args)
    images = export.check_images(args.images, trained.preset)
    reference = tools.logits_of(trained.model, images)
    spread = export.spread_of(reference)
    exact = trained.model.to(dtype="float64")(paddle.to_tensor(images.astype("float64")))
    trained.model.to(dtype="float32")
    own = float(abs(reference - exact.numpy()).max() / spread)
    export.write_paddle(trained, folder)
    export.write_onnx(folder, args.opset)
    found = {}
    for _, runners in export.FORMATS.values():
        for runner, start in runners.items():
            found[runner] = max(
                export.compare(reference, export.outputs(start(folder), images, size), 1)[0]
                for size in (1, len(images))
            )
    largest = max(found.values())
    return {"spread": spread, "own error": own, **found, "largest over own": largest / own}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument(
        "--seeds",
        type=int,
        default=20,
        help="how many sets of random weights",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="a checkpoint, in place of random weights"
    )
    args = parser.parse_args()
    paddle.set_device("cpu")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.weights:
            rows.append(
                {"weights": args.weights, **differences(["--weights", args.weights], folder)}
            )
        else:
            for name in paddle_mv3.MODELS:
                found = []
                for seed in range(args.seeds):
                    path = live_weights(name, seed, folder)
                    found.append(differences(["--weights", path, "--model", name], folder))
                largest = {key: max(item[key] for item in found) for key in found[0]}
                rows.append({"weights": f"{name}, {args.seeds} seeds", **largest})
    print(tabulate(rows, "keys", floatfmt=".2g"))


if __name__ == "__main__":
    main()
