"""Trains MobileNetV3 in PaddlePaddle, with the flags of torchvision's references/classification.

A try-out on this machine, a few epochs on lite_data, under a minute:

    python train.py

ImageNet (--data-path has the folders train and val), by one of the recipes:

    python train.py @recipes/mobilenet_v3_small_120.txt --data-path /data/imagenet      # one GPU
    python -m paddle.distributed.launch --gpus 0,1,2,3,4,5,6,7 \\
        train.py @recipes/mobilenet_v3_small_600.txt --data-path /data/imagenet         # eight

Two machines, on each of them (10.0.0.1 is the first):

    python -m paddle.distributed.launch --nnodes 2 --master 10.0.0.1:8090 \\
        --gpus 0,1,2,3,4,5,6,7 train.py @recipes/mobilenet_v3_small_600.txt --data-path …

Two processes on a CPU:

    python -m paddle.distributed.launch --nproc_per_node 2 train.py

Go on after a stop, whatever stopped it; bit for bit the same as without the stop:

    python train.py … --resume auto

Exit status: 0 trained to the end, 1 the training failed (its loss is no number any more), 2 it
could not run, 130 or 143 stopped by SIGINT or SIGTERM after saving: start it again with
--resume auto.
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse
import contextlib
import json
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

environment.require("numpy", "PIL", "paddle", "reprod_log", "tqdm", "visualdl")


import numpy as np  # noqa: E402
import paddle  # noqa: E402

import paddle_mv3  # noqa: E402
from alignment.files import (  # noqa: E402
    CannotRun,
    described,
    only_user,
    reason_of,
    require_writable,
    shown,
    whole_file,
)
from alignment.screen import leave, tell  # noqa: E402
from alignment.trainers import training_of, write_top1  # noqa: E402
from Checkpoint6 import checkpoint, distributed  # noqa: E402
from Checkpoint6.arguments import TRY_OUT, recipe_of, require_same_recipe  # noqa: E402
from Checkpoint6.arguments import parse as parse_arguments  # noqa: E402
from Checkpoint6.data import evaluation_data, require_same_data, training_data  # noqa: E402
from Checkpoint6.logs import Log  # noqa: E402
from Checkpoint6.saver import Saver, load_weights  # noqa: E402
from Checkpoint6.trainer import Diverged, Stopped, Trainer, Window, cpu_threads  # noqa: E402


def train_one_epoch(
    trainer: Trainer,
    loader: paddle_mv3.DataLoader,
    log: Log,
    stop: distributed.Stop,
    save: Callable[[], None],
) -> None:
    """What is left of an epoch.

    Args:
        loader: paddle_mv3.DataLoader whose batch sampler is set to the trainer's position.
        stop: distributed.Stop.
        save: called without arguments to write a checkpoint, by all ranks at the same step.

    Raises:
        Stopped, Diverged
        CannotRun: an image that cannot be read, after saving. A batch of one image that is too
            small for batch norm.
    """
    args, total = trainer.args, trainer.steps_per_epoch
    trainer.network.train()
    log.progress(total, trainer.iteration, f"epoch {trainer.epoch}")
    costs: deque[float] = deque(maxlen=50)
    window = Window()
    waiting, batches = window.begin, iter(loader)
    while True:
        batch: Any = None
        failure, flags = None, 0
        try:
            batch = next(batches)
            if batch is None:
                flags = EMPTY
        except StopIteration:
            break
        except OSError as error:  # an image that cannot be read, between two steps
            failure, flags = str(error), UNREADABLE
        found = distributed.any_rank(flags)
        if found & UNREADABLE:
            if window.losses:
                trainer.sums += window.read(trainer)[0]
            save()
            end_unreadable(trainer, failure)
        window.reader_cost += time.perf_counter() - waiting
        if found & EMPTY:
            leave_out(trainer, log)
        else:
            images, labels = batch
            try:
                loss, output = trainer.step(images, labels)
            except paddle_mv3.NoVariance as error:
                raise no_variance(trainer, len(labels)) from error
            window.add(loss, paddle_mv3.topk_correct(output, labels, trainer.topk), len(labels))
        log.advance()

        stopping = stop_requested(stop)
        saving = stopping or (args.save_steps and trainer.steps % args.save_steps == 0)
        if saving or trainer.iteration % args.print_freq == 0 or trainer.iteration == total:
            if window.losses:
                sums, steps, reader_cost, batch_cost = window.read(trainer)
                trainer.sums += sums
                costs.append(batch_cost)
                usual_cost = float(np.mean(costs))
                train_line(trainer, log, sums, steps, reader_cost, batch_cost, usual_cost)
            if saving:
                save()
            if stopping:
                distributed.agree(None, trainer.world_size)  # rank 0 has written
                raise Stopped(stopping)
            window = Window()
        waiting = time.perf_counter()
    log.end_progress()
    if not trainer.sums[0]:
        distributed.end_together(trainer.world_size)
        folder = shown(args.data_path / "train")
        raise CannotRun(f"no batch of {folder} has an image that can be read: nothing to train on")


UNREADABLE, EMPTY = 1, 2  # what a rank's next batch can be


def no_variance(trainer: Trainer, images: int) -> CannotRun:
    """The error of a batch of which batch norm has one value for each channel."""
    args = trainer.args
    return CannotRun(
        f"epoch {trainer.epoch}, iteration {trainer.iteration}: a batch of {images} at "
        f"--train-crop-size {args.train_crop_size} gives batch norm one value for each channel, "
        "and no variance. Give a larger --train-crop-size, or another --batch-size, so that no "
        "batch has one image"
    )


def end_unreadable(trainer: Trainer, failure: str | None) -> NoReturn:
    """Ends all ranks, where one of them has met an image that cannot be read and all is saved.

    Args:
        failure: message of this rank's, or None.

    Raises:
        CannotRun: always.
    """
    failures = distributed.end_together(trainer.world_size, failure)  # and rank 0 has written
    first = next(text for text in failures if text is not None)
    again = "" if trainer.args.test_only else "--resume auto "
    raise CannotRun(
        f"{first}. Repair or remove it, or leave out up to N such files: {again}--skip-corrupt N"
    )


def leave_out(trainer: Trainer, log: Log) -> None:
    """Passes over a step, on all ranks, for which one of them has no image that can be read."""
    if not trainer.left_out:
        whose = "the batch" if trainer.world_size == 1 else "the batch of a process"
        log.say(
            f"epoch {trainer.epoch}, iteration {trainer.iteration}: no image of {whose} can be "
            "read: the step is skipped; more such steps are skipped without a message"
        )
    trainer.left_out += 1
    trainer.iteration += 1


def stop_requested(stop: distributed.Stop) -> int:
    """The signal that any rank has got, or 0. A collective call."""
    asked = distributed.any_rank(int(stop.signal > 0))
    return (stop.signal or signal.SIGTERM) if asked else 0


def train_line(
    trainer: Trainer,
    log: Log,
    sums: np.ndarray,
    steps: int,
    reader_cost: float,
    batch_cost: float,
    usual_cost: float,
) -> None:
    """Writes the line of a window; the costs are seconds of a step."""
    images = sums[0]
    top1, top5, loss = sums[1:] / images
    left = (trainer.args.epochs - trainer.epoch) * trainer.steps_per_epoch - trainer.iteration
    values = {
        "epoch": trainer.epoch,
        "iter": trainer.iteration,
        "lr": float(trainer.optimizer.get_lr()),
        "loss": float(loss),
        "top1": float(100 * top1),
        "top5": float(100 * top5),
        "avg_reader_cost": reader_cost,
        "avg_batch_cost": batch_cost,
        "avg_samples": float(images / steps),
        "avg_ips": float(images / steps / batch_cost),
        "eta": round(usual_cost * left),
    }
    text = (
        "[Train] epoch: {epoch}, iter: {iter}/{total}, lr: {lr:.6g}, loss: {loss:.5f}, "
        "top1: {top1:.3f}, top5: {top5:.3f}, avg_reader_cost: {avg_reader_cost:.5f} sec, "
        "avg_batch_cost: {avg_batch_cost:.5f} sec, avg_samples: {avg_samples:.1f}, "
        "avg_ips: {avg_ips:.2f} images/sec, eta: {clock}"
    ).format(**values, total=trainer.steps_per_epoch, clock=clock(values["eta"]))
    log.record("train", text, trainer.steps, values)


def clock(seconds: int) -> str:
    """Hours, minutes, seconds."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def evaluate(
    trainer: Trainer, loader: paddle_mv3.DataLoader, log: Log, stop: distributed.Stop
) -> float:
    """Writes a line on the model and on its average, if there is one; returns the latter's top-1.

    In per cent; exact on any number of ranks: each image counts once. A collective call.

    Raises:
        Stopped
        CannotRun: an image that cannot be read.
    """
    models = {"": trainer.model}
    if trainer.model_ema:
        models["ema_"] = trainer.model_ema.module
    distributed.broadcast_statistics(models.values(), trainer.world_size)
    top1 = 0.0
    for prefix, model in models.items():
        begin = time.perf_counter()
        with trainer.autocast():
            top1, top5, loss = paddle_mv3.evaluate(
                model,
                readable(loader, trainer, stop),
                trainer.topk,
                trainer.loss,
                sharded=trainer.world_size > 1,
            )
        seconds = time.perf_counter() - begin
        values = {"top1": top1, "top5": top5, "loss": loss}
        text = accuracy_text(values, prefix)
        where = "" if trainer.args.test_only else f"epoch: {trainer.epoch}, "
        log.record(
            "val",
            f"[Eval] {where}{text}, {seconds:.1f} sec",
            trainer.steps,
            {"epoch": trainer.epoch, **{prefix + name: v for name, v in values.items()}},
        )
    return top1


