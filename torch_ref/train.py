"""Trains the reference: torchvision's references/classification/train.py, as short as can be.

    python torch_ref/train.py @Checkpoint6/recipes/mobilenet_v3_small_120.txt --data-path DIR
    torchrun --nproc_per_node 8 torch_ref/train.py @Checkpoint6/recipes/… --data-path DIR

Flags, recipes, kinds of lines and train.jsonl are those of Checkpoint6/train.py, so the two can be
laid side by side. The last top-1, in per cent, goes to result/train_align_benchmark.npy.

--output-dir holds one checkpoint, of the last whole epoch. Each epoch has random numbers of its
own, so --resume auto goes on from there as without the stop: on a CPU bit for bit, with the same
number of threads. Unlike torchvision's, evaluation counts each image once, on any number of GPUs.

Exit status: 0 trained to the end, 1 the loss is no number any more, 2 it could not run.
"""

import sys
from os.path import dirname, realpath

if __name__ == "__main__":
    sys.path[0] = dirname(dirname(realpath(__file__)))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet from here)

import contextlib
import importlib.util
import json
import math
import os
import time
import warnings
from functools import partial
from pathlib import Path

environment.require("numpy", "PIL", "torch", "torchvision")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import distributed, nn  # noqa: E402

import torch_ref  # noqa: E402
from alignment.arguments import (  # noqa: E402
    Formatter,
    Parser,
    batch_size,
    count,
    count_or_0,
    epochs,
    file_path,
    nonempty,
    pixels,
    rate,
    repetitions,
    seed,
    share,
    workers,
)
from alignment.files import (  # noqa: E402
    CannotRun,
    described,
    missing,
    only_user,
    require_writable,
    whole_file,
)
from alignment.screen import leave, printable  # noqa: E402
from alignment.torch_files import load_torch_file  # noqa: E402
from alignment.trainers import (  # noqa: E402
    USAGE,
    add_flag,
    classes_of_head,
    new_head,
    not_finite,
    other_classes,
    other_epochs,
    training_of,
    write_top1,
)

ROOT = Path(__file__).resolve().parent.parent

# What a resumed training may do otherwise: how and where it runs, not what it computes.
NOT_THE_RECIPE = (
    "cache_dataset", "data_path", "device", "keep_best", "keep_last", "output_dir", "pretrained",
    "print_freq", "result_dir", "resume", "save_steps", "skip_corrupt", "start_epoch", "test_only",
    "use_deterministic_algorithms", "weights", "workers",
)  # fmt: skip


CLASSES = "the list of classes"


class Diverged(Exception):
    """The loss is infinite or no number."""


