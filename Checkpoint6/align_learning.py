"""Training alignment that needs no ImageNet: both frameworks learn real handwritten digits.

    python align_learning.py                # 5 trainings in each framework, to over 95 %
    python align_learning.py --short        # two short ones: does the port learn as fast?

The images are scikit-learn's 1,797 scans of digits, see digits.py. For each seed
torchvision draws initial weights; train.py and torch_ref/train.py both begin with them and train by
one recipe, as processes of their own with their usual command lines. The order of the images, the
augmentation and dropout are each framework's own draws, so single results differ, and their
means are compared: by Welch's t-test, two-sided, at 1 %.

Writes into --result-dir train_align_paddle.npy and train_align_benchmark.npy (top1: the mean over
the seeds, in per cent), log/train_align_diff.log and log/train_align.png, the curves. A training
that is whole in --output-dir is not run again: after a stop, the same command goes on.

Exit status: 0 aligned, 1 not aligned, 2 it could not run.
"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

environment.require("numpy", "PIL", "torch", "torchvision", "paddle", "reprod_log", "tabulate")
environment.require("sklearn", "scipy", "matplotlib")

import numpy as np  # noqa: E402
import paddle  # noqa: E402

paddle.disable_signal_handler()  # at once; see alignment/cli.py

import torch  # noqa: E402

import paddle_mv3  # noqa: E402
import torch_ref  # noqa: E402
from alignment.arguments import MOST_EPOCHS, MOST_WORKERS, file_path, whole  # noqa: E402
from alignment.files import CannotRun, only_user, reason_of, shown, whole_file  # noqa: E402
from alignment.trainers import load_training, write_top1  # noqa: E402
from alignment.training import significance  # noqa: E402
from alignment.training.accuracy import (  # noqa: E402
    PORT,
    REFERENCE,
    load_top1,
    report,
    require_same_training,
)
from alignment.training.digits import VALIDATION, make_digits  # noqa: E402
from Checkpoint6 import tools  # noqa: E402
from torch2paddle import convert_file  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

CLASSES = 10
ENOUGH = 95.0  # per cent; chance is 10
SHARED = (
    "--model mobilenet_v3_small {} --lr-scheduler cosineannealinglr --lr-warmup-epochs 1 "
    "--train-crop-size 48 --val-resize-size 48 --val-crop-size 48 --print-freq 1000"
)
# Small batches: evaluation uses batch norm's running statistics, which move by a hundredth in a
# step, so that many steps are needed.
LONG = {
    "recipe": SHARED.format("--batch-size 16 --opt adamw --lr 0.001 --weight-decay 0.01"),
    "epochs": 36,
    "seeds": 5,
    "output_dir": ROOT / "result" / "learning",
}
SHORT = {
    "recipe": SHARED.format("--batch-size 8 --opt sgd --lr 0.02"),
    "epochs": 5,
    "seeds": 1,
    "output_dir": ROOT / "result" / "learning_short",
}
# Standard deviation of the last top-1 of the short form, in points, and of how many trainings.
SHORT_SPREAD, SHORT_SPREAD_RUNS = 6.1, 8
# A top-1 is a whole number of images: what rounding to one of them spreads, at the least.
ROUNDING = 100 / VALIDATION / math.sqrt(12)


class Framework(NamedTuple):
    name: str
    script: Path
    weights: str  # suffix
    record: str


FRAMEWORKS = (
    Framework("paddle", ROOT / "Checkpoint6" / "train.py", ".pdparams", PORT),
    Framework("torch", ROOT / "torch_ref" / "train.py", ".pth", REFERENCE),
)


class Training(NamedTuple):
    """One training of one framework."""

    framework: Framework
    seed: int
    epochs: int
    output_dir: Path
    flags: str

    @property
    def name(self):
        return f"{self.framework.name}_seed{self.seed}_epochs{self.epochs}"

    @property
    def folder(self):
        return self.output_dir / self.name

    @property
    def weights(self):
        return self.output_dir / "weights" / f"seed{self.seed}{self.framework.weights}"

    @property
    def log(self):
        return self.output_dir / f"{self.name}.log"

    @property
    def recipe(self):
        return [*shlex.split(self.flags), "--epochs", str(self.epochs), "--seed", str(self.seed)]

    @property
    def command(self):
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
    def is_finished(self):
        try:
            recipe = json.loads((self.folder / "finished.json").read_text(encoding="utf-8"))
            load_training(self.folder / self.framework.record)
        except (OSError, ValueError, CannotRun):
            return False
        return recipe == self.recipe

    def finish(self):
        with whole_file(self.folder / "finished.json") as temporary:
            temporary.write_text(json.dumps(self.recipe) + "\n", encoding="utf-8")

    def curves(self):
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
                "is then trained anew"
            ) from error
        recorded = load_top1(self.folder / self.framework.record, self.framework.script.name)
        lengths = {len(values) for values in curves.values()}
        if lengths != {self.epochs} or recorded["top1"][0] != curves["top1"][-1]:
            raise CannotRun(
                f"{shown(path)} does not fit its record, {self.framework.record}, or is not of "
                f"{self.epochs} epochs. Delete {shown(self.folder)}: it is then trained anew"
            )
        return curves


def make_weights(output_dir, seed):
    """torchvision's initialisation from `seed`, for both frameworks."""
    files = [output_dir / "weights" / f"seed{seed}{f.weights}" for f in FRAMEWORKS]
    torch.manual_seed(seed)
    model = torch_ref.MODELS["mobilenet_v3_small"](num_classes=CLASSES)
    with whole_file(files[1]) as temporary:
        torch.save(model.state_dict(), temporary)
    convert_file(files[1], files[0], paddle_mv3.MODELS["mobilenet_v3_small"](num_classes=CLASSES))