def epoch_line(trainer: Trainer, log: Log, seconds: float) -> None:
    images, *sums = trainer.sums
    top1, top5, loss = (float(x / images) for x in sums)
    values = {"loss": loss, "top1": 100 * top1, "top5": 100 * top5}
    text = f"[Train] epoch: {trainer.epoch} done, {accuracy_text(values)}, "
    text += f"images: {int(images)}, {seconds:.1f} sec"
    values["images"] = int(images)
    log.record("epoch", text, trainer.steps, {"epoch": trainer.epoch, **values})


def accuracy_text(values: Mapping[str, float], prefix: str = "") -> str:
    """Accuracies in per cent with three decimals, a loss with five digits."""
    return ", ".join(
        f"{prefix}{name}: {value:.5g}" if name == "loss" else f"{prefix}{name}: {value:.3f}"
        for name, value in values.items()
    )


def readable(batches: Any, trainer: Trainer, stop: distributed.Stop) -> Iterator[Any]:
    """Batches to evaluate. What is evaluated has been saved, so nothing is lost where this ends.

    Raises:
        Stopped: by a signal, and this process is alone: others would wait for it to add up their
            results.
        CannotRun: an image of any rank cannot be read; after the last batch of this one, on all.
    """
    failure = None
    try:
        for batch in batches:
            if stop.signal and trainer.world_size == 1:
                raise Stopped(stop.signal)
            yield batch
    except OSError as error:
        failure = str(error)
    if distributed.any_rank(0 if failure is None else UNREADABLE):
        end_unreadable(trainer, failure)