def parser():
    flags = Parser(
        usage=USAGE, description=__doc__, formatter_class=Formatter, fromfile_prefix_chars="@"
    )
    add = partial(add_flag, flags)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    schedulers = ("steplr", "cosineannealinglr", "exponentiallr")
    without_effect = "of the port's trainer. It has no effect here"
    add("--data-path", type=file_path, required=True)
    add("--model", choices=sorted(torch_ref.MODELS), default="mobilenet_v3_small")
    add("--weights", type=nonempty, metavar="FILE|IMAGENET1K_V1")
    add("--pretrained", action="store_true")
    add("--cache-dataset", action="store_true", help=without_effect)
    add("--skip-corrupt", type=count_or_0, default=0, help=without_effect)
    add("--device", choices=("cpu", "gpu", "cuda"))
    add("-j", "--workers", type=workers, default=min(8, max(1, (os.cpu_count() or 1) // ranks)))
    add("--sync-bn", action="store_true",
        help="batch norm over the images of all processes. It needs a GPU in PyTorch")  # fmt: skip
    add("--amp", nargs="?", choices=("O1", "O2"), const="O1",
        help="mixed precision, on a GPU. Both are autocast here")  # fmt: skip
    add("--amp-dtype", choices=("float16", "bfloat16"), default="float16")
    add("--use-deterministic-algorithms", action="store_true")
    add("--seed", type=seed, default=0)
    add("-b", "--batch-size", type=batch_size, default=32)
    add("--epochs", type=epochs, default=90)
    add("--opt", choices=torch_ref.OPTIMIZERS, default="sgd")
    add("--lr", type=rate, default=0.1)
    add("--momentum", type=rate, default=0.9)
    add("--wd", "--weight-decay", dest="weight_decay", type=rate, default=1e-4)
    add("--norm-weight-decay", type=rate)
    add("--bias-weight-decay", type=rate)
    add("--label-smoothing", type=share, default=0.0)
    add("--clip-grad-norm", type=rate)
    add("--lr-scheduler", choices=schedulers, default="steplr")
    add("--lr-warmup-epochs", type=count_or_0, default=0)
    add("--lr-warmup-method", choices=("linear", "constant"), default="constant")
    add("--lr-warmup-decay", type=rate, default=0.01)
    add("--lr-step-size", type=count, default=30)
    add("--lr-gamma", type=rate, default=0.1)
    add("--lr-min", type=rate, default=0.0)
    add("--train-crop-size", type=pixels, default=224)
    add("--val-resize-size", type=pixels, default=256)
    add("--val-crop-size", type=pixels, default=224)
    add("--interpolation", choices=("nearest", "bilinear", "bicubic"), default="bilinear")
    add("--auto-augment", choices=("imagenet", "ra", "ta_wide", "augmix"))
    add("--ra-magnitude", type=count_or_0, default=9)
    add("--augmix-severity", type=count, default=3)
    add("--random-erase", type=share, default=0.0)
    add("--mixup-alpha", type=rate, default=0.0)
    add("--cutmix-alpha", type=rate, default=0.0)
    add("--ra-sampler", action="store_true")
    add("--ra-reps", type=repetitions, default=3)
    add("--model-ema", action="store_true")
    add("--model-ema-steps", type=count, default=32)
    add("--model-ema-decay", type=share, default=0.99998)
    add("--output-dir", type=file_path, default=Path("output_torch"))
    add("--result-dir", type=file_path, default=ROOT / "result")
    add("--resume", type=nonempty, metavar="FILE|auto")
    add("--start-epoch", type=count_or_0, default=0)
    add("--test-only", action="store_true")
    add("--print-freq", type=count, default=10)
    add("--save-steps", type=count_or_0, default=0, help=without_effect)
    add("--keep-last", type=count, default=3, help=without_effect)
    add("--keep-best", type=count, default=1, help=without_effect)
    return flags


def parse(argv=None):
    """The arguments of a command line. Raises: CannotRun, SystemExit."""
    args = parser().parse_args(argv)
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    on_cpu = args.device == "cpu" or not (args.device or gpus)
    for bad, message in (
        (not on_cpu and local >= gpus, f"PyTorch sees {gpus} GPUs: use --device cpu"),
        (on_cpu and args.amp, "--amp needs a GPU in PyTorch: leave it out"),
        (on_cpu and args.sync_bn, "--sync-bn needs a GPU in PyTorch: leave it out"),
        (args.start_epoch >= args.epochs, "--start-epoch {start_epoch} is past --epochs {epochs}"),
        (args.lr_warmup_epochs >= args.epochs, "--lr-warmup-epochs {lr_warmup_epochs} is not "
         "less than --epochs {epochs}"),
        (not 0 < args.lr_warmup_decay <= 1, "--lr-warmup-decay is {lr_warmup_decay}: give a "
         "number above 0, up to 1"),
        (args.ra_magnitude > 30, "--ra-magnitude is {ra_magnitude}: give 0 to 30"),
        (args.augmix_severity > 10, "--augmix-severity is {augmix_severity}: give 1 to 10"),
        (args.weights and args.pretrained, "--weights and --pretrained: give one of them"),
        (args.test_only and not (args.weights or args.pretrained or args.resume),
         "--test-only evaluates --weights FILE or --resume FILE: give one"),
    ):  # fmt: skip
        if bad:
            raise CannotRun(message.format(**vars(args)))
    args.device = torch.device("cpu") if on_cpu else torch.device("cuda", local)
    if args.pretrained:
        args.weights = "IMAGENET1K_V1"
    last = args.output_dir / "checkpoint.pth"
    if args.resume == "auto":
        if args.test_only and missing(last):
            raise CannotRun(f"no checkpoint in {args.output_dir}: give --weights FILE")
        args.resume = None if missing(last) else last
    elif not missing(last) and not (args.resume or args.test_only):
        raise CannotRun(
            f"{args.output_dir} holds a training already: go on with it by --resume auto, or give "
            "another --output-dir"
        )
    if args.test_only:
        args.weights, args.resume, args.model_ema = args.weights or args.resume, None, False
    return args


def training_data(args, rank=0, world_size=1):
    """(DataLoader, its sampler, ImageFolder) of this rank's share."""
    preset = torch_ref.ClassificationPresetTrain(
        crop_size=args.train_crop_size,
        interpolation=torch_ref.InterpolationMode(args.interpolation),
        auto_augment_policy=args.auto_augment,
        ra_magnitude=args.ra_magnitude,
        augmix_severity=args.augmix_severity,
        random_erase_prob=args.random_erase,
    )
    dataset = torch_ref.ImageFolder(str(args.data_path / "train"), preset)
    if args.ra_sampler:
        sampler = torch_ref.RASampler(
            dataset, world_size, rank, seed=args.seed, repetitions=args.ra_reps
        )
    else:
        sampler = torch.utils.data.DistributedSampler(dataset, world_size, rank, seed=args.seed)
    mix = torch_ref.get_mixup_cutmix(args.mixup_alpha, args.cutmix_alpha, len(dataset.classes))
    collate = torch.utils.data.default_collate
    loader = torch.utils.data.DataLoader(
        dataset,
        args.batch_size,
        sampler=sampler,
        num_workers=args.workers,
        pin_memory=args.device.type == "cuda",
        collate_fn=collate if mix is None else lambda batch: mix(*collate(batch)),
    )
    return loader, sampler, dataset


def evaluation_data(args, rank=0, world_size=1):
    """(DataLoader of every world_size-th image from `rank` on, ImageFolder)"""
    preset = torch_ref.ClassificationPresetEval(
        args.val_crop_size, args.val_resize_size, torch_ref.InterpolationMode(args.interpolation)
    )
    dataset = torch_ref.ImageFolder(str(args.data_path / "val"), preset)
    share = torch.utils.data.Subset(dataset, range(rank, len(dataset), world_size))
    pin = args.device.type == "cuda"
    loader = torch.utils.data.DataLoader(
        share, args.batch_size, num_workers=args.workers, pin_memory=pin
    )
    return loader, dataset


class Trainer:
    """What is trained, and by what; one step; the names are those of the port's Trainer."""

    def __init__(self, args, num_classes, steps_per_epoch, rank=0, world_size=1):
        self.args, self.rank, self.world_size = args, rank, world_size
        self.steps_per_epoch = steps_per_epoch
        self.topk = (1, min(5, num_classes))
        self.classes = None  # names, which a checkpoint remembers
        torch.manual_seed(args.seed)
        self.model = torch_ref.MODELS[args.model](num_classes=num_classes).to(args.device)
        self.begun_with = load_weights(self.model, args) if args.weights else None
        if args.sync_bn:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
        groups = torch_ref.weight_decay_groups(
            self.model, args.weight_decay, args.norm_weight_decay, args.bias_weight_decay
        )
        self.optimizer = torch_ref.create_optimizer(
            args.opt, groups, args.lr, args.momentum, args.weight_decay
        )
        scales = args.amp and args.amp_dtype == "float16"
        self.scaler = torch.amp.GradScaler(args.device.type) if scales else None
        self.model_ema = None
        if args.model_ema:
            decay = self.ema_decay(args.epochs)
            self.model_ema = torch_ref.ExponentialMovingAverage(self.model, decay)
        self.network = self.model
        if world_size > 1:
            gpu = [args.device.index] if args.device.type == "cuda" else None
            self.network = nn.parallel.DistributedDataParallel(self.model, device_ids=gpu)
        self.epoch, self.iteration, self.top1 = args.start_epoch, 0, 0.0
        self.schedule = self.new_schedule(args.epochs, self.epoch)

    def new_schedule(self, epochs, epoch):
        """Of a training of `epochs`, at `epoch`: the optimizer then has that epoch's rate."""
        args = self.args
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = args.lr
        schedule = torch_ref.create_lr_scheduler(
            self.optimizer,
            args.lr_scheduler,
            epochs,
            args.lr_warmup_epochs,
            args.lr_warmup_method,
            args.lr_warmup_decay,
            args.lr_step_size,
            args.lr_gamma,
            args.lr_min,
        )
        for _ in range(epoch):
            schedule.step()
        return schedule

    def ema_decay(self, epochs):
        args = self.args
        return torch_ref.adjusted_decay(
            args.model_ema_decay, args.batch_size, self.world_size, args.model_ema_steps, epochs
        )

    def lr(self):
        return self.optimizer.param_groups[0]["lr"]

    def autocast(self):
        if not self.args.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, getattr(torch, self.args.amp_dtype))

    def step(self, images, labels):
        """One update of the weights. Returns the loss, (), and the logits."""
        args = self.args
        with self.autocast():
            output = self.network(images)
            loss = self.criterion(output, labels)
        self.optimizer.zero_grad()
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
        else:
            loss.backward()
        if args.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), args.clip_grad_norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.model_ema and self.iteration % args.model_ema_steps == 0:
            self.model_ema.update_parameters(self.model)
            if self.epoch < args.lr_warmup_epochs:
                self.model_ema.n_averaged.fill_(0)
        self.iteration += 1
        return loss.detach(), output.detach()

    def parts(self):
        parts = {"model": self.model, "optimizer": self.optimizer}
        parts |= {"model_ema": self.model_ema, "scaler": self.scaler}
        return {name: part for name, part in parts.items() if part is not None}

    def recipe(self):
        recipe = {k: v for k, v in vars(self.args).items() if k not in NOT_THE_RECIPE}
        return {**recipe, "processes": self.world_size}

    def state_dict(self):
        """After an epoch; plain values and tensors."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"epoch": self.epoch, "top1": self.top1, "classes": self.classes}
        return {**state, "args": self.recipe()}

    def load_state_dict(self, state, path):
        """Goes to the epoch after that of `state`, of the file `path`; --epochs may be another.

        Returns:
            [line on what another number of epochs changes]

        Raises:
            CannotRun: it is no checkpoint, or another training's.
        """
        try:
            saved, wanted = state["args"], self.recipe()
            if state.get("classes") not in (None, self.classes):
                both = (state["classes"], self.classes)
                names = (", ".join(classes) for classes in both)
                saved, wanted = ({**x, CLASSES: y} for x, y in zip((saved, wanted), names))
            names = [n for n in wanted if n != "epochs" and saved.get(n) != wanted[n]]
            before, done = saved["epochs"], state["epoch"] + 1
            if not names and done <= self.args.epochs:
                for name, part in self.parts().items():
                    part.load_state_dict(state[name])
                self.epoch, self.top1 = done, state["top1"]
                return self.resume_schedule(before)
        except Exception as error:  # a file of another kind can raise nearly anything
            why = described(error)
            raise CannotRun(f"{path} is no checkpoint of this trainer: {why}") from error
        if names:
            told = ", ".join(
                f"{name} is {wanted[name]} and was {saved.get(name)}" for name in names
            )
            raise CannotRun(f"{path} is of another training: {told}. Give the same arguments")
        raise CannotRun(
            f"{path} has done {done} epochs already, more than --epochs {self.args.epochs}: give "
            f"{done} or more"
        )

    def resume_schedule(self, before):
        """The schedule of --epochs at this epoch; a rate depends on the epoch alone.

        Returns:
            [line on what changes, if --epochs was `before`]
        """
        numbers, rates, decays = (before, self.args.epochs), [], None
        for number in numbers:
            self.schedule = self.new_schedule(number, self.epoch)
            rates.append(self.lr())
        if before == self.args.epochs or self.epoch == self.args.epochs:
            return []
        if self.model_ema:
            decays = [self.ema_decay(number) for number in numbers]
        return other_epochs(self.args, before, self.epoch, rates, decays)


def load_weights(model, args):
    """Puts --weights into `model`; of a checkpoint, its average if any.

    Weights for another number of classes begin a fine-tuning: the last layer stays as it was
    initialised.

    Returns:
        a line that says so, or None.

    Raises:
        CannotRun: they are another model's, infinite or no numbers, or, to be evaluated, for other
            classes.
    """
    if args.weights == "IMAGENET1K_V1":
        url = torch_ref.WEIGHTS[args.model]
        try:
            state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True)
        except (OSError, RuntimeError) as error:
            raise CannotRun(f"cannot download {url}: {described(error)}") from error
    else:
        state = load(args.weights)
    fresh, line = model.state_dict(), None
    head = (f"{torch_ref.HEAD}.weight", f"{torch_ref.HEAD}.bias")
    try:
        if "model_ema" in state:
            average = state["model_ema"].items()
            state = {name[7:]: value for name, value in average if name.startswith("module.")}
        state = dict(state.get("model", state))
        if all(name in x for name in head for x in (state, fresh)):
            shapes = (tuple(reversed(state[name].shape)) for name in head)
            num_classes, width = fresh[head[0]].shape
            trained_for = classes_of_head(*shapes, width)
            if trained_for not in (None, num_classes):
                line = other_classes(args.weights, trained_for, args.data_path, num_classes)
                if args.test_only:
                    raise CannotRun(f"{line}: to be evaluated, both have to be the same")
                line += f": {new_head(torch_ref.HEAD)}"
                state |= {name: fresh[name] for name in head}
        model.load_state_dict(state)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise CannotRun(f"{args.weights} does not fit the model: {described(error)}") from error
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise CannotRun(not_finite(args.weights, name))
    return line


def load(path):
    """The dictionary that torch.save wrote; runs no code that is in it. Raises: CannotRun."""
    state = load_torch_file(path)
    if not isinstance(state, dict):
        raise CannotRun(f"{path} holds no weights: a {type(state).__name__}")
    return state


def sums_of(trainer, loss, output, labels):
    """(4,) float64 of a batch: images, hits in the first 1 and 5, loss."""
    labels = labels.argmax(dim=1) if labels.ndim == 2 else labels
    hits = torch_ref.topk_correct(output, labels, trainer.topk)
    values = [len(labels), *hits, float(loss) * len(labels)]
    return torch.tensor(values, dtype=torch.float64, device=output.device)


def averages(sums, world_size=1):
    """{"images", "loss", "top1", "top5"} of all ranks' sums; accuracies in per cent."""
    if world_size > 1:
        distributed.all_reduce(sums)
    images, top1, top5, loss = sums.tolist()
    values = {"loss": loss / images, "top1": 100 * top1 / images, "top5": 100 * top5 / images}
    return {"images": int(images), **values}


def train_one_epoch(trainer, loader, report):
    """Raises: Diverged."""
    args = trainer.args
    trainer.network.train()
    epoch_sums, sums, steps, reader_cost, begin = 0, 0, 0, 0.0, time.perf_counter()
    waiting = begin
    for images, labels in loader:
        reader_cost += time.perf_counter() - waiting
        images, labels = images.to(args.device), labels.to(args.device)
        loss, output = trainer.step(images, labels)
        lr = trainer.lr()
        if not math.isfinite(float(loss)):
            raise Diverged(
                f"the loss is {float(loss)} in epoch {trainer.epoch}, iteration "
                f"{trainer.iteration - 1}, at a learning rate of {lr:.6g}. Try a lower --lr"
            )
        sums, steps = sums + sums_of(trainer, loss, output, labels), steps + 1
        if trainer.iteration % args.print_freq == 0 or trainer.iteration == trainer.steps_per_epoch:
            values = averages(sums, trainer.world_size)
            epoch_sums += sums
            samples, cost = values.pop("images") / steps, (time.perf_counter() - begin) / steps
            values |= {"avg_reader_cost": reader_cost / steps, "avg_batch_cost": cost}
            values |= {"avg_samples": samples, "avg_ips": samples / cost}
            report("train", trainer, {"iter": trainer.iteration, "lr": lr, **values})
            sums, steps, reader_cost, begin = 0, 0, 0.0, time.perf_counter()
        waiting = time.perf_counter()
    report("epoch", trainer, averages(epoch_sums))


@torch.no_grad()
def evaluate(trainer, loader, report):
    """The top-1, in per cent, of the average if there is one, or of the model."""
    models = {"": trainer.model}
    if trainer.model_ema:
        models["ema_"] = trainer.model_ema.module
    for prefix, model in models.items():
        model.eval()
        if trainer.world_size > 1:  # of the statistics, rank 0's count
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)
        sums = torch.zeros(4, dtype=torch.float64, device=trainer.args.device)
        for images, labels in loader:
            images, labels = images.to(trainer.args.device), labels.to(trainer.args.device)
            with trainer.autocast():
                output = model(images)
                loss = trainer.criterion(output, labels)
            sums += sums_of(trainer, loss, output, labels)
        values = averages(sums, trainer.world_size)
        del values["images"]
        report("val", trainer, {prefix + name: value for name, value in values.items()})
    return values["top1"]


