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

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Beside the workers of the data loader, threads that wait in a busy loop cost more than they save.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
warnings.filterwarnings("ignore", message="No ccache found")
warnings.filterwarnings("ignore", message="When training, we now always track")

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from PIL import Image  # noqa: E402
from reprod_log import ReprodLogger  # noqa: E402

import paddle_mv3  # noqa: E402
from alignment.files import CannotRun, first_line, shown, whole_file  # noqa: E402
from Checkpoint6 import checkpoint, distributed  # noqa: E402
from Checkpoint6.arguments import parse as parse_arguments  # noqa: E402
from Checkpoint6.arguments import recipe_of, require_same_recipe  # noqa: E402
from Checkpoint6.logs import Log  # noqa: E402


class Stopped(Exception):
    """By a signal, its only argument; all that is worth it has been saved."""


class Diverged(Exception):
    """The loss, or a weight, is infinite or no number."""


class Trainer:
    """A model, what trains it, and how far it has come.

    Args:
        args: of the command line.
        num_classes: of the data.
        rank, world_size: of this process.
        steps_per_epoch: batches of a rank in an epoch.

    Attributes:
        model: the network itself; `network` is the same, in DataParallel on several ranks.
        model_ema: ExponentialMovingAverage or None.
        epoch, iteration: of the next step, from 0.
        sums: (4,) float64, of the epoch so far over all ranks: images, hits in the first 1 and 5,
            loss.
        best: {"epoch": int, "top1": float} of the best evaluation, or {}.
    """

    def __init__(self, args, num_classes, steps_per_epoch, rank=0, world_size=1):
        self.args = args
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = steps_per_epoch
        self.topk = (1, min(5, num_classes))
        paddle.seed(args.seed)
        self.model = paddle_mv3.MODELS[args.model](num_classes=num_classes)
        if args.sync_bn:
            paddle_mv3.synchronize_batch_norm(self.model)
        self.criterion = paddle_mv3.CrossEntropyLoss(label_smoothing=args.label_smoothing)
        self.schedule = paddle_mv3.WarmupSchedule(
            args.lr,
            args.lr_scheduler,
            args.epochs,
            args.lr_warmup_epochs,
            args.lr_warmup_method,
            args.lr_warmup_decay,
            args.lr_step_size,
            args.lr_gamma,
            args.lr_min,
        )
        groups = paddle_mv3.weight_decay_groups(
            self.model, args.weight_decay, args.norm_weight_decay, args.bias_weight_decay
        )
        self.optimizer = paddle_mv3.create_optimizer(
            args.opt, groups, self.schedule, args.momentum, args.weight_decay
        )
        self.scaler = None
        if args.amp and args.amp_dtype == "float16":
            # PyTorch's defaults.
            self.scaler = paddle.amp.GradScaler(
                init_loss_scaling=2.0**16, incr_every_n_steps=2000, decr_every_n_nan_or_inf=1
            )
        if args.amp == "O2":
            self.model, self.optimizer = paddle.amp.decorate(
                self.model, self.optimizer, level="O2", dtype=args.amp_dtype, master_weight=True
            )
        self.model_ema = None
        if args.model_ema:
            decay = paddle_mv3.adjusted_decay(
                args.model_ema_decay,
                args.batch_size,
                world_size,
                args.model_ema_steps,
                args.epochs,
            )
            self.model_ema = paddle_mv3.ExponentialMovingAverage(self.model, decay)
        self.network = self.model
        self.epoch, self.iteration = args.start_epoch, 0
        self.sums = np.zeros(4)
        self.best = {}

    def parallel(self):
        """Puts the network into DataParallel, if there are several ranks; after loading weights."""
        if self.world_size > 1:
            self.network = paddle.DataParallel(self.model)

    def next_epoch(self):
        self.epoch, self.iteration, self.sums = self.epoch + 1, 0, np.zeros(4)

    @property
    def steps(self):
        """Updates that the weights have had."""
        return self.epoch * self.steps_per_epoch + self.iteration

    def autocast(self):
        if not self.args.amp:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.args.amp, dtype=self.args.amp_dtype)

    def step(self, images, labels):
        """One update of the weights. Returns the loss, (), and the logits; waits for neither."""
        args = self.args
        paddle.seed(paddle_mv3.step_seed(args.seed, self.epoch, self.iteration, self.rank))
        with self.autocast():
            output = self.network(images)
        output = output.astype("float32") if args.amp else output
        loss = self.criterion(output, labels)
        self.optimizer.clear_grad()
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
        else:
            loss.backward()
        if args.clip_grad_norm is not None:
            paddle_mv3.clip_grad_norm_(self.model.parameters(), args.clip_grad_norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.model_ema and self.iteration % args.model_ema_steps == 0:
            self.model_ema.update(self.model)
            if self.epoch < args.lr_warmup_epochs:
                self.model_ema.n_averaged = 0  # during warm-up the average is the model itself
        self.iteration += 1
        return loss.detach(), output.detach()

    def state_dict(self):
        """All that goes on from here needs; plain values and arrays."""
        ema = self.model_ema and self.model_ema.state_dict()
        return {
            "model": checkpoint.to_arrays(self.model.state_dict()),
            "model_ema": ema and {**ema, "module": checkpoint.to_arrays(ema["module"])},
            **checkpoint.optimizer_state(self.optimizer, self.model),
            "lr_scheduler": self.schedule.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
            "epoch": self.epoch,
            "iteration": self.iteration,
            "sums": self.sums,
            "best": self.best,
            "world_size": self.world_size,
            "steps_per_epoch": self.steps_per_epoch,
            "args": recipe_of(self.args),
        }

    def set_state_dict(self, state, path):
        """Raises: CannotRun, if the state is another model's; names the difference and `path`."""
        checkpoint.load_model(self.model, state["model"], path)
        if self.model_ema:
            checkpoint.load_model(self.model_ema.module, state["model_ema"]["module"], path)
            self.model_ema.n_averaged = state["model_ema"]["n_averaged"]
        self.schedule.set_state_dict(state["lr_scheduler"])
        checkpoint.load_optimizer(self.optimizer, self.model, state)
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.iteration = state["epoch"], state["iteration"]
        self.sums, self.best = np.array(state["sums"]), dict(state["best"])


class Window:
    """The steps since the last line: kept on the device, and read once for each line."""

    def __init__(self):
        self.losses, self.hits, self.images = [], [], []
        self.reader_cost = 0.0
        self.begin = time.perf_counter()

    def add(self, loss, hits, images):
        self.losses.append(loss)
        self.hits.append(hits)
        self.images.append(images)

    def read(self, trainer):
        """Over all ranks, (4,) float64 as `Trainer.sums`; the number of steps; the seconds of a
        step, waiting for data and in all. A collective call; waits for the device.

        Raises:
            Diverged: a loss is infinite or no number; says in which step and at which rate.
        """
        losses = paddle.stack(self.losses).astype("float64").numpy()
        hits = paddle.stack(self.hits).sum(axis=0).numpy()
        images = np.array(self.images, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(losses))
        sums = [images.sum(), *hits, 0.0 if len(bad) else (losses * images).sum(), len(bad)]
        *sums, any_bad = distributed.sum_over_ranks(np.array(sums), trainer.world_size)
        if any_bad:
            mine = (int(bad[0]), trainer.rank, float(losses[bad[0]])) if len(bad) else None
            found = distributed.agree(mine, trainer.world_size)
            step, rank, loss = min(item for item in found if item)
            iteration = trainer.iteration - len(losses) + step
            raise Diverged(
                f"the loss is {loss} in epoch {trainer.epoch}, iteration {iteration}"
                + f" (rank {rank})" * (trainer.world_size > 1)
                + f", at a learning rate of {trainer.optimizer.get_lr():.6g}"
            )
        steps = len(losses)
        seconds = time.perf_counter() - self.begin
        return np.array(sums), steps, self.reader_cost / steps, seconds / steps


def train_one_epoch(trainer, loader, log, stop, save):
    """What is left of an epoch.

    Args:
        loader: paddle_mv3.DataLoader whose batch sampler is set to the trainer's position.
        stop: distributed.Stop.
        save: called without arguments to write a checkpoint, by all ranks at the same step.

    Raises:
        Stopped, Diverged
    """
    args, total = trainer.args, trainer.steps_per_epoch
    trainer.network.train()
    log.progress(total, trainer.iteration, f"epoch {trainer.epoch}")
    costs, window = deque(maxlen=50), Window()
    waiting = window.begin
    for images, labels in loader:
        window.reader_cost += time.perf_counter() - waiting
        loss, output = trainer.step(images, labels)
        window.add(loss, paddle_mv3.topk_correct(output, labels, trainer.topk), len(labels))
        log.advance()

        stopping = stop_requested(trainer, stop)
        saving = stopping or (args.save_steps and trainer.steps % args.save_steps == 0)
        if saving or trainer.iteration % args.print_freq == 0 or trainer.iteration == total:
            sums, *cost = window.read(trainer)
            trainer.sums += sums
            costs.append(cost[-1])
            train_line(trainer, log, sums, *cost, np.mean(costs))
            if saving:
                save()
            if stopping:
                distributed.agree(None, trainer.world_size)  # rank 0 has written
                raise Stopped(stopping)
            window = Window()
        waiting = time.perf_counter()
    log.end_progress()


def stop_requested(trainer, stop):
    """The signal that any rank has got, or 0."""
    if trainer.world_size == 1:
        return stop.signal
    # Ranks on GPUs agree where they meet anyway: asking would make the host wait for the device.
    if trainer.args.device != "cpu" and trainer.iteration % trainer.args.print_freq:
        return 0
    return max(distributed.agree(stop.signal, trainer.world_size))


def train_line(trainer, log, sums, steps, reader_cost, batch_cost, usual_cost):
    """Writes the line of a window; the costs are seconds of a step."""
    images, top1, top5, loss = sums[0], *(sums[1:] / sums[0])
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


def clock(seconds):
    """Hours, minutes, seconds."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def evaluate(trainer, loader, log, stop):
    """Writes a line on the model and on its average, if there is one; returns the latter's top-1.

    In per cent; exact on any number of ranks: each image counts once. A collective call.

    Raises:
        Stopped
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
                until(stop, loader),
                trainer.topk,
                lambda output, labels: trainer.criterion(output.astype("float32"), labels),
                sharded=trainer.world_size > 1,
            )
        seconds = time.perf_counter() - begin
        values = {"top1": top1, "top5": top5, "loss": loss}
        text = ", ".join(f"{prefix}{name}: {value:.5g}" for name, value in values.items())
        log.record(
            "val",
            f"[Eval] epoch: {trainer.epoch}, {text}, {seconds:.1f} sec",
            trainer.steps,
            {"epoch": trainer.epoch, **{prefix + name: v for name, v in values.items()}},
        )
    return top1


