"""Checkpoints: one file each, written whole or not at all, and checked before it is used.

A file is a pickle of plain values and NumPy arrays, so `paddle.load` reads it too, followed by the
SHA-256 of all that comes before. In it:

    model           {name: array}, the layer's state_dict
    model_ema       {"n_averaged": int, "module": {name: array}}, or None
    optimizer       {"features.0.0.weight_momentum_0": array, ...}: by the names of the model
    master_weights  {name: array}, float32 copies of what is trained in 16 bits
    lr_scheduler, scaler    their state_dicts
    epoch, iteration        where training goes on
    args, world_size, classes, …    what it was trained with, plain values

Random states need no room: what a step draws depends on the seed, the epoch, the iteration and the
rank alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import paddle

from alignment.files import (
    CannotRun,
    load_pdparams,
    mapped,
    reason_of,
    shown,
    unpickled,
    whole_file,
)

MARK = b"\nsha256:"
TRAILER = len(MARK) + 64 + 1


class Damaged(CannotRun):
    """A file that is not a whole checkpoint."""


class _Hashing:
    """A file that is written to and hashed at the same time."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state`, of plain values and arrays, and makes sure that it is on the disk.

    Raises:
        CannotRun: the file cannot be written; one of this name that was there stays as it was.
    """
    with _lasting_file(path) as file:
        hashing = _Hashing(file)
        pickler = pickle.Pickler(hashing, protocol=4)
        pickler.fast = True  # no copy of each array is kept; nothing is referred to twice
        pickler.dump(state)
        file.write(MARK + hashing.digest.hexdigest().encode() + b"\n")


def copy(source: Path, target: Path) -> None:
    """Copies a checkpoint; whole or not at all. Raises: CannotRun."""
    with _lasting_file(target) as file, open(source, "rb") as original:
        shutil.copyfileobj(original, file)


@contextlib.contextmanager
def _lasting_file(path: Path) -> Iterator[BinaryIO]:
    """`whole_file`, open, that outlasts a power failure, as far as the file system can do that."""
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(OSError):
        folder = os.open(Path(path).parent, getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path: str | Path) -> dict[str, Any]:
    """What `save` wrote. Runs no code that a file holds.

    Raises:
        Damaged: the file is cut short, changed, or no checkpoint.
        CannotRun: it cannot be read now; it may be whole.
    """
    data = mapped(path)
    if not _has_checksum(data):
        raise Damaged(f"{shown(path)} is no checkpoint, or cut short: its checksum is missing")
    body = memoryview(data)[:-TRAILER]
    if hashlib.sha256(body).hexdigest().encode() != data[-TRAILER + len(MARK) : -1]:
        raise Damaged(f"{shown(path)} is damaged: its checksum is another")
    state = unpickled(path, body, "a checkpoint")
    if not isinstance(state, dict) or "model" not in state:
        raise Damaged(f"{shown(path)} is no checkpoint: it holds no model")
    for name, fits in _ENTRIES.items():
        if name in state and not fits(state[name]):
            raise Damaged(f"{shown(path)} is no checkpoint: its {name} is none")
    return state


def require_whole(state: Mapping[str, Any], path: str | Path) -> None:
    """Raises CannotRun unless `load` found in the file `path` all that a training goes on from."""
    lacking = [name for name in _ENTRIES if name not in state]
    if lacking:
        raise CannotRun(f"{shown(path)} is no checkpoint of train.py: it has no {lacking[0]}")


def _are_arrays(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(array, np.ndarray) for name, array in value.items()
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_dict(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_average(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_count(value.get("n_averaged"))
        and _are_arrays(value.get("module"))
    )


# {entry of a checkpoint: function that says whether a value can be one}
_ENTRIES = {
    "model": _are_arrays,
    "model_ema": lambda value: value is None or _is_average(value),
    "optimizer": _are_arrays,
    "master_weights": _are_arrays,
    "lr_scheduler": _is_dict,
    "scaler": lambda value: value is None or _is_dict(value),
    "args": _is_dict,
    "classes": lambda value: value is None or _are_names(value),
    "skipped": lambda value: isinstance(value, dict),
    "best": _is_dict,
    "sums": lambda value: isinstance(value, np.ndarray) and value.shape == (4,),
    **dict.fromkeys(("epoch", "iteration", "world_size", "threads", "images"), _is_count),
}


@contextlib.contextmanager
def restoring(path: str | Path) -> Iterator[None]:
    """Around what puts a checkpoint's state into objects. Raises: CannotRun, if it does not fit."""
    try:
        yield
    except CannotRun:
        raise
    except Exception as error:  # what Paddle raises of a state that is not its own is open
        raise CannotRun(
            f"{shown(path)} is no checkpoint of such a training: {reason_of(error)}"
        ) from error