def train(trainer, data, eval_data, report, save=lambda: None):
    """Epoch after epoch. Returns the last top-1, in per cent. Raises: Diverged."""
    loader, sampler = data[:2]
    while trainer.epoch < trainer.args.epochs:
        trainer.iteration = 0
        numbers = np.random.SeedSequence((trainer.args.seed, trainer.epoch, trainer.rank))
        torch.manual_seed(int(numbers.generate_state(1)[0]))
        sampler.set_epoch(trainer.epoch)
        train_one_epoch(trainer, loader, report)
        trainer.schedule.step()
        trainer.top1 = evaluate(trainer, eval_data[0], report)
        save()
        trainer.epoch += 1
    return trainer.top1


def set_up(args, rank=0, world_size=1):
    """(Trainer, training_data, evaluation_data). Raises: CannotRun, OSError."""
    data, eval_data = (f(args, rank, world_size) for f in (training_data, evaluation_data))
    if data[2].classes != eval_data[1].classes:
        odd = ", ".join(sorted(set(data[2].classes) ^ set(eval_data[1].classes)))
        raise CannotRun(f"train and val in {args.data_path} need the same class folders, not {odd}")
    if len(data[0]) == 0:
        raise CannotRun(f"{len(data[2])} images are too few for --ra-sampler, which takes 256")
    if len(data[1]) % args.batch_size == 1 % args.batch_size and args.train_crop_size <= 32:
        raise CannotRun(
            f"--batch-size {args.batch_size} leaves one image of {len(data[1])} for the last step, "
            "and of --train-crop-size 32 or less batch norm needs two: give another size"
        )
    trainer = Trainer(args, len(data[2].classes), len(data[0]), rank, world_size)
    trainer.classes = list(data[2].classes)
    return trainer, data, eval_data


