"""Whether both sides learn equally well: trainings of both, as processes, over several seeds."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import environment
from ..arguments import MOST_EPOCHS, MOST_WORKERS, Parser, file_path, whole
from ..convert import convert_file
from ..files import CannotRun, only_user, reason_of, shown, whole_file
from ..trainers import load_training, write_top1
from . import significance
from .accuracy import load_top1, report, require_same_training
from .digits import VALIDATION, make_digits

__all__ = ["Form", "Framework", "add_flags", "compare_learning", "form_of"]

CLASSES = 10
# A top-1 is a whole number of images: what rounding to one of them spreads, at the least.
ROUNDING = 100 / VALIDATION / math.sqrt(12)


class Framework(NamedTuple):
    """One of the two sides; of two of them the port is the first."""

    name: str
    script: Path  # the trainer; its flags are those of Training.command
    weights: str  # suffix
    record: str


class Form(NamedTuple):
    """How long both sides learn, by which recipe, and what is known of it beforehand."""

    model: str
    recipe: str  # flags of both trainers, but for --epochs and --seed
    epochs: int
    seeds: int
    output_dir: Path
    enough: float  # top-1 in per cent that each side has to reach, unless the form is a short one
    # Of a short form, which has too few seeds to tell: standard deviation of the last top-1 in
    # points, and of how many trainings of the reference.
    spread: float | None = None
    spread_runs: int = 0

    @property
    def is_short(self) -> bool:
        return self.spread is not None


class Training(NamedTuple):
    """One training of one framework."""

    framework: Framework
    seed: int
    epochs: int
    output_dir: Path
    flags: str

    @property
    def name(self) -> str:
        return f"{self.framework.name}_seed{self.seed}_epochs{self.epochs}"

    @property
    def folder(self) -> Path:
        return self.output_dir / self.name

    @property
    def weights(self) -> Path:
        return self.output_dir / "weights" / f"seed{self.seed}{self.framework.weights}"

    @property
    def log(self) -> Path:
        return self.output_dir / f"{self.name}.log"

    @property
    def recipe(self) -> list[str]:
        return [*shlex.split(self.flags), "--epochs", str(self.epochs), "--seed", str(self.seed)]

    @property
    def command(self) -> list[str]:
        return [
            sys.executable,
            str(self.framework.script),
            *("--data-path", str(self.output_dir / "digits")),
            *("--weights", str(self.weights)),
            *self.recipe,
            *("--workers", "0"),
            *("--output-dir", str(self.folder), "--result-dir", str(self.folder)),
        ]

    @property
    def is_finished(self) -> bool:
        try:
            recipe = json.loads((self.folder / "finished.json").read_text(encoding="utf-8"))
            load_training(self.folder / self.framework.record)
        except (OSError, ValueError, CannotRun):
            return False
        return recipe == self.recipe

    def finish(self) -> None:
        with whole_file(self.folder / "finished.json") as temporary:
            temporary.write_text(json.dumps(self.recipe) + "\n", encoding="utf-8")

    def curves(self) -> dict[str, np.ndarray]:
        """{"top1", "loss": (epochs,) float64}: of the images of val, and of those trained on.

        Raises:
            CannotRun: what the training left is not whole.
        """
        path = self.folder / "train.jsonl"
        try:
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            top1 = [entry["top1"] for entry in entries if entry["kind"] == "val"]
            loss = [entry["loss"] for entry in entries if entry["kind"] == "epoch"]
            curves = {"top1": np.array(top1, float), "loss": np.array(loss, float)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CannotRun(
                f"cannot read {shown(path)}: {reason_of(error)}. Delete {shown(self.folder)}: it "
                "is then trained again"
            ) from error
        recorded = load_top1(self.folder / self.framework.record, self.framework.script.name)
        lengths = {len(values) for values in curves.values()}
        if lengths != {self.epochs} or recorded["top1"][0] != curves["top1"][-1]:
            raise CannotRun(
                f"{shown(path)} does not fit its record, {self.framework.record}, or is not of "
                f"{self.epochs} epochs. Delete {shown(self.folder)}: it is then trained again"
            )
        return curves


def make_weights(pair: ModuleType, model: str, seed: int, files: Sequence[Path]) -> None:
    """The reference's initialisation from `seed`, for both frameworks.

    Args:
        pair: has `port` and `reference`, each with MODELS.
        model: name in MODELS.
        files: of the port and of the reference.
    """
    torch.manual_seed(seed)
    network = pair.reference.MODELS[model](num_classes=CLASSES)
    with whole_file(files[1]) as temporary:
        torch.save(network.state_dict(), temporary)
    convert_file(files[1], files[0], pair.port.MODELS[model](num_classes=CLASSES))


class Runner:
    """Runs trainings, several at once; ends them all where one fails or this is stopped."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.processes, self.lock, self.stopped = set(), threading.RLock(), False
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def run(self, trainings: Sequence[Training]) -> None:
        """Raises: CannotRun, if one fails."""
        with ThreadPoolExecutor(self.jobs) as pool, environment.cleaned_up(self.stop):
            futures = [pool.submit(self.train, training) for training in trainings]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            try:
                for future in done:
                    future.result()
            finally:
                self.stop()
                pool.shutdown(cancel_futures=True)

    def train(self, training: Training) -> None:
        shutil.rmtree(training.folder, ignore_errors=True)
        begin = time.perf_counter()
        with open(training.log, "w") as log:
            with self.lock:
                if self.stopped:
                    return
                process = subprocess.Popen(
                    training.command, stdout=log, stderr=subprocess.STDOUT, env=self.environment
                )
                self.processes.add(process)
            status = process.wait()
        with self.lock:
            self.processes.discard(process)
            if self.stopped:
                return
        if status:
            lines = training.log.read_text(
                encoding="utf-8", errors="replace"
            ).strip().splitlines() or ["no output"]
            raise CannotRun(
                f"{training.name} ended with exit status {status}: "
                f"{lines[-1].removeprefix('error: ')}. Its log: {shown(training.log)}"
            )
        top1 = training.curves()["top1"][-1]
        training.finish()
        seconds = time.perf_counter() - begin
        print(f"{training.name}: top1 {top1:.3f}, {seconds:.0f} sec", flush=True)

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            running = list(self.processes)
        for process in running:
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGTERM)
        for process in running:
            environment.end(process)