class Runner:
    """Runs trainings, several at once; ends them all where one fails or this is stopped."""

    def __init__(self, jobs):
        self.jobs = jobs
        self.processes, self.lock, self.stopped = set(), threading.RLock(), False
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def run(self, trainings):
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

    def train(self, training):
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

    def stop(self):
        with self.lock:
            self.stopped = True
            running = list(self.processes)
        for process in running:
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGTERM)
        for process in running:
            environment.end(process)


def train_all(trainings, jobs):
    """Runs what is missing of `trainings`. Raises: CannotRun."""
    missing = [t for t in trainings if not t.is_finished]
    text = f"{len(trainings)} trainings of {trainings[0].epochs} epochs, {jobs} at once"
    if len(missing) < len(trainings):
        text += f"; {len(trainings) - len(missing)} are there already"
    print(text, flush=True)
    for seed in sorted({t.seed for t in missing}):
        make_weights(trainings[0].output_dir, seed)
    Runner(jobs).run(missing)


def judge(port, reference, short):
    """(Comparison, why they are not aligned whatever it says or None, lines on the figures).

    Args:
        port, reference: last top-1s in per cent, one for each seed.
        short: whether they are of the short form.
    """
    lines = [
        f"{name}: {np.mean(top1):.3f}{spread(top1)} ({', '.join(f'{x:.2f}' for x in top1)})"
        for name, top1 in (("paddle", port), ("torch", reference))
    ]
    level = f"{100 * significance.ALPHA:g} %"
    if short:
        found = significance.known_spread(port, reference, SHORT_SPREAD)
        lines.append(
            f"short form, too short to reach {ENOUGH:g} %: compared with the spread that "
            f"{SHORT_SPREAD_RUNS} such trainings in PyTorch had, {SHORT_SPREAD:g} points; "
            f"z-test, two-sided, at {level}: p {found.p:.2g}"
        )
    else:
        found = significance.compare_means(port, reference, smallest_spread=ROUNDING)
        lines.append(f"Welch's t-test, two-sided, at {level}: p {found.p:.2g}")
    lines += [
        f"paddle less torch: {found.difference:+.3f} points, "
        f"{100 - 100 * significance.ALPHA:g} % interval {found.low:+.3f} to {found.high:+.3f}",
        f"found with a probability of {100 * significance.POWER:g} %: a true difference of "
        f"{found.detectable:.2f} points; the true means are within {found.equivalent:.2f} points "
        f"of each other (two one-sided tests at {level})",
    ]
    failure = None
    for name, top1 in (("torch", reference), ("paddle", port)):
        if not short and np.mean(top1) < ENOUGH:
            failure = f"{name} reached {np.mean(top1):.2f} %, and has to reach {ENOUGH:g} %"
    return found, failure, lines