class Report:
    """Lines on the screen and in train.log, objects in train.jsonl; of rank 0.

    Of a resumed training, `epoch` is the first: what train.jsonl has of later ones is removed.
    """

    def __init__(self, rank, folder=None, epoch=0):
        self.rank, self.files = rank, []
        if rank == 0 and folder:
            objects = folder / "train.jsonl"
            if epoch and objects.exists():
                lines = objects.read_text(encoding="utf-8").splitlines(True)
                lines = [x for x in lines if x.endswith("}\n")]
                kept = "".join(x for x in lines if json.loads(x)["epoch"] < epoch)
                with whole_file(objects) as temporary:
                    temporary.write_text(kept, encoding="utf-8")
            mode = "a" if epoch else "w"
            paths = (folder / "train.log", objects)
            self.files = [open(path, mode, buffering=1, encoding="utf-8") for path in paths]  # noqa: SIM115

    def say(self, text):
        if self.rank == 0:
            line = f"[{time.strftime('%Y/%m/%d %H:%M:%S')}] {printable(text)}"
            with contextlib.suppress(OSError):  # a training does not end for want of a screen
                print(line, flush=True)
            for file in self.files[:1]:
                file.write(line + "\n")

    def __call__(self, kind, trainer, values):
        text = ", ".join(f"{k}: {v:.6g}" for k, v in values.items())
        title = {"train": "Train", "epoch": "Train, epoch done", "val": "Eval"}[kind]
        self.say(f"[{title}] epoch: {trainer.epoch}, {text}")
        step = trainer.epoch * trainer.steps_per_epoch + trainer.iteration
        entry = {"time": round(time.time(), 3), "kind": kind, "step": step, "epoch": trainer.epoch}
        for file in self.files[1:]:
            file.write(json.dumps({**entry, **values}) + "\n")


