"""Averages the weights of several checkpoints of one training.

    python average_checkpoints.py output --last 3 --output averaged.pdparams    # the 3 newest
    python average_checkpoints.py output --output averaged.pdparams             # best_*.pdparams,
                                                    # of a training with --keep-best above 1
    python average_checkpoints.py a.pdparams b.pdparams --output averaged.pdparams

torchvision's published MobileNetV3 weights are such an average. Of a checkpoint with
--model-ema, its averaged weights are taken. The result goes where a checkpoint goes: to
train.py --test-only --weights, predict.py and export.py.

Exit status: 0 done, 2 it could not run.
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

environment.require("numpy", "PIL", "paddle")


import numpy as np  # noqa: E402
import paddle  # noqa: E402

from alignment.arguments import count, file_path  # noqa: E402
from alignment.files import CannotRun, shown  # noqa: E402
from Checkpoint6 import checkpoint, tools  # noqa: E402


def parser() -> argparse.ArgumentParser:
    flags = tools.parser(__doc__)
    add = flags.add_argument
    add(
        "inputs",
        nargs="+",
        type=file_path,
        metavar="INPUT",
        help="a checkpoint, or a folder of them",
    )
    add("--output", type=file_path, required=True, metavar="FILE", help="where the mean goes")
    add("--last", type=count, metavar="N",
        help="of a folder, the N newest checkpoints; default: its best_*.pdparams")  # fmt: skip
    return flags


def input_files(inputs: Sequence[Path], last: int | None) -> list[Path]:
    """The files of the command line, of a folder the oldest first.

    Raises:
        CannotRun: a folder without such files, or a file that is named twice.
    """
    if last and not any(path.is_dir() for path in inputs):
        raise CannotRun(f"--last {last} chooses from a folder, and all inputs are files")
    files = []
    for path in inputs:
        if not path.is_dir():
            files.append(path)
        elif last:
            found = checkpoint.checkpoints(path)[:last]
            if len(found) < last:
                raise CannotRun(
                    f"--last {last}: {shown(path)} holds {len(found)} checkpoint_*.pdparams"
                )
            files += reversed(found)
        else:
            found = checkpoint.bests(path)
            if not found:
                raise CannotRun(
                    f"no best_*.pdparams in {shown(path)}: give --last N for its newest checkpoints"
                )
            files += reversed(found)
    seen = set()
    for file in files:
        real = os.path.realpath(file)
        if real in seen:
            raise CannotRun(f"{shown(file)} is given twice, and would count twice")
        seen.add(real)
    return files


class Average:
    """The mean of the weights of files that are added one after the other.

    Attributes:
        settings: {"args", "classes"} of the last file that has them.
        differing: names of the arguments in which the files differ.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.sums: dict[str, np.ndarray] = {}
        self.last: dict[str, np.ndarray] = {}
        self.settings: dict[str, Any] = {"args": {}, "classes": None}
        self.differing: set[str] = set()

    def add(self, path: Path) -> str:
        """Returns a line on what was added.

        Raises:
            CannotRun: it cannot be read, is of another model or other classes, or holds weights
                that are infinite or no numbers.
        """
        arrays, state = checkpoint.read_weights(path)
        self._require_same(path, arrays, state)
        for name, array in arrays.items():
            value = checkpoint.as_float32(array)
            if value.dtype.kind == "f":
                if not np.isfinite(value).all():
                    raise CannotRun(f"{shown(path)}: {name} holds infinite values or NaN")
                self.sums[name] = self.sums.get(name, 0.0) + value.astype(np.float64)
            self.last[name] = array
        self.files.append(path)
        kind = "averaged weights (EMA)" if state.get("model_ema") else "weights"
        epoch = f", epoch {state['epoch']}" if "epoch" in state else ""
        return f"{shown(path)}: {kind}{epoch}"

    def _require_same(
        self, path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]
    ) -> None:
        args, known_args = state.get("args", {}), self.settings["args"]
        classes, known_classes = state.get("classes"), self.settings["classes"]
        if self.files:
            pair = f"{shown(path)} and {shown(self.files[-1])}"
            if args and known_args:
                names = [n for n in {**known_args, **args} if args.get(n) != known_args.get(n)]
                if "model" in names:
                    raise CannotRun(
                        f"{pair} are of other models: {args['model']} and {known_args['model']}"
                    )
                self.differing.update(names)
            mine, known = _kinds(arrays), _kinds(self.last)
            for name in [*known, *mine]:
                if mine.get(name) != known.get(name):
                    raise CannotRun(
                        f"{pair} are of other models: {name} is {mine.get(name)} in the one and "
                        f"{known.get(name)} in the other"
                    )
            if classes and known_classes and classes != known_classes:
                odd = next(p for p in zip_longest(classes, known_classes) if p[0] != p[1])
                raise CannotRun(f"{pair} have other classes: {odd[0]} and {odd[1]}")
        self.settings = {"args": args or known_args, "classes": classes or known_classes}

    def weights(self) -> dict[str, np.ndarray]:
        """{name: array} in the dtypes of the files; of integers, which have no mean, the last."""
        means = {name: total / len(self.files) for name, total in self.sums.items()}
        return {
            name: _as_dtype(means[name], array.dtype) if name in means else array
            for name, array in self.last.items()
        }


def _kinds(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()}


def _as_dtype(mean: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint16:  # the bits of bfloat16
        return paddle.to_tensor(mean.astype(np.float32)).astype("bfloat16").numpy()
    return mean.astype(dtype)


def main(args: argparse.Namespace) -> None:
    """Raises: CannotRun."""
    files = input_files(args.inputs, args.last)
    if os.path.realpath(args.output) in map(os.path.realpath, files):
        raise CannotRun(f"--output {shown(args.output)} is one of the inputs: give another name")
    average = Average()
    for file in files:
        print(average.add(file))
    if average.differing:
        print(f"arguments that differ, of the last: {', '.join(sorted(average.differing))}")
    state = {
        "model": average.weights(),
        **average.settings,
        "averaged": [str(file) for file in files],
    }
    checkpoint.save(args.output, state)
    print(f"the mean of {len(files)} -> {shown(args.output)}")


if __name__ == "__main__":
    tools.run(main, parser())