def epoch_line(trainer, log, seconds):
    images, *sums = trainer.sums
    top1, top5, loss = (float(x / images) for x in sums)
    values = {"loss": loss, "top1": 100 * top1, "top5": 100 * top5, "images": int(images)}
    text = ", ".join(f"{name}: {value:.5g}" for name, value in values.items())
    text = f"[Train] epoch: {trainer.epoch} done, {text}, {seconds:.1f} sec"
    log.record("epoch", text, trainer.steps, {"epoch": trainer.epoch, **values})


def until(stop, batches):
    """Batches, until a signal. What is evaluated has been saved, so nothing is lost."""
    for batch in batches:
        if stop.signal:
            raise Stopped(stop.signal)
        yield batch


def training_data(args, rank, world_size):
    """(DataLoader of this rank's share, its BatchSampler, ImageFolder).

    Raises:
        ValueError: more processes than images.
        OSError: no such folder, or a class without images.
    """
    # Workers send bytes, a quarter of float32, unless what follows in them needs normalised images.
    as_bytes = not (args.mixup_alpha or args.cutmix_alpha or args.random_erase)
    preset = paddle_mv3.ClassificationPresetTrain(
        crop_size=args.train_crop_size,
        interpolation=Image.Resampling[args.interpolation.upper()],
        auto_augment_policy=args.auto_augment,
        ra_magnitude=args.ra_magnitude,
        augmix_severity=args.augmix_severity,
        random_erase_prob=args.random_erase,
        normalize=not as_bytes,
    )
    dataset = paddle_mv3.ImageFolder(args.data_path / "train", preset, args.seed, args.cache_dir)
    share = {"rank": rank, "world_size": world_size, "seed": args.seed}
    if args.ra_sampler:
        sampler = paddle_mv3.RASampler(dataset, repetitions=args.ra_reps, **share)
    else:
        sampler = paddle_mv3.DistributedSampler(dataset, **share)
    batches = paddle_mv3.BatchSampler(sampler, args.batch_size)
    mix = paddle_mv3.get_mixup_cutmix(args.mixup_alpha, args.cutmix_alpha, len(dataset.classes))
    loader = paddle_mv3.DataLoader(
        dataset,
        batch_sampler=batches,
        batch_transform=mix,
        seed=args.seed,
        finish=paddle_mv3.normalize_batch if as_bytes else None,
        num_workers=args.workers,
        worker_init_fn=distributed.in_worker,
        skip_corrupt=args.skip_corrupt,
    )
    return loader, batches, dataset