def resume(
    args: argparse.Namespace, world_size: int, rank: int, dataset: paddle_mv3.ImageFolder, log: Log
) -> dict[str, Any] | None:
    """The state to go on from on all ranks, or None; only rank 0 reads the file.

    Raises:
        CannotRun: the file cannot be read, or is another training's.
    """
    problem, state = None, None
    if rank == 0:
        try:
            if args.resume == "auto":
                path, state = checkpoint.newest(args.output_dir, log.say)
            else:
                path, state = Path(args.resume), checkpoint.load(args.resume)
            if state and path:
                if "optimizer" in state:
                    checkpoint.require_whole(state, path)
                require_same_recipe(args, world_size, dataset, state, path)
                state["path"] = str(path)
                for later in checkpoint.set_aside(
                    args.output_dir, state["epoch"], state["iteration"]
                ):
                    log.say(f"a later checkpoint is kept under another name: {shown(later)}")
        except CannotRun as error:
            problem = str(error)
    problem, state = distributed.broadcast((problem, state), world_size)
    if problem:
        raise CannotRun(problem)
    return state


def prepare_output(args: argparse.Namespace) -> None:
    """Makes --result-dir, and looks into --output-dir, which is this training's alone.

    Raises:
        CannotRun: they cannot be written, or hold a training that is not to be resumed.
    """
    found = checkpoint.checkpoints(args.output_dir)
    if found and not args.resume:
        raise CannotRun(
            f"{shown(args.output_dir)} holds a training already ({found[0].name}): go on with it "
            "by --resume auto, or give another --output-dir"
        )
    require_writable(args.result_dir)
    checkpoint.remove_leftovers(args.output_dir)