def _has_checksum(data: bytes | mmap.mmap) -> bool:
    """Whether the bytes of a file end as those that `save` wrote."""
    return data[-TRAILER : len(MARK) - TRAILER] == MARK


def path_of(folder: str | Path, epoch: int, iteration: int) -> Path:
    """The file of a checkpoint from which `iteration` of `epoch` is next."""
    return Path(folder) / f"checkpoint_{epoch:04}_{iteration:06}.pdparams"


def checkpoints(folder: str | Path) -> list[Path]:
    """Paths of the checkpoints in a folder, the newest first."""
    return _newest_first(folder, r"checkpoint_\d+_\d+\.pdparams")


def bests(folder: str | Path) -> list[Path]:
    """Paths of those that were the best when they were made, the newest first."""
    return _newest_first(folder, r"best_\d+\.pdparams")


def _newest_first(folder: str | Path, pattern: str) -> list[Path]:
    found = [path for path in Path(folder).glob("*.pdparams") if re.fullmatch(pattern, path.name)]
    return sorted(found, key=_moment, reverse=True)


def _moment(path: Path) -> tuple[int, ...]:
    """(epoch, iteration), or (epoch,), of a file name: the numbers in it."""
    return tuple(map(int, re.findall(r"\d+", path.name)))


def newest(
    folder: str | Path, report: Callable[[str], object] = print
) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    """(path, state) of the newest whole checkpoint in a folder, or (None, None) if it has none.

    Args:
        report: called with a line about each damaged one that is passed over.

    Raises:
        CannotRun: all are damaged, or one cannot be read.
    """
    paths = checkpoints(folder)
    for path in paths:
        try:
            return path, load(path)
        except Damaged as error:
            report(f"{error}. Taking the one before")
    if paths:
        raise CannotRun(
            f"all checkpoints in {shown(folder)} are damaged: {len(paths)}. To start again, give "
            "another --output-dir"
        )
    return None, None


def set_aside(folder: Path, epoch: int, iteration: int) -> list[Path]:
    """Renames the checkpoints of later moments: damaged, or of a course that was given up.

    Returns:
        their new paths, abandoned_….
    """
    renamed = []
    for path in checkpoints(folder):
        if _moment(path) > (epoch, iteration):
            renamed.append(path.rename(path.with_name(f"abandoned_{path.name}")))
    return renamed


def prune(paths: Sequence[Path], keep: int) -> None:
    """Removes all but the first `keep`."""
    for path in paths[keep:]:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Removes what writes that were cut off by `kill -9` have left behind."""
    for path in Path(folder).glob(".*.pdparams"):
        path.unlink(missing_ok=True)


def to_arrays(state: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    """{name: Tensor} as {name: array}; bfloat16, which NumPy has not, as its bits in uint16."""
    return {name: tensor.numpy() for name, tensor in state.items()}


def load_model(model: paddle.nn.Layer, arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Puts {name: array} into a Layer; all of it or nothing.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype; names it and `path`.
    """
    wanted = model.state_dict()
    for name in [*wanted, *arrays]:
        have = _kind(arrays[name]) if name in arrays else "none"
        want = _kind(wanted[name].numpy()) if name in wanted else "none"
        if have != want:
            advice = "Give the --model that it was trained with"
            if name in arrays and name in wanted:
                array, own = arrays[name], wanted[name].numpy()
                if array.shape == own.shape:
                    advice = f"The dtype differs: convert it to {own.dtype}"
            raise CannotRun(
                f"{shown(path)} does not fit the model: {name} is {have} in the file and {want} in "
                f"the model. {advice}"
            )
    for name, tensor in wanted.items():
        _fill(tensor, arrays[name])


