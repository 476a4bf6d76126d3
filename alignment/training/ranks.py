"""Several processes against one: the port's against its own, and against PyTorch's.

Each process trains a few steps in float64 by its side's own loop, and writes what each step has
left behind. A launcher starts a script, which calls `main` with the pair.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import torch

from .. import environment
from ..files import CannotRun, reason_of
from ..state import as_paddle, paddle_arrays, paddle_gradients, torch_arrays, torch_gradients
from ..thresholds import GRADIENT_FLOAT64
from .comparison import Difference
from .loops import compare_reports
from .quantities import compare, compare_gradients
from .replay import Draws
from .sides import Ended, Port, Reference, Start

if TYPE_CHECKING:
    from .pair import TrainingPair


__all__ = ["PROCESSES", "compare_ranks", "main"]

PROCESSES = 2
LIMIT = 600  # seconds
COUNT = ["--nproc_per_node", str(PROCESSES)]
PORT = [sys.executable, "-m", "paddle.distributed.launch", *COUNT]
REFERENCE = [sys.executable, "-m", "torch.distributed.run", "--standalone", *COUNT]
# Each run goes on from its own state, so what the gradients differ by grows from step to step;
# 1.2e-6 was measured, of the update in step 2.
GROWN = 1e-4
KINDS = ("gradient", "update", "running statistic", "optimizer state", "moving average")


# --- in each process -----------------------------------------------------------------------------


class Recorder:
    """Writes what each step of one side leaves behind: rank 0's arrays, each rank's checksums.

    Args:
        folder: for step_I.npz of rank 0, and rank_R.json.
        weights: called without arguments, gives {name of the port: array} of the whole model.
        others: the same for {kind: {name: array}} of all else that is compared.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        steps: int,
        weights: Callable[[], Any],
        others: Callable[[], Any],
    ) -> None:
        self.folder, self.rank, self.steps = Path(folder), rank, steps
        self.folder.mkdir(parents=True, exist_ok=True)
        self.weights, self.others = weights, others
        self.checksums, self.images = [], []
        self.drawn = []  # checksums of what the port's generator gives after each step

    def step(self, images: Any, take: Callable[[], Any]) -> Any:
        """Calls `take` for a step, and returns what it does. Raises: Ended, after all steps."""
        number = len(self.images)
        if number == self.steps:
            raise Ended
        before = self.weights()
        result = take()
        after, found = self.weights(), self.others()
        change = {name: after[name] - array for name, array in before.items()}
        trained = found["gradient"]
        found["update"] = {name: x for name, x in change.items() if name in trained}
        found["running statistic"] = {n: x for n, x in change.items() if n not in trained}
        if self.rank == 0:
            flat = {f"{kind}:{n}": x for kind, arrays in found.items() for n, x in arrays.items()}
            np.savez(self.folder / f"step_{number}.npz", **flat)
        self.checksums.append(_checksum(after[name] for name in sorted(trained)))
        self.images.append(_checksum([images]))
        return result

    def write(self, reports: Any) -> None:
        found = {"weights": self.checksums, "images": self.images, "drawn": self.drawn}
        found["reports"] = reports
        (self.folder / f"rank_{self.rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _checksum(arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def record_port(
    pair: TrainingPair,
    args: argparse.Namespace,
    start: Start,
    steps: int,
    folder: Path,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Trains the port for some steps."""

    def others() -> dict[str, Any]:
        trainer = port.trainer
        gradients = paddle_gradients(trainer.model, start.rules)
        return {
            "gradient": {name: x for name, x in gradients.items() if x is not None},
            "optimizer state": port.optimizer_states(),
            "moving average": paddle_arrays(trainer.model_ema.module) if trainer.model_ema else {},
        }

    def one_step(images: Any, labels: Any) -> Any:
        result = recorder.step(images.numpy(), lambda: port.step(images, labels))
        recorder.drawn.append(_checksum([paddle.rand([8]).numpy()]))
        return result

    port = Port(pair, args, start, one_step, rank, world_size)
    recorder = Recorder(folder, rank, steps, lambda: paddle_arrays(port.trainer.model), others)
    with contextlib.suppress(Ended):
        port.run()
    recorder.write(port.log.reports)


def record_reference(
    pair: TrainingPair,
    args: argparse.Namespace,
    start: Start,
    steps: int,
    folder: Path,
    rank: int,
    world_size: int,
) -> None:
    """Trains the reference for some steps, with what the port draws for this rank."""
    names = {source: (name, rule) for name, (source, rule) in start.rules.items()}

    def others() -> dict[str, Any]:
        trainer, states = reference.trainer, {}
        for source, parameter in trainer.model.named_parameters():
            name, rule = names[source]
            for kind, value in trainer.optimizer.state[parameter].items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    states[f"{kind} {name}"] = as_paddle(value.numpy(), rule)
        ema = trainer.model_ema
        return {
            "gradient": torch_gradients(trainer.model, start.rules),
            "optimizer state": states,
            "moving average": torch_arrays(ema.module, start.rules) if ema else {},
        }

    with Draws(pair, args, rank, world_size).replayed():
        reference = Reference(pair, args, start, rank, world_size)
        recorder = Recorder(
            folder, rank, steps, lambda: torch_arrays(reference.trainer.model, start.rules), others
        )
        with contextlib.suppress(Ended):
            while reference.go_on():
                recorder.step(reference.images.numpy(), reference.step)
        reference.leave()
    recorder.write(reference.reports)


def main(pair: TrainingPair, task: str) -> None:
    """What each process does that a launcher has started.

    Args:
        pair: TrainingPair.
        task: path of the JSON file that `compare_ranks` has written for it.
    """
    given = json.loads(Path(task).read_text(encoding="utf-8"))
    on_port = "PADDLE_TRAINER_ID" in os.environ
    if on_port:
        share = pair.distributed.start()
    else:
        torch.distributed.init_process_group("gloo")
        share = torch.distributed.get_rank(), torch.distributed.get_world_size()
    record = record_port if on_port else record_reference
    with np.load(given["weights"]) as file:
        weights = dict(file)
    rules = {name: tuple(rule) for name, rule in given["rules"].items()}
    start = Start(weights, rules, "float64", dropout=0.0)
    torch.set_num_threads(1)
    try:
        for run in given["runs"]:
            record(pair, arguments(run["args"]), start, given["steps"], run["folder"], *share)
    except Exception as error:
        pair.distributed.leave(1, f"{type(error).__name__}: {reason_of(error)}")
        raise
    pair.distributed.leave(0)
    pair.distributed.end_workers()


def arguments(values: Mapping[str, Any]) -> argparse.Namespace:
    """A command line's arguments as they were before they were written as JSON."""
    paths = ("data_path", "output_dir", "result_dir")
    return argparse.Namespace(**{k: Path(v) if k in paths else v for k, v in values.items()})


# --- in the process that compares ----------------------------------------------------------------


def compare_ranks(
    pair: TrainingPair,
    args: argparse.Namespace,
    uneven: argparse.Namespace,
    start: Start,
    steps: int,
    work: Path,
    script: Path,
) -> list[Difference]:
    """[Difference] of a training by PROCESSES processes from one process's, and from PyTorch's.

    Args:
        pair: TrainingPair.
        args: of the port's command line; `batch_size` is that of all processes together.
        uneven: data folder with a number of images that the processes cannot share evenly.
        start: Start, in float64.
        steps: how many are compared.
        work: folder to work in.
        script: what the launchers start: it calls `main` with the same pair.

    Raises:
        CannotRun: a process has failed; with its last line.
    """
    share = args.batch_size // PROCESSES
    # Clipping would hide gradients that are too large by a factor.
    common = {"ra_sampler": False, "clip_grad_norm": None, "workers": 0}
    # In warm-up, and after its first update, the moving average is the model.
    common |= {"lr_warmup_epochs": min(args.lr_warmup_epochs, 1), "model_ema_steps": 1}

    def run(name: str, **changes: Any) -> dict[str, Any]:
        folders = {"output_dir": work / name / "output", "result_dir": work / name}
        found = {**vars(args), **common, **folders, **changes}
        return {"args": found, "folder": str(work / name)}

    # One process mixes its batch as a whole, each of several its own: so without.
    unmixed = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    one = run("one", **unmixed, sync_bn=False)
    synchronized = run("synchronized", **unmixed, batch_size=share, sync_bn=True)
    apart, reference = (
        run(name, data_path=uneven, batch_size=share, sync_bn=False)
        for name in ("apart", "reference")
    )
    start = replace(start, dropout=0.0)  # each process draws its own masks

    port = [*PORT, "--log_dir", str(work / "log")]
    with (
        _launched([*port, str(script)], [synchronized, apart], start, steps, work) as mine,
        _launched([*REFERENCE, str(script)], [reference], start, steps, work) as theirs,
    ):
        record_port(pair, arguments(one["args"]), start, steps, one["folder"])
        _wait(mine)
        _wait(theirs)
    # AdamW makes a step of a gradient's sign: where that is zero in theory, the steps of two
    # processes are as opposite as those of two frameworks. What it keeps is compared.
    kinds = [k for k in KINDS if args.opt != "adamw" or k not in ("update", "moving average")]
    what = f"{PROCESSES} processes and one"
    found = _compare_runs(what, work / "synchronized", work / "one", kinds)
    if all(row.agrees for row in found):
        what = f"{PROCESSES} processes and PyTorch's {PROCESSES}"
        found += _compare_runs(what, work / "apart", work / "reference", kinds, same_images=True)
    return found


@contextlib.contextmanager
def _launched(
    command: Sequence[str], runs: Any, start: Start, steps: int, work: Path
) -> Iterator[Any]:
    """The process of a launcher, which is ended, with all that it has started, on leaving.

    Args:
        command: the launcher's, with the script that it starts.
    """
    name = Path(runs[0]["folder"]).name
    np.savez(work / f"{name}.npz", **start.weights)
    task = {
        "weights": str(work / f"{name}.npz"),
        "rules": start.rules,
        "steps": steps,
        "runs": runs,
    }
    (work / f"{name}.json").write_text(json.dumps(task, default=str), encoding="utf-8")
    with open(work / f"{name}.txt", "w") as output:
        process: Any = subprocess.Popen(
            [*command, str(work / f"{name}.json")],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    process.output = work / f"{name}.txt"
    with environment.cleaned_up(lambda: environment.end(process)):  # with all of its processes
        yield process


def _wait(process: Any) -> None:
    try:
        failed = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        raise CannotRun(
            f"{PROCESSES} processes have not finished their steps in {LIMIT} seconds: do all "
            "ranks take the same number? --processes 1 leaves them out"
        ) from None
    if failed:
        lines = [
            line
            for line in process.output.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ]
        errors = [line for line in lines if "Error" in line or "error:" in line]
        raise CannotRun(
            f"a process of {PROCESSES} has failed: {(errors or lines or ['no output'])[-1]}"
        )


def _compare_runs(
    what: str, mine: Path, theirs: Path, kinds: Any, same_images: bool = False
) -> list[Difference]:
    """[Difference] of two folders that a Recorder has written."""
    found = []
    records = [
        [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("rank_*.json"))
        ]
        for folder in (mine, theirs)
    ]

    def note(where: str, kind: str, name: str, value: float, bound: float = 0.0) -> None:
        found.append(Difference(where, kind, name, float(value), bound))

    counts = [[len(record["images"]) for record in side] for side in records]
    steps = min(map(min, counts))
    for step in range(steps):
        where = f"{what}, step {step}"
        sums = [record["images"][step] for record in records[0]]
        differ = len(set(sums)) == len(sums)
        name = "with its own images on each rank" if differ else "with the same images on two ranks"
        note(where, "order", name, 0.0 if differ else np.inf)
        if same_images:
            for rank, (a, b) in enumerate(zip(*records)):
                same = a["images"][step] == b["images"][step]
                note(where, "images", f"of rank {rank}", 0.0 if same else np.inf)
        sides = [_arrays(folder / f"step_{step}.npz") for folder in (mine, theirs)]
        bound = GROWN if step else GRADIENT_FLOAT64
        for kind in kinds:
            a, b = (side.get(kind, {}) for side in sides)
            if kind == "gradient":
                found += compare_gradients(where, a, b, bound)
            else:
                found += compare(where, kind, a, b, bound=bound)
        weights = {record["weights"][step] for record in records[0]}
        same = len(weights) == 1
        note(
            where,
            "ranks",
            f"with {'the same' if same else 'different'} weights",
            0.0 if same else np.inf,
        )
        drawn = {record["drawn"][step] for record in records[0]}
        differ = len(drawn) == len(records[0])
        name = f"with {'different' if differ else 'the same'} dropout masks"
        note(where, "ranks", name, 0.0 if differ else np.inf)
    text = "{} steps of each process | {}".format(*counts)
    note(
        f"{what}, the end", "loop", text, 0.0 if {*counts[0]} == {*counts[1]} == {steps} else np.inf
    )
    reports = [record[0]["reports"] for record in records]
    kinds = [[kind for kind, _ in side] for side in reports]
    same = kinds[0] == kinds[1]
    said = " | ".join(f"said {', '.join(side)}" for side in kinds)
    note(f"{what}, the end", "loop", said, 0.0 if same else np.inf)
    if not same:
        return found
    for kind, text, difference, _ in compare_reports(*reports):
        note(f"{what}, lines", kind, text, difference, GROWN)
    return found


def _arrays(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """{kind: {name: array}}"""
    found = {}
    with np.load(path) as file:
        for key in file:
            kind, _, name = key.partition(":")
            found.setdefault(kind, {})[name] = file[key]
    return found