def write_arguments(args: argparse.Namespace) -> None:
    """Raises: CannotRun."""
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    with whole_file(args.output_dir / "arguments.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def record(
    top1: float,
    trainer: Trainer,
    train_set: paddle_mv3.ImageFolder,
    eval_set: paddle_mv3.ImageFolder,
) -> Path:
    """Writes the final top-1, in per cent, for training alignment. Returns its file."""
    args, world_size = trainer.args, trainer.world_size
    training = training_of(recipe_of(args), world_size, args.data_path, train_set, eval_set)
    path = args.result_dir / "train_align_paddle.npy"
    write_top1(path, top1, training)
    return path


def main(
    args: argparse.Namespace, stop: distributed.Stop, rank: int = 0, world_size: int = 1
) -> None:
    """Trains, or evaluates with --test-only.

    Raises:
        CannotRun, OSError: bad input. Stopped, Diverged.
    """
    if args.use_deterministic_algorithms and args.device == "gpu":
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    with contextlib.ExitStack() as stack:
        if not args.test_only and rank == 0:
            stack.enter_context(only_user(args.output_dir, "--output-dir"))
            prepare_output(args)
        distributed.free_shared_memory()
        log = Log(rank)
        stack.callback(log.close)
        try:
            if args.test_only:
                test(args, stop, rank, world_size, log)
            else:
                train(stop, log, *set_up(args, rank, world_size, log))
        except Stopped as stopped:
            name = signal.Signals(stopped.args[0]).name
            saved = "" if args.test_only else ", all is saved: go on with --resume auto"
            log.say(f"stopped by {name}{saved}")
            raise
        except Exception as error:
            log.note(f"error: {reason_of(error)}")
            raise


def test(
    args: argparse.Namespace, stop: distributed.Stop, rank: int, world_size: int, log: Log
) -> None:
    """Evaluates --weights."""
    loader, dataset = evaluation_data(args, rank, world_size)
    trainer = make_trainer(args, dataset, 0, rank, world_size, log.say)
    log.say(f"{shown(args.weights)}, {len(dataset):,} images of {len(dataset.classes)} classes")
    evaluate(trainer, loader, log, stop)


def make_trainer(
    args: argparse.Namespace,
    dataset: paddle_mv3.ImageFolder,
    steps_per_epoch: int,
    rank: int,
    world_size: int,
    say: Callable[[str], object],
) -> Trainer:
    """A Trainer that begins with --weights; `say` hears of it. Raises: CannotRun."""
    classes, initialise = len(dataset.classes), None
    if args.weights:
        initialise = partial(load_weights, args, num_classes=classes, say=say)
    try:
        return Trainer(args, classes, steps_per_epoch, rank, world_size, initialise)
    except ValueError as error:
        raise CannotRun(str(error)) from error


def set_up(
    args: argparse.Namespace, rank: int, world_size: int, log: Log
) -> tuple[Trainer, tuple, tuple]:
    """(trainer, where it is to go on; training_data; evaluation_data).

    Raises:
        CannotRun, OSError: data, weights or checkpoint do not fit together, or to the arguments.
    """
    try:
        data = training_data(args, rank, world_size)
        eval_data = evaluation_data(args, rank, world_size)
        (loader, batches, train_set), (eval_loader, eval_set) = data, eval_data
    except ValueError as error:
        raise CannotRun(str(error)) from error
    require_same_data(args, train_set, eval_set, world_size)
    state = resume(args, world_size, rank, train_set, log) if args.resume else None
    if state:
        args.weights = None
    begun_with: list[str] = []  # lines for the log, which is not open yet
    trainer = make_trainer(args, train_set, len(batches), rank, world_size, begun_with.append)
    if state:
        with checkpoint.restoring(state["path"]):
            trainer.set_state_dict(state, state["path"])
            loader.skipped.update(state["skipped"])
    eval_loader.skipped = loader.skipped  # one count for all files
    trainer.parallel()

    if rank == 0:
        write_arguments(args)
    log.open(args.output_dir, trainer.steps if state else None)
    for each in (loader, eval_loader):
        each.on_skip = each.on_restart = log.warn
    parameters = sum(p.size for p in trainer.model.parameters() if not p.stop_gradient)
    log.say(
        f"{args.model}, {parameters:,} parameters; {len(train_set):,} images of "
        f"{len(train_set.classes)} classes to train on, {len(eval_set):,} to evaluate; "
        f"{world_size} x {args.device}, {world_size * args.batch_size} images in a step"
    )
    for line in begun_with:
        log.say(line)
    if args.data_path == TRY_OUT["data_path"]:
        log.say("a try-out on lite_data: give --data-path for other images")
    if state:
        finished = trainer.steps == args.epochs * trainer.steps_per_epoch
        log.say(
            f"going on from {shown(state['path'])}: epoch {trainer.epoch}, "
            f"iteration {trainer.iteration}" + ", the end: evaluating it again" * finished
        )
        for line in trainer.other_epochs(state["args"]["epochs"]):
            log.say(line)
        if args.device == "cpu" and state["threads"] != cpu_threads():
            log.say(
                f"with {cpu_threads()} CPU threads, where there were {state['threads']}: last bits "
                f"will differ. OMP_NUM_THREADS={state['threads']} makes them the same"
            )
    return trainer, data, eval_data


