"""The classes that a trained model sees in images.

    python predict.py photo.jpg --weights output/best_0014.pdparams
    python predict.py ../lite_data/val --weights output/best_0014.pdparams --topk 3 --json

Names of the classes, model, and how images are scaled and cropped come from the checkpoint; of a
file that holds weights alone, from --class-names, --model, --val-crop-size, --val-resize-size and
--interpolation.

Exit status: 0 done, 1 some images could not be decoded (they are named, the others predicted),
2 it could not run.
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

environment.require("numpy", "PIL", "paddle")


import numpy as np  # noqa: E402
import paddle  # noqa: E402

from alignment.arguments import batch_size, count, file_path  # noqa: E402
from alignment.files import CannotRun, read_json, read_text, shown  # noqa: E402
from alignment.screen import CLOSED_PIPE, printable, tell  # noqa: E402
from Checkpoint6 import tools  # noqa: E402
from Checkpoint6.arguments import device_of  # noqa: E402
from paddle_mv3.data.dataset import load_input  # noqa: E402


def parser() -> argparse.ArgumentParser:
    flags = tools.parser(__doc__)
    add = flags.add_argument
    add("images", nargs="+", type=file_path, metavar="IMAGE_OR_FOLDER",
        help="of a folder, all images in it and below")  # fmt: skip
    tools.add_model(flags)
    add = flags.group("what is printed").add_argument
    add("--topk", type=count, default=5, help="classes to name, at most all")
    add("--class-names", type=file_path, metavar="FILE",
        help="one name a line; or .json, a list or {\"0\": name, …}, a name being a text or a "
        "list that ends with it, such as ImageNet's [\"n01440764\", \"tench\"]")  # fmt: skip
    add("--json", action="store_true",
        help='[{"file", "topk": [{"class", "name", "probability"}]}] in place of text')  # fmt: skip
    add = flags.group("where it runs").add_argument
    add(
        "--device",
        choices=("cpu", "gpu"),
        help="where it computes. Default: gpu where Paddle sees one",
    )
    add("-b", "--batch-size", type=batch_size, default=32, help="images at a time")
    return flags


def read_class_names(path: Path) -> list[str]:
    """[name] from a text or JSON file.

    Raises:
        CannotRun: the file cannot be read, or is neither.
    """
    is_json = path.suffix.lower() == ".json"
    names = read_json(path) if is_json else read_text(path).rstrip().splitlines()
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(len(names))]
    if not isinstance(names, list):
        raise CannotRun(f"{shown(path)} is neither a list of class names nor a dictionary")
    names = [name[-1] if isinstance(name, list) and name else name for name in names]
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise CannotRun(f"{shown(path)} has no name for class {index}")
    return [name.strip() for name in names]


def class_names(args: argparse.Namespace, trained: tools.Trained) -> list[str] | None:
    """[name] of all classes, or None. Raises: CannotRun."""
    path = args.class_names or args.weights
    names = read_class_names(path) if args.class_names else trained.classes
    if names is not None and len(names) != trained.num_classes:
        raise CannotRun(
            f"{shown(path)} names {len(names)} classes and the model has {trained.num_classes}: "
            "the numbers have to be the same"
        )
    return names


def predict(
    trained: tools.Trained,
    files: Sequence[Path],
    batch_size: int,
    report: Callable[[Exception], None],
) -> Iterator[tuple[Path, np.ndarray]]:
    """Yields (file, probabilities), (classes,) float64.

    Args:
        report: called with the OSError of each file that cannot be decoded.
    """
    for begin in range(0, len(files), batch_size):
        read = []
        for file in files[begin : begin + batch_size]:
            try:
                read.append((file, load_input(file, trained.preset)))
            except OSError as error:
                report(error)
        if read:
            batch = np.stack([image for _, image in read])
            logits = tools.logits_of(trained.model, batch).astype(np.float64)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            yield from zip([file for file, _ in read], weights / weights.sum(axis=1, keepdims=True))


def topk(probabilities: np.ndarray, k: int, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """[{"class", "name", "probability"}], the likeliest first; name is None without names."""
    best = np.argsort(-probabilities, kind="stable")[:k]
    return [
        {"class": int(i), "name": names and names[i], "probability": float(probabilities[i])}
        for i in best
    ]


def main(args: argparse.Namespace) -> int:
    """Returns the exit status. Raises: CannotRun."""
    paddle.set_device(device_of(args.device))
    files = tools.image_files(args.images)
    trained = tools.load_trained(args)
    names = class_names(args, trained)
    failures, results = [], []

    def report(error: Exception) -> None:
        failures.append(error)
        tell(str(error))

    try:
        for file, probabilities in predict(trained, files, args.batch_size, report):
            best = topk(probabilities, args.topk, names)
            results.append({"file": str(file), "topk": best})
            if not args.json:
                print(printable(str(file)))
                for row in best:
                    name = printable(row["name"] or "")
                    print(f"    {row['probability']:.4f}  {row['class']:4}  {name}".rstrip())
        if args.json:
            print(json.dumps(results, indent=2))
        sys.stdout.flush()
    except BrokenPipeError:  # … | head, which has seen enough
        return CLOSED_PIPE
    return 1 if failures else 0


if __name__ == "__main__":
    tools.run(main, parser())