def train_all(pair: ModuleType, model: str, trainings: Sequence[Training], jobs: int) -> None:
    """Runs what is missing of `trainings`. Raises: CannotRun."""
    missing = [t for t in trainings if not t.is_finished]
    text = f"{len(trainings)} trainings of {trainings[0].epochs} epochs, {jobs} at once"
    if len(missing) < len(trainings):
        text += f"; {len(trainings) - len(missing)} are there already"
    print(text, flush=True)
    for seed in sorted({t.seed for t in missing}):
        make_weights(pair, model, seed, [t.weights for t in trainings if t.seed == seed])
    Runner(jobs).run(missing)


def judge(
    port: Sequence[float], reference: Sequence[float], form: Form
) -> tuple[significance.Comparison, str | None, list[str]]:
    """(Comparison, why they are not aligned whatever it says or None, lines on the figures).

    Args:
        port, reference: last top-1s in per cent, one for each seed.
        form: Form.
    """
    lines = [
        f"{name}: {np.mean(top1):.3f}{spread(top1)} ({', '.join(f'{x:.2f}' for x in top1)})"
        for name, top1 in (("paddle", port), ("torch", reference))
    ]
    level = f"{100 * significance.ALPHA:g} %"
    if form.spread is not None:
        found = significance.known_spread(port, reference, form.spread)
        lines.append(
            f"short form, too short to reach {form.enough:g} %: compared with the spread that "
            f"{form.spread_runs} such trainings in PyTorch had, {form.spread:g} points; "
            f"z-test, two-sided, at {level}: p {found.p:.2g}"
        )
    else:
        found = significance.compare_means(port, reference, smallest_spread=ROUNDING)
        lines.append(f"Welch's t-test, two-sided, at {level}: p {found.p:.2g}")
    lines += [
        f"paddle minus torch: {found.difference:+.3f} points, "
        f"{100 - 100 * significance.ALPHA:g} % interval {found.low:+.3f} to {found.high:+.3f}",
        f"a true difference of {found.detectable:.2f} points would be found in "
        f"{100 * significance.POWER:g} % of such comparisons",
        f"the true means differ by at most {found.equivalent:.2f} points (two one-sided tests at "
        f"{level})",
    ]
    failure = None
    for name, top1 in (("torch", reference), ("paddle", port)):
        if not form.is_short and np.mean(top1) < form.enough:
            failure = f"{name} reached {np.mean(top1):.2f} %, and has to reach {form.enough:g} %"
    return found, failure, lines


def spread(values: Sequence[float]) -> str:
    return f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""


def write_records(
    frameworks: Sequence[Framework],
    trainings: Sequence[Training],
    port: Any,
    reference: Any,
    folder: Path,
) -> list[dict[str, np.ndarray]]:
    """Writes both means, in per cent, and what they are of.

    Returns:
        what was written, as of load_top1, reference first.

    Raises:
        CannotRun: it cannot be written, or is not known.
    """
    records = []
    for framework, top1 in zip(reversed(frameworks), (reference, port)):
        mine = [t for t in trainings if t.framework == framework]
        training = load_training(mine[0].folder / framework.record)
        path = folder / framework.record
        write_top1(path, np.mean(top1), {**training, "seeds": [t.seed for t in mine]})
        records.append(load_top1(path, "align_learning.py"))
    require_same_training(*(folder / framework.record for framework in frameworks))
    return records