def train(
    stop: distributed.Stop, log: Log, trainer: Trainer, data: tuple, eval_data: tuple
) -> None:
    """Epoch after epoch: trains, saves, evaluates."""
    (loader, batches, train_set), (eval_loader, eval_set) = data, eval_data
    args = trainer.args
    saver = Saver(trainer, loader, train_set, log)
    while trainer.epoch < args.epochs:
        trainer.schedule.step(trainer.epoch)
        batches.set_epoch(trainer.epoch, trainer.iteration)
        begin = time.perf_counter()
        try:
            train_one_epoch(trainer, loader, log, stop, saver)
            share_skipped(loader, trainer.world_size)
            saver()
            require_few_skipped(loader, trainer.world_size)
            epoch_line(trainer, log, time.perf_counter() - begin)
            top1 = evaluate(trainer, eval_loader, log, stop)
        except Stopped:
            if saver.failure:
                raise saver.failure from None
            raise
        saver.best(top1)
        trainer.next_epoch()
    if trainer.rank == 0:
        file = record(top1, trainer, train_set, eval_set)
        log.say(f"top1 {top1:.3f} -> {shown(file)}")
        if trainer.best:
            epoch, best = trainer.best["epoch"], trainer.best["top1"]
            file = args.output_dir / f"best_{epoch:04}.pdparams"
            log.say(f"the best was top1 {best:.3f}, epoch {epoch} -> {shown(file)}")
    if saver.failure:
        raise saver.failure


def share_skipped(loader: paddle_mv3.DataLoader, world_size: int) -> None:
    """Counts the files that other ranks have skipped as well. A collective call."""
    for theirs in distributed.agree(dict(loader.skipped), world_size):
        loader.skipped.update(theirs)


def require_few_skipped(loader: paddle_mv3.DataLoader, world_size: int) -> None:
    """Raises CannotRun if all ranks together have skipped too many."""
    if len(loader.skipped) > loader.skip_corrupt:
        distributed.end_together(world_size)
        raise CannotRun(
            f"{len(loader.skipped)} images cannot be decoded, and --skip-corrupt is "
            f"{loader.skip_corrupt}: {', '.join(sorted(loader.skipped))}"
        )


def run() -> NoReturn:
    """Parses the command line, and leaves with the exit status."""
    args, rank, message = None, 0, ""
    try:
        args = parse_arguments(__doc__)
        stop = distributed.Stop()
        paddle.set_device(args.device)
        rank, world_size = distributed.start()
        main(args, stop, rank, world_size)
        status = 0
    except Stopped as stopped:
        status = 128 + stopped.args[0]
    except Diverged as error:
        found = checkpoint.checkpoints(args.output_dir) if args else []
        kept = f"the last checkpoint is {shown(found[0])}" if found else "there is no checkpoint"
        status, message = 1, f"{error}. Nothing was saved after it: {kept}. Try a lower --lr"
    except CannotRun as error:
        status, message = 2, str(error)
    except OSError as error:
        status, message = 2, described(error)
    except Exception as error:
        distributed.wait_for_word()
        with contextlib.suppress(OSError):
            traceback.print_exc()
        status, message = 1, f"{type(error).__name__}: {reason_of(error)}"
    if message:
        tell(f"rank {rank}: {message}" if rank else message)
    distributed.leave(status, message)
    distributed.end_workers()
    leave(status, in_files=args is not None and not args.test_only)


if __name__ == "__main__":
    run()