def evaluation_data(args, rank, world_size):
    """(DataLoader of this rank's share, ImageFolder). Raises: OSError, as `training_data`."""
    preset = paddle_mv3.ClassificationPresetEval(
        args.val_crop_size,
        args.val_resize_size,
        Image.Resampling[args.interpolation.upper()],
        normalize=False,
    )
    dataset = paddle_mv3.ImageFolder(args.data_path / "val", preset, cache=args.cache_dir)
    loader = paddle_mv3.DataLoader(
        dataset,
        batch_sampler=paddle_mv3.EvalBatchSampler(len(dataset), args.batch_size, rank, world_size),
        finish=paddle_mv3.normalize_batch,
        num_workers=args.workers,
        worker_init_fn=distributed.in_worker,
        skip_corrupt=args.skip_corrupt,
    )
    return loader, dataset


def require_same_data(args, train_set, eval_set, world_size):
    """Raises CannotRun unless both folders have the same classes, and all ranks the same images."""
    if train_set.classes != eval_set.classes:
        odd = sorted(set(train_set.classes) ^ set(eval_set.classes))
        raise CannotRun(
            f"{shown(args.data_path / 'train')} has {len(train_set.classes)} classes and "
            f"{shown(args.data_path / 'val')} has {len(eval_set.classes)}: {odd[0]} is in one of "
            "them only. Both need the same class folders"
        )
    mine = len(train_set), len(eval_set), train_set.classes
    for rank, theirs in enumerate(distributed.agree(mine, world_size)):
        if theirs != mine:
            raise CannotRun(
                f"rank {rank} sees {theirs[0]} and {theirs[1]} images of {len(theirs[2])} classes, "
                f"this rank {mine[0]} and {mine[1]} of {len(mine[2])}: give all machines the same "
                "data"
            )