def require_packages():
    """Raises CannotRun, before any time is spent, where the record could not be written."""
    missing = [x for x in ("paddle", "reprod_log") if importlib.util.find_spec(x) is None]
    if missing:
        raise CannotRun(f"missing {', '.join(missing)}. Run: pip install -r requirements.txt")


def main(args, rank=0, world_size=1):
    """Raises: CannotRun, OSError, Diverged."""
    if args.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, PyTorch refuses
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not (args.use_deterministic_algorithms or args.test_only)
    if args.test_only:
        loader, dataset = evaluation_data(args, rank, world_size)
        evaluate(Trainer(args, len(dataset.classes), 0, rank, world_size), loader, Report(rank))
        return
    with contextlib.ExitStack() as stack:
        if rank == 0:
            require_packages()
            stack.enter_context(only_user(args.output_dir, "--output-dir"))
            require_writable(args.result_dir)
        train_and_record(args, rank, world_size)


def train_and_record(args, rank, world_size):
    """Raises: CannotRun, OSError, Diverged."""
    if args.resume:
        args.weights = None
    trainer, data, eval_data = set_up(args, rank, world_size)
    lines = [trainer.begun_with] if trainer.begun_with else []
    if args.resume:
        lines = trainer.load_state_dict(load(args.resume), args.resume)
    report = Report(rank, args.output_dir, trainer.epoch if args.resume else 0)
    report.say(f"{args.model}, PyTorch; {len(data[2]):,} images of {len(data[2].classes)} classes")
    for line in lines:
        report.say(line)

    def save():
        if rank == 0:
            with whole_file(args.output_dir / "checkpoint.pth") as temporary:
                torch.save(trainer.state_dict(), temporary)

    top1 = train(trainer, data, eval_data, report, save)
    if rank == 0:
        path = args.result_dir / "train_align_benchmark.npy"
        sets = data[2], eval_data[1]
        write_top1(path, top1, training_of(trainer.recipe(), world_size, args.data_path, *sets))
        report.say(f"top1 {top1:.3f} -> {path}")


def run():
    """Parses the command line, and leaves with the exit status."""
    args, status, message = None, 0, ""
    # Of --start-epoch, and of a file that torch.save did not write.
    warnings.filterwarnings("ignore", message="Detected (call of|pickle protocol)")
    environment.imported()
    try:
        args = parse()
        rank, world_size = (int(os.environ.get(x, y)) for x, y in (("RANK", 0), ("WORLD_SIZE", 1)))
        if args.device.type == "cuda":
            torch.cuda.set_device(args.device)
        if world_size > 1:
            distributed.init_process_group("nccl" if args.device.type == "cuda" else "gloo")
        main(args, rank, world_size)
        if world_size > 1:
            distributed.destroy_process_group()
    except Diverged as error:
        status, message = 1, str(error)
    except CannotRun as error:
        status, message = 2, str(error)
    except (OSError, ValueError) as error:
        status, message = 2, described(error)
    except KeyboardInterrupt:
        status, message = 130, "stopped"
    leave(status, message, in_files=args is not None and not args.test_only)


if __name__ == "__main__":
    run()