def spread(values):
    return f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""


def write_records(trainings, port, reference, folder):
    """Writes both means, in per cent, and what they are of.

    Returns:
        what was written, as of load_top1, reference first.

    Raises:
        CannotRun: it cannot be written, or is not known.
    """
    records = []
    for framework, top1 in zip(reversed(FRAMEWORKS), (reference, port)):
        mine = [t for t in trainings if t.framework == framework]
        training = load_training(mine[0].folder / framework.record)
        path = folder / framework.record
        write_top1(path, np.mean(top1), {**training, "seeds": [t.seed for t in mine]})
        records.append(load_top1(path, "align_learning.py"))
    require_same_training(*(folder / framework.record for framework in FRAMEWORKS))
    return records


def draw(curves, path, title):
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


def parser():
    flags = tools.parser(__doc__)
    add = flags.add_argument
    add("--short", action="store_true",
        help="about a minute: whether the port learns as fast, not how far it gets")  # fmt: skip
    add("--seeds", type=whole(1, 1000),
        help=f"trainings in each framework; default: {LONG['seeds']}, "
        f"with --short {SHORT['seeds']}")  # fmt: skip
    add("--epochs", type=whole(2, MOST_EPOCHS),
        help=f"default: {LONG['epochs']}; --short has {SHORT['epochs']}")  # fmt: skip
    add("--jobs", type=whole(1, MOST_WORKERS), default=min(2, os.cpu_count() or 1),
        help="trainings at once, which share the cores")  # fmt: skip
    add("--output-dir", type=file_path,
        help="trainings and their logs; default: result/learning, with --short "
        "result/learning_short")  # fmt: skip
    add("--result-dir", type=file_path, default=ROOT / "result", help="records, log and picture")
    return flags


def settle(args):
    """Fills in what depends on the form. Raises: CannotRun."""
    if args.short and args.epochs:
        raise CannotRun(
            f"--epochs {args.epochs} with --short: the spread of the short form is known for "
            f"{SHORT['epochs']} epochs only: leave out one of them"
        )
    for name, value in (SHORT if args.short else LONG).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if args.seeds < 2 and not args.short:
        raise CannotRun(f"--seeds {args.seeds}: a spread needs 2 or more, or --short")


@environment.ended_by_signals()
def main(args):
    """Returns the exit status. Raises: CannotRun."""
    settle(args)
    trainings = [
        Training(framework, seed, args.epochs, Path(os.path.realpath(args.output_dir)), args.recipe)
        for seed in range(args.seeds)
        for framework in FRAMEWORKS
    ]
    with (
        only_user(args.output_dir, "--output-dir"),
        only_user(args.result_dir, "--result-dir"),
    ):
        make_digits(args.output_dir / "digits")
        train_all(trainings, args.jobs)
        return compare(args, trainings)


def compare(args, trainings):
    """Compares what was trained. Returns the exit status. Raises: CannotRun."""
    curves = {
        name: [t.curves() for t in trainings if t.framework == framework]
        for name, framework in zip(("Paddle", "PyTorch"), FRAMEWORKS)
    }
    port, reference = ([run["top1"][-1] for run in runs] for runs in curves.values())
    found, failure, lines = judge(port, reference, args.short)
    picture = args.result_dir / "log" / "train_align.png"
    title = f"MobileNetV3-Small on handwritten digits: mean and range of {args.seeds} seeds"
    draw(curves, picture, title.replace("1 seeds", "1 seed"))
    aligned = report(
        *write_records(trainings, port, reference, args.result_dir),
        found.tolerance,
        args.result_dir,
        [*lines, f"Curves: {shown(picture)}"],
        failure,
        hint="make align, which says what differs; the logs of the trainings in "
        f"{shown(args.output_dir)}",
    )
    return 0 if aligned else 1


if __name__ == "__main__":
    tools.run(main, parser())
