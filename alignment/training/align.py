"""Both trainers, step by step: in float64, in float32, in several processes; and the report."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import environment
from ..arguments import file_path, steps
from ..convert import pair_weights
from ..files import CannotRun, require_writable, shown, write_json
from ..findings import Check
from ..layers import read_layer_map
from ..processes import beside
from ..report import (
    ALIGNED,
    LOGS,
    NOT_ALIGNED,
    finding_entries,
    misfits_summary,
    new_part,
)
from ..screen import printable
from ..state import torch_arrays
from ..weights import make_alive
from .comparison import Comparison, shares_of_bounds
from .curves import UNITS, compare_curves, curves_entry, divergence, free_runs, plot
from .loops import Loops
from .ranks import PROCESSES, compare_ranks
from .replay import Draws, subset
from .sides import Start

if TYPE_CHECKING:
    from ..arguments import Parser
    from ..pairing import Pairing
    from .comparison import Difference
    from .pair import TrainingPair


__all__ = ["DEFAULTS", "add_flags", "align"]

# All that torchvision's recipes have, small enough for a minute; the schedule goes through warm-up
# and a step within EPOCHS. Not a flag's own default: a flag that has no effect would not be seen.
DEFAULTS = {
    "device": "cpu",
    "epochs": 5,
    "batch_size": 8,
    "opt": "rmsprop",
    "lr": 0.002,
    "momentum": 0.8,
    "weight_decay": 1e-5,
    "norm_weight_decay": 0.0,
    "bias_weight_decay": 2e-5,
    "label_smoothing": 0.1,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "lr_step_size": 2,
    "lr_gamma": 0.973,
    "lr_warmup_method": "linear",
    "lr_warmup_decay": 0.02,
    "auto_augment": "imagenet",
    "random_erase": 0.2,
    "clip_grad_norm": 10.0,
    "model_ema": True,
    "model_ema_steps": 3,
    "model_ema_decay": 0.99,
    "interpolation": "bicubic",
    "train_crop_size": 64,
    "val_crop_size": 56,
    "val_resize_size": 73,
}
EPOCHS = 5  # that the steps are spread over
EVALUATED = 3  # batches
RANK_STEPS, RANK_EPOCHS = 4, 2


def add_flags(parser: Parser) -> None:
    """Adds what the comparison is asked beside the trainers' flags, and its DEFAULTS for those."""
    add = parser.group("the comparison").add_argument
    add("--steps", type=steps, default=50, help="how many steps are compared, 10 or more")
    add(
        "--processes",
        type=int,
        choices=(1, PROCESSES),
        default=PROCESSES,
        help="1 leaves out the comparison of two processes",
    )
    add(
        "--layer-map",
        metavar="FILE",
        type=file_path,
        help='JSON file {"layer of the port": "layer of the reference"}, for names that differ',
    )
    parser.set_defaults(**DEFAULTS)


def require_comparable(args: argparse.Namespace) -> None:
    """Raises: CannotRun."""
    for given, why in (
        (args.device != "cpu", f"--device {args.device}: the CPU is what compares, in float64"),
        (args.resume, "--resume: the port is stopped, and goes on, by itself here"),
        (args.test_only, "--test-only: there is nothing to compare"),
        (args.weights or args.pretrained, "--weights: the steps begin with random ones"),
        (args.start_epoch, "--start-epoch: the steps begin with epoch 0"),
        (args.sync_bn, "--sync-bn: two processes are compared with it and without"),
        (args.skip_corrupt, "--skip-corrupt: PyTorch's loader cannot skip"),
        (args.auto_augment == "augmix", "--auto-augment augmix: torchvision cannot be given what "
         "was drawn; step 02 compares it"),
    ):  # fmt: skip
        if given:
            raise CannotRun(f"{why}. Leave it out")
    if args.steps < 2 * EPOCHS:
        raise CannotRun(f"--steps {args.steps}: give {2 * EPOCHS} or more, for {EPOCHS} epochs")
    if args.batch_size < 4 or args.batch_size % PROCESSES:
        raise CannotRun(f"--batch-size {args.batch_size}: give an even number, 4 or more")