def plot(curves: Any, path: Path, title: str) -> None:
    """Writes the picture: mean over the seeds, and the band from the lowest to the highest.

    Args:
        curves: {"Paddle", "PyTorch": [Training.curves() of each seed]}.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.4), dpi=100, layout="constrained")
    panels = (("top1", "validation top-1 in %"), ("loss", "training loss"))
    styles = {"Paddle": ("tab:blue", "-"), "PyTorch": ("tab:orange", "--")}
    for axis, (key, label) in zip(axes, panels):
        for name, runs in curves.items():
            values = np.stack([run[key] for run in runs])
            epochs = np.arange(1, values.shape[1] + 1)
            color, line = styles[name]
            axis.plot(epochs, values.mean(0), line, color=color, label=name, linewidth=2)
            axis.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
        axis.set(xlabel="epoch", ylabel=label, xlim=(1, values.shape[1]))
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylim(0, 100)
    axes[1].set_ylim(bottom=0)
    figure.suptitle(title, fontsize=11)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    pyplot.close(figure)


def add_flags(parser: Parser, long: Form, short: Form, result_dir: Path) -> None:
    """Adds the flags of a comparison in one of two Forms."""
    add = parser.group("the trainings").add_argument
    add("--short", action="store_true",
        help="about a minute: whether the port learns as fast, not how far it gets")  # fmt: skip
    add("--seeds", type=whole(1, 1000),
        help=f"trainings in each framework; default: {long.seeds}, "
        f"with --short {short.seeds}")  # fmt: skip
    add("--epochs", type=whole(2, MOST_EPOCHS),
        help=f"default: {long.epochs}; --short has {short.epochs}")  # fmt: skip
    add("--jobs", type=whole(1, MOST_WORKERS), default=min(2, os.cpu_count() or 1),
        help="trainings at once, which share the cores")  # fmt: skip
    add = parser.group("output").add_argument
    add("--output-dir", type=file_path,
        help="trainings and their logs; default: result/learning, with --short "
        "result/learning_short")  # fmt: skip
    add("--result-dir", type=file_path, default=result_dir, help="records, log and picture")


def form_of(args: argparse.Namespace, long: Form, short: Form) -> Form:
    """The Form of a command line. Raises: CannotRun."""
    if args.short and args.epochs:
        raise CannotRun(
            f"--epochs {args.epochs} with --short: the spread of the short form is known for "
            f"{short.epochs} epochs only: leave out one of them"
        )
    form = short if args.short else long
    given = {name: getattr(args, name) for name in ("seeds", "epochs", "output_dir")}
    form = form._replace(**{name: value for name, value in given.items() if value is not None})
    if form.seeds < 2 and not form.is_short:
        raise CannotRun(f"--seeds {form.seeds}: a spread needs 2 or more, or --short")
    return form


def compare_learning(
    pair: ModuleType,
    frameworks: Sequence[Framework],
    form: Form,
    jobs: int,
    result_dir: Path,
    network: str,
) -> bool:
    """Trains both sides on handwritten digits, and compares how well they have learnt.

    Args:
        pair: as of `make_weights`.
        frameworks: the port's Framework and the reference's.
        form: Form.
        jobs: trainings at once.
        result_dir: for the records, the log and the picture.
        network: what the picture calls the model.

    Returns:
        whether they are aligned.

    Raises:
        CannotRun: a training fails, or what it left is damaged; a folder is in use.
    """
    folder = Path(os.path.realpath(form.output_dir))
    trainings = [
        Training(framework, seed, form.epochs, folder, form.recipe)
        for seed in range(form.seeds)
        for framework in frameworks
    ]
    with only_user(form.output_dir, "--output-dir"), only_user(result_dir, "--result-dir"):
        make_digits(form.output_dir / "digits")
        train_all(pair, form.model, trainings, jobs)
        return _compare(frameworks, trainings, form, result_dir, network)


def _compare(
    frameworks: Sequence[Framework],
    trainings: Sequence[Training],
    form: Form,
    result_dir: Path,
    network: str,
) -> bool:
    """Compares what was trained. Returns whether it is aligned. Raises: CannotRun."""
    curves = {
        name: [t.curves() for t in trainings if t.framework == framework]
        for name, framework in zip(("Paddle", "PyTorch"), frameworks)
    }
    port, reference = ([run["top1"][-1] for run in runs] for runs in curves.values())
    found, failure, lines = judge(port, reference, form)
    picture = result_dir / "log" / "train_align.png"
    seeds = "1 seed" if form.seeds == 1 else f"{form.seeds} seeds"
    plot(curves, picture, f"{network} on handwritten digits: mean and range of {seeds}")
    theirs, mine = write_records(frameworks, trainings, port, reference, result_dir)
    return report(
        theirs,
        mine,
        found.tolerance,
        result_dir,
        [*lines, f"Curves: {shown(picture)}"],
        failure,
        hint="make align, which says what differs; the logs of the trainings in "
        f"{shown(form.output_dir)}",
    )