def as_float32(array: np.ndarray) -> np.ndarray:
    """The values of a weight in float32; those of bfloat16 are in a file as their bits, uint16."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _fill(tensor: paddle.Tensor, array: np.ndarray) -> None:
    """Copies an array into a tensor, the bits of bfloat16 as they are."""
    value = paddle.to_tensor(np.ascontiguousarray(array))
    if tensor.dtype == paddle.bfloat16 and array.dtype == np.uint16:
        value = value.view(paddle.bfloat16)
    tensor.set_value(value)


def optimizer_state(
    optimizer: paddle.optimizer.Optimizer, model: paddle.nn.Layer
) -> dict[str, dict[str, np.ndarray]]:
    """{"optimizer", "master_weights"}: {name: array} of what an optimizer keeps of `model`.

    Paddle names a state after its parameter, conv2d_0.w_0, and that after the layers which the
    process has made so far. In the file it is named as in the model's state_dict.
    """
    state = optimizer.state_dict()
    state.pop("LR_Scheduler", None)
    masters = state.pop("master_weights", {})
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    return {
        "optimizer": to_arrays(_renamed(state, names)),
        "master_weights": {names[name]: tensor.numpy() for name, tensor in masters.items()},
    }


def load_optimizer(
    optimizer: paddle.optimizer.Optimizer, model: paddle.nn.Layer, state: Mapping[str, Any]
) -> None:
    """The inverse of `optimizer_state`, for an optimizer that has taken no step yet."""
    names = {name: parameter.name for name, parameter in model.named_parameters()}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for key, owner in _owners(state["optimizer"], names).items():
        # Paddle finds it at the first step. A power of beta is one number.
        if state["optimizer"][key].shape not in (shapes[owner], (1,), ()):
            raise ValueError(f"{key} is {list(state['optimizer'][key].shape)} in it")
    renamed = _renamed(state["optimizer"], names)
    arrays = {name: paddle.to_tensor(array) for name, array in renamed.items()}
    masters = {names[n]: paddle.to_tensor(array) for n, array in state["master_weights"].items()}
    if masters:
        for name, tensor in masters.items():
            tensor.name = f"{name}_fp32_master_0"
        arrays["master_weights"] = masters
    # Paddle wants the schedule's state with it; that has been loaded already.
    optimizer.set_state_dict({**arrays, "LR_Scheduler": optimizer._learning_rate.state_dict()})


def _renamed(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """{owner_of_the_state: value} with each owner, the longest that fits, by its other name."""
    owners = _owners(state, names)
    return {names[owner] + key[len(owner) :]: state[key] for key, owner in owners.items()}


def _owners(state: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """{owner_of_the_state: the longest name that it begins with}. Raises: ValueError, if none."""
    return {key: max((n for n in names if key.startswith(n + "_")), key=len) for key in state}


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """({name: array}, state) of a checkpoint or of a state_dict as `paddle.save` writes it.

    Of a checkpoint, the averaged weights where it has them; `state` is the whole of it, and {} for
    a state_dict.

    Raises:
        CannotRun: the file cannot be read, or is neither.
    """
    if Path(path).suffix in (".pth", ".pt"):
        raise CannotRun(
            f"{shown(path)} is PyTorch's. Convert it: python torch2paddle.py {shown(path)}"
        )
    if not _has_checksum(mapped(path)):
        return load_pdparams(path), {}
    state = load(path)
    if state.get("model_ema"):
        return state["model_ema"]["module"], state
    return state["model"], state