def on_links(
    pair: TrainingPair, args: argparse.Namespace, work: Path, images: int
) -> argparse.Namespace:
    """The arguments with a data folder of so many images, each epoch ending in a smaller batch."""
    folder, evaluated = pair.port.ImageFolder, EVALUATED * args.batch_size + 3
    subset(folder, args.data_path / "train", work / "data" / "train", images)
    subset(folder, args.data_path / "val", work / "data" / "val", evaluated)
    return changed(args, work, data_path=work / "data")


def changed(args: argparse.Namespace, work: Path, **values: Any) -> argparse.Namespace:
    folders = {"output_dir": work / "output", "result_dir": work / "result"}
    values = {**vars(args), "print_freq": 1, "cache_dir": None, **folders, **values}
    return type(args)(**values)


class Models:
    """What is trained, and where it starts from.

    Nothing of it is made before it is asked for: a part that runs beside makes its own.

    Args:
        work: folder to work in.

    Attributes:
        per_epoch: steps.
        images: to train on; each epoch ends in a smaller batch.
        linked: the arguments, with a data folder of so many images.
    """

    def __init__(self, pair: TrainingPair, args: argparse.Namespace, work: Path) -> None:
        self.pair, self.args, self.work = pair, args, work
        self.per_epoch = -(-args.steps // min(EPOCHS, args.epochs))
        self.images = (self.per_epoch - 1) * args.batch_size + max(3, args.batch_size // 2 - 1)
        self.linked = on_links(pair, args, work, self.images)

    @cached_property
    def data(self) -> tuple[Any, Any]:
        """The ImageFolder to train on, and the one to evaluate."""
        folder = self.pair.port.ImageFolder
        return folder(self.linked.data_path / "train"), folder(self.linked.data_path / "val")

    def reference(self) -> torch.nn.Module:
        """A fresh one."""
        classes = len(self.data[0].classes)
        return self.pair.reference.MODELS[self.args.model](num_classes=classes)

    @cached_property
    def pairing(self) -> Pairing:
        reference = self.reference()
        classes = len(self.data[0].classes)
        port = self.pair.port.MODELS[self.args.model](num_classes=classes)
        layer_map = read_layer_map(self.args.layer_map, port, reference)
        return pair_weights(port, reference.state_dict(), layer_map)

    @cached_property
    def alive(self) -> Start:
        """In float64, of weights none of which is without effect."""
        rules, seed = self.pairing.table, self.args.seed
        torch.manual_seed(seed)
        model = make_alive(self.reference(), seed=seed, image_size=self.args.train_crop_size)
        return Start(torch_arrays(model, rules), rules, "float64")

    @cached_property
    def fresh(self) -> Start:
        """In float32, as a training of the reference's begins."""
        rules = self.pairing.table
        torch.manual_seed(self.args.seed)
        return Start(torch_arrays(self.reference(), rules), rules, "float32")


def compare_float64(models: Models) -> tuple[Comparison, list[str]]:
    """(Comparison, lines on what differs) of Loops."""
    pair, args = models.pair, changed(models.linked, models.work / "steps")
    steps, per_epoch = args.steps, models.per_epoch
    if args.ra_sampler:
        per_epoch = len(Draws(pair, args).sampler) // args.batch_size
    # After the warm-up, in which the moving average is the model.
    stop = 3 * steps // 4 // per_epoch * per_epoch
    if per_epoch > 2:
        # Lines on two steps; where the port is stopped it writes one, and so must the reference.
        args = changed(args, args.output_dir.parent, print_freq=2)
        stop += (per_epoch - 2) // 4 * 2 + 1
    with Draws(pair, args).replayed() as batch:
        loops = Loops(pair, args, models.alive, batch, steps, overflow=steps // 4, stop=stop)
        loops.run()
    return loops.comparison, loops.lines


def compare_free_runs(models: Models) -> tuple[Comparison, str]:
    """(Comparison, line on how far the curves diverge) in float32; plots them."""
    # What workers send is compared in float64.
    pair, args = models.pair, changed(models.linked, models.work / "free", workers=0)
    with Draws(pair, args).replayed():
        curves = free_runs(pair, args, models.fresh, args.steps)
    picture = models.args.result_dir / "log" / "train_align_steps.png"
    plot(curves, picture)
    losses = divergence(curves)
    comparison = Comparison()
    comparison.differences = compare_curves(curves)
    comparison.curves = curves_entry(curves)
    return comparison, (
        f"float32, {len(losses.port)} steps, each side on its own: the losses differ by "
        f"{losses.port[0]:.0e} at the first step and by {losses.port[-1]:.0e} at the last. For "
        f"comparison, PyTorch against PyTorch with weights changed by {UNITS} units of rounding: "
        f"{losses.copies[0]:.0e} and {losses.copies[-1]:.0e} -> {shown(picture)}"
    )


def compare_processes(models: Models, script: Path) -> Comparison:
    """Of several processes with one, and with PyTorch's; none unless there are to be several."""
    comparison, pair, args = Comparison(), models.pair, models.args
    if args.processes > 1:
        images = RANK_STEPS // RANK_EPOCHS * args.batch_size
        folder = models.work / "ranks"
        # One image less than for all: the sampler has to fill up.
        even, uneven = (
            on_links(pair, changed(args, folder), folder / str(n), images - n) for n in (0, 1)
        )
        comparison.differences = compare_ranks(
            pair, even, uneven.data_path, models.alive, RANK_STEPS, folder, script
        )
    return comparison


class Report:
    """Says what each comparison has found, and in the end whether all agrees.

    Args:
        folder: for train_align_steps.log, and .json for other programs.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "train_align_steps.log"
        self.all = Comparison()
        self.aligned = True
        self.checks, self.findings, self.lines, self.notes = [], [], [], []
        self.curves: dict[str, Any] | None = None
        self._since = time.perf_counter()

    def add(
        self, comparison: Comparison, what: str, line: str | None = None, lines: Sequence[str] = ()
    ) -> bool:
        """The findings of one comparison. Returns whether it agrees.

        Args:
            what: was compared.
            line: in place of the largest differences, where all agrees.
            lines: to add where it does not.
        """
        self.all.differences += comparison.differences
        self.curves = comparison.curves or self.curves
        compared = comparison.compared("training", what)
        self.aligned = compared.agrees
        now = time.perf_counter()
        summary = line or compared.summary
        if not self.aligned:
            summary = compared.findings[0].text()
            self._print("NOT ALIGNED: the two trainings differ", *compared.lines(), *lines)
            self.notes += [printable(line) for line in lines]
        else:
            self._print(summary)
        self.checks.append(Check(what, self.aligned, summary, now - self._since))
        self.findings += compared.findings
        self._since = now
        return self.aligned

    def _print(self, *lines: str) -> None:
        self.lines += [printable(line) for line in lines]
        print("\n".join(lines), flush=True)

    def write(self) -> None:
        """Writes the log, and the verdict."""
        self.all.write(self.log)
        rows = self.all.differences
        worst, largest = max(rows, key=share_of_bound), {}
        for row in rows:
            if row.kind not in largest or share_of_bound(row) > share_of_bound(largest[row.kind]):
                largest[row.kind] = row
        summary = {
            "aligned": self.aligned,
            "records agree": True,
            "verdict": "aligned" if self.aligned else "misaligned",
            "compared": list(dict.fromkeys(row.kind for row in rows)),
            "worst": f"{worst.where}, {worst.kind} {worst.name}",
            "difference": worst.value if np.isfinite(worst.value) else "inf",
            "threshold": worst.bound,
            "largest": {kind: (str(row.value), row.bound) for kind, row in largest.items()},
        }
        look_at = f"{shown(self.log)}, the lines with 'differs'"
        power, not_compared = self.all.power(), []
        if self.aligned:
            not_compared = power.not_compared()
            self._print(power.line(), *(f"Not compared: {line}" for line in not_compared))
            self.notes += power.lines()
            self._print("aligned: both trainers take the same steps")
        else:
            self._print(f"Look at: {look_at}")
        verdict = next(line for line in self.lines if line.startswith(("aligned: ", "NOT ALIGNED")))
        summary["part"] = new_part(
            *LOGS[self.log.stem],
            ALIGNED if self.aligned else NOT_ALIGNED,
            verdict,
            lines=self.lines,
            look_at=None if self.aligned else look_at,
            checks=[asdict(check) for check in self.checks],
            findings=finding_entries(self.findings),
            notes=self.notes,
            quantities=shares_of_bounds(rows),
            power=power.line().removeprefix("power: ") or None,
            not_compared=not_compared,
            curves=self.curves,
        )
        write_json(summary, self.log.with_suffix(".json"))


def write_misfits(pairing: Pairing, path: Path) -> None:
    """Says that the port is not built as the reference is; writes the JSON of the steps."""
    verdict, look_at = f"NOT ALIGNED: {pairing.verdict()}", "01_test_forward.py, which says more"
    lines = [verdict, *pairing.lines(), f"Look at: {look_at}"]
    print("\n".join(lines), flush=True)
    part = new_part(
        *LOGS[path.stem],
        NOT_ALIGNED,
        printable(verdict),
        lines=[printable(line) for line in lines],
        look_at=look_at,
        findings=finding_entries(pairing.findings()),
        weights=pairing.entries(),
        notes=[printable(line) for line in pairing.lines()],
    )
    write_json(misfits_summary(pairing, part), path)


def share_of_bound(row: Difference) -> float:
    return row.value / row.bound if row.bound else row.value


def align(pair: TrainingPair, args: argparse.Namespace, script: Path) -> bool:
    """Compares both trainers. Prints what is found; writes the log, its JSON, and the picture.

    Args:
        pair: TrainingPair.
        args: of the port's command line, with those of `add_flags`.
        script: for `compare_ranks`.

    Returns:
        whether all agrees.

    Raises:
        CannotRun: arguments or images with which there is nothing to compare.
        OSError
    """
    require_comparable(args)
    require_writable(args.result_dir / "log")
    work = Path(tempfile.mkdtemp(prefix="align_training_"))
    with (
        environment.cleaned_up(lambda: shutil.rmtree(work, ignore_errors=True)),
        environment.cleaned_up(pair.distributed.end_workers),
    ):
        models = Models(pair, args, work)
        # Neither needs what the other finds, or the steps in float64.
        with (
            beside(args.device, compare_free_runs, models) as free_runs,
            beside(args.device, compare_processes, models, script) as in_processes,
        ):
            return _align(models, free_runs, in_processes)


def _align(
    models: Models,
    free_runs: Callable[[], tuple[Comparison, str]],
    in_processes: Callable[[], Comparison],
) -> bool:
    """As `align`; `free_runs` and `in_processes` give what is found in these."""
    args = models.args
    log_dir = args.result_dir / "log"
    trained, evaluated = models.data
    models.pair.port_data.require_same_data(models.linked, trained, evaluated, 1)
    if not models.pairing.fits:
        write_misfits(models.pairing, log_dir / "train_align_steps.json")
        return False
    print(
        f"{args.model}: {args.steps} steps of {args.batch_size} images, {models.per_epoch} in an "
        f"epoch ({models.images} images of {len(trained.classes)} classes, "
        f"{args.train_crop_size} px)",
        flush=True,
    )
    report = Report(log_dir)
    found, lines = compare_float64(models)
    agrees = report.add(found, f"{args.steps} steps, each from the same state", lines=lines)
    if agrees:
        found, line = free_runs()
        agrees = report.add(found, f"free runs of {args.steps} steps", line)
    if agrees and args.processes > 1:
        what = (
            f"{RANK_STEPS} steps of {PROCESSES} processes, compared with one process and with "
            "PyTorch's"
        )
        report.add(in_processes(), what)
    report.write()
    return report.aligned