def load_weights(args, model, num_classes):
    """Puts --weights into `model`. Raises: CannotRun, if they are another model's."""
    if args.weights == "IMAGENET1K_V1":
        # Downloads and converts; the only thing here that needs PyTorch.
        import torch2paddle

        where = argparse.Namespace(model=args.model, data_dir=ROOT / "data", pretrained=True)
        path = torch2paddle.prepare(where)[1]
    else:
        path = Path(args.weights)
    if path.suffix in (".pth", ".pt"):
        raise CannotRun(
            f"{shown(path)} is PyTorch's. Convert it: python torch2paddle.py {shown(path)}"
        )
    arrays, _ = checkpoint.read_weights(path)
    bias = list(arrays.values())[-1]
    if "classifier.3.bias" in arrays and len(bias) != num_classes:
        raise CannotRun(
            f"{shown(path)} is of a model for {len(bias)} classes, and {shown(args.data_path)} has "
            f"{num_classes}: the class counts have to be the same"
        )
    checkpoint.load_model(model, arrays, path)


def resume(args, world_size, rank, log):
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
            if state:
                require_same_recipe(args, world_size, state, path)
                state["path"] = str(path)
        except CannotRun as error:
            problem = str(error)
    problem, state = distributed.broadcast((problem, state), world_size)
    if problem:
        raise CannotRun(problem)
    return state


class Saver:
    """Writes the checkpoints of a trainer, on rank 0.

    Attributes:
        failure: CannotRun, if the last one could not be written.
    """

    def __init__(self, trainer, loader, classes, log):
        self.trainer, self.loader, self.classes, self.log = trainer, loader, classes, log
        self.args = trainer.args
        self.failure = None

    def __call__(self):
        """A checkpoint of now. What cannot be written is said, and the training goes on.

        Raises:
            Diverged: a weight is infinite or no number; nothing is written.
        """
        trainer = self.trainer
        if trainer.rank:
            return
        state = trainer.state_dict()
        state |= {"classes": self.classes, "skipped": dict(self.loader.skipped)}
        for name, array in state["model"].items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Diverged(
                    f"{name} holds infinite values or NaN before epoch {trainer.epoch}, iteration "
                    f"{trainer.iteration}, at a learning rate of {trainer.optimizer.get_lr():.6g}"
                )
        path = checkpoint.path_of(self.args.output_dir, trainer.epoch, trainer.iteration)
        try:
            checkpoint.save(path, state)
            checkpoint.prune(self.args.output_dir, self.args.keep_last)
            self.failure = None
        except CannotRun as error:
            self.failure = error
            self.log.say(f"NOT SAVED: {error}. The training goes on; the last checkpoint is kept")

    def best(self, top1):
        """Keeps the checkpoint that was just made, if it is the best so far."""
        trainer = self.trainer
        if trainer.best and trainer.best["top1"] >= top1:
            return
        trainer.best = {"epoch": trainer.epoch, "top1": top1}
        if trainer.rank or self.failure:
            return
        folder = self.args.output_dir
        source = checkpoint.path_of(folder, trainer.epoch, trainer.iteration)
        try:
            checkpoint.copy(source, folder / f"best_{trainer.epoch:04}.pdparams")
            checkpoint.prune(folder, self.args.keep_best, "best_*.pdparams")
        except CannotRun as error:
            self.log.say(f"NOT SAVED: {error}. The training goes on")


def prepare_output(args):
    """Makes --output-dir, and writes the arguments into it, before any time is spent.

    Raises:
        CannotRun: it cannot be written, or holds a training that is not to be resumed.
    """
    found = checkpoint.checkpoints(args.output_dir)
    if found and not args.resume:
        raise CannotRun(
            f"{shown(args.output_dir)} holds a training already ({found[0].name}): go on with it "
            "by --resume auto, or give another --output-dir"
        )
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    with whole_file(args.output_dir / "arguments.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")
    checkpoint.remove_leftovers(args.output_dir)


def record(top1, folder):
    """Writes the final top-1, in per cent, for training alignment."""
    log = ReprodLogger()
    log.add("top1", np.array([top1]))
    with whole_file(folder / "train_align_paddle.npy") as temporary:
        log.save(str(temporary))


def main(args, stop, rank=0, world_size=1):
    """Trains, or evaluates with --test-only.

    Raises:
        CannotRun, OSError: bad input. Stopped, Diverged.
    """
    if args.use_deterministic_algorithms and args.device == "gpu":
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    if not args.test_only and rank == 0:
        prepare_output(args)
    log = Log(rank)
    try:
        eval_loader, eval_set = evaluation_data(args, rank, world_size)
        if args.test_only:
            test(args, eval_loader, eval_set, log, stop, rank, world_size)
        else:
            train(args, eval_loader, eval_set, log, stop, rank, world_size)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    finally:
        log.close()


def test(args, eval_loader, eval_set, log, stop, rank, world_size):
    """Evaluates --weights."""
    trainer = Trainer(args, len(eval_set.classes), 0, rank, world_size)
    load_weights(args, trainer.model, len(eval_set.classes))
    evaluate(trainer, eval_loader, log, stop)


def train(args, eval_loader, eval_set, log, stop, rank, world_size):
    """Trains, from the beginning or from a checkpoint."""
    loader, batches, train_set = training_data(args, rank, world_size)
    require_same_data(args, train_set, eval_set, world_size)
    trainer = Trainer(args, len(train_set.classes), len(batches), rank, world_size)
    state = resume(args, world_size, rank, log) if args.resume else None
    if state:
        trainer.set_state_dict(state, state["path"])
        loader.skipped.update(state["skipped"])
    elif args.weights:
        load_weights(args, trainer.model, len(train_set.classes))
    trainer.parallel()

    log.open(args.output_dir, trainer.steps if state else None)
    parameters = sum(p.size for p in trainer.model.parameters() if not p.stop_gradient)
    log.say(
        f"{args.model}, {parameters:,} parameters; {len(train_set):,} images of "
        f"{len(train_set.classes)} classes to train on, {len(eval_set):,} to evaluate; "
        f"{world_size} x {args.device}, {world_size * args.batch_size} images in a step"
    )
    if state:
        log.say(
            f"going on from {shown(state['path'])}: epoch {trainer.epoch}, "
            f"iteration {trainer.iteration}"
        )
    loader.on_skip = loader.on_restart = eval_loader.on_skip = eval_loader.on_restart = log.warn
    saver = Saver(trainer, loader, train_set.classes, log)
    top1 = None
    while trainer.epoch < args.epochs:
        trainer.schedule.step(trainer.epoch)
        batches.set_epoch(trainer.epoch, trainer.iteration)
        begin = time.perf_counter()
        try:
            train_one_epoch(trainer, loader, log, stop, saver)
        except OSError:  # an image that cannot be read, between two steps
            saver()
            raise
        saver()
        epoch_line(trainer, log, time.perf_counter() - begin)
        top1 = evaluate(trainer, eval_loader, log, stop)
        saver.best(top1)
        trainer.next_epoch()
    if rank == 0:
        record(top1, args.result_dir)
        log.say(f"top1 {top1:.3f} -> {shown(args.result_dir / 'train_align_paddle.npy')}")
        best = trainer.best
        log.say(f"best: epoch {best['epoch']}, top1 {best['top1']:.3f}")
    if saver.failure:
        raise saver.failure


def run():
    """Parses the command line, and leaves with the exit status."""
    companions, rank, message = None, 0, ""
    try:
        args = parse_arguments(__doc__)
        stop = distributed.Stop()
        paddle.set_device(args.device)
        rank, world_size = distributed.start()
        companions = distributed.Companions(rank, world_size)
        main(args, stop, rank, world_size)
        status = 0
    except Stopped as stopped:
        status = 128 + stopped.args[0]
        if rank == 0:
            name = signal.Signals(stopped.args[0]).name
            print(f"stopped by {name}, all is saved: go on with --resume auto", flush=True)
    except Diverged as error:
        status, message = 1, f"{error}. Nothing was saved after it; a lower --lr may help"
    except CannotRun as error:
        status, message = 2, str(error)
    except OSError as error:
        status, message = 2, first_line(error)
        if error.filename:
            message = f"{shown(error.filename)}: {message}"
    except Exception as error:
        traceback.print_exc()
        status, message = 1, f"{type(error).__name__}: {first_line(error)}"
    if message:
        print("error: " + f"rank {rank}: " * (rank > 0) + message, file=sys.stderr, flush=True)
    if companions:
        companions.leave(status, message)
    distributed.end_workers()
    sys.exit(status)


if __name__ == "__main__":
    run()
