"""Bugs that Checkpoint6/align_training.py finds: the trainer, Checkpoint6/train.py."""

import numpy as np
import paddle

import paddle_mv3
from Checkpoint6 import checkpoint, train, trainer
from paddle_mv3 import model
from paddle_mv3.data import dataset, mixup

from . import API, TRAIN, bug, topic

topic("training")


def each_step(patch, change):
    """Lets `change(trainer, step)` stand for Trainer.step; `step()` takes the step as it was."""
    original = trainer.Trainer.step

    def step(self, images, labels):
        return change(self, lambda: original(self, images, labels))

    patch(trainer.Trainer, "step", step)


@bug(
    "06",
    "schedule stepped after each batch",
    ["step 1", "learning rate"],
    "the rate has decayed after one epoch",
    "torchvision's schedules count epochs; Paddle's examples step them in the loop over batches",
    "once for each epoch",
    TRAIN,
)
def _(patch):
    def change(self, step):
        result = step()
        self.schedule.step()
        return result

    each_step(patch, change)


@bug(
    "06",
    "schedule stepped before the epoch that it is for",
    ["step 0", "learning rate"],
    "each epoch has the next one's rate: no first epoch of warm-up",
    "step() at the beginning of the loop over epochs",
    "step() at its end, or step(epoch)",
    TRAIN,
)
def _(patch):
    step = paddle_mv3.WarmupSchedule.step
    patch(
        paddle_mv3.WarmupSchedule,
        "step",
        lambda self, epoch=None: step(self, None if epoch is None else epoch + 1),
    )


@bug(
    "06",
    "moving average of the weights before the update",
    ["moving average"],
    "the average lags by a step; nothing else shows",
    "update() called before optimizer.step()",
    "update() after it",
    TRAIN,
)
def _(patch):
    def change(self, step):
        average, self.model_ema = self.model_ema, None
        if average and self.iteration % self.args.model_ema_steps == 0:
            average.update(self.model)
            if self.epoch < self.args.lr_warmup_epochs:
                average.n_averaged = 0
        result = step()
        self.model_ema = average
        return result

    each_step(patch, change)


@bug(
    "06",
    "moving average without the running statistics",
    ["moving average", "_mean"],
    "the average evaluates with the statistics of the first step",
    "parameters() in place of state_dict()",
    "average the running statistics as well (use_buffers=True)",
    TRAIN,
)
def _(patch):
    update = paddle_mv3.ExponentialMovingAverage.update

    def without(self, model):
        kept = {n: t.clone() for n, t in self.module.state_dict().items() if t.stop_gradient}
        update(self, model)
        for name, tensor in self.module.state_dict().items():
            if name in kept:
                paddle.assign(kept[name], tensor)

    patch(paddle_mv3.ExponentialMovingAverage, "update", without)


@bug(
    "06",
    "moving average updated at each step",
    ["moving average", "updates"],
    "the average reaches back a thirtieth as far",
    "--model-ema-steps was overlooked",
    "every --model-ema-steps steps",
    TRAIN,
)
def _(patch):
    def change(self, step):
        late = self.iteration % self.args.model_ema_steps
        result = step()
        if late:
            self.model_ema.update(self.model)
        return result

    each_step(patch, change)


@bug(
    "06",
    "moving average that counts during warm-up",
    ["moving average", "1 updates | 0"],
    "the average holds on to the first weights",
    "its count is not set back in warm-up",
    "n_averaged = 0 while epoch < lr_warmup_epochs",
    TRAIN,
)
def _(patch):
    def change(self, step):
        updates = self.model_ema.n_averaged + (self.iteration % self.args.model_ema_steps == 0)
        result = step()
        self.model_ema.n_averaged = updates
        return result

    each_step(patch, change)


@bug(
    "06",
    "decay of the moving average not adjusted to batch size and epochs",
    ["moving average"],
    "the average of a short training is that of its first weights",
    "--model-ema-decay used as it stands",
    "1 - (1 - decay) * images of an update / epochs",
    TRAIN,
)
def _(patch):
    patch(paddle_mv3, "adjusted_decay", lambda decay, *_: decay)


@bug(
    "06",
    "weight decay of batch norm in spite of --norm-weight-decay 0",
    ["weight decay of features.0.1.weight", "1e-05 | 0.0", "update"],
    "a little less accuracy",
    "model.parameters() given to the optimizer in place of groups",
    "groups by kind of layer",
    TRAIN,
)
def _(patch):
    groups = paddle_mv3.weight_decay_groups
    patch(paddle_mv3, "weight_decay_groups", lambda model, decay, *_: groups(model, decay))


@bug(
    "06",
    "gradients that are not cleared",
    ["step 1", "gradient"],
    "the loss rises after the first step",
    "clear_grad() is missing; PyTorch's name is zero_grad()",
    "optimizer.clear_grad() in each step",
    API + "optimizer/Optimizer_en.html",
)
def _(patch):
    patch(paddle.optimizer.Optimizer, "clear_grad", lambda self, *_: None)
    patch(paddle_mv3.RMSProp, "clear_grad", lambda self, *_: None)


@bug(
    "06",
    "gradients clipped before they are unscaled",
    ["gradient"],
    "in mixed precision, gradients all but vanish",
    "scaler.unscale_() is missing, so the norm is 65536 times too large",
    "scaler.unscale_(optimizer), then clip, then scaler.step",
    "https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping",
)
def _(patch):
    patch(paddle.amp.GradScaler, "unscale_", lambda self, optimizer: None)


@bug(
    "06",
    "each gradient clipped alone, in the trainer",
    ["gradient"],
    "large layers learn slower",
    "clip_by_norm for each tensor in place of one norm over all",
    "clip_grad_norm_",
    API + "nn/utils/clip_grad_norm__en.html",
)
def _(patch):
    clip = paddle_mv3.clip_grad_norm_
    patch(
        paddle_mv3,
        "clip_grad_norm_",
        lambda parameters, norm: [clip([p], norm / 10) for p in parameters if p.grad is not None],
    )


@bug(
    "06",
    "a step that overflowed is taken",
    ["step 2", "update"],
    "in mixed precision, NaN after some steps",
    "optimizer.step() in place of scaler.step(optimizer)",
    "scaler.step(optimizer); scaler.update()",
    API + "amp/GradScaler_en.html",
)
def _(patch):
    patch(paddle.amp.GradScaler, "step", lambda self, optimizer: optimizer.step())


@bug(
    "06",
    "loss scale that grows too seldom",
    ["step 8", "loss scale", "32768.0 | 65536.0"],
    "in mixed precision, small gradients stay 0 for longer",
    "incr_every_n_steps with another period than PyTorch's growth_interval",
    "incr_every_n_steps=2000",
    API + "amp/GradScaler_en.html",
)
def _(patch):
    scaler = paddle.amp.GradScaler

    def patient(**settings):
        return scaler(**{**settings, "incr_every_n_steps": 4000})

    patch(paddle.amp, "GradScaler", patient)


@bug(
    "06",
    "loss scale that waits for a second overflow",
    ["step 2", "loss scale", "65536.0 | 32768.0"],
    "in mixed precision, more steps are left out",
    "decr_every_n_nan_or_inf=2, a default of older Paddle",
    "decr_every_n_nan_or_inf=1, as PyTorch",
    API + "amp/GradScaler_en.html",
)
def _(patch):
    scaler = paddle.amp.GradScaler

    def patient(**settings):
        return scaler(**{**settings, "decr_every_n_nan_or_inf": 2})

    patch(paddle.amp, "GradScaler", patient)


@bug(
    "06",
    "images in the same order in each epoch",
    ["order", "in epoch 0 |", "set_epoch"],
    "less accuracy, and overfitting",
    "batch_sampler.set_epoch(epoch) is missing",
    "set_epoch at the beginning of each epoch",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    set_epoch = paddle_mv3.BatchSampler.set_epoch
    patch(
        paddle_mv3.BatchSampler,
        "set_epoch",
        lambda self, epoch, start=0: set_epoch(self, 0, start),
    )


@bug(
    "06",
    "the same augmentation in every worker",
    ["images", "something else is in the generator's seed"],
    "pairs of images share their crops, flips and policies",
    "workers are forked with one and the same NumPy state",
    "a generator for each image",
    "https://tanelp.github.io/posts/a-bug-that-plagues-thousands-of-open-source-ml-projects/",
)
def _(patch):
    shared = np.random.default_rng(0)

    def getitem(self, key):
        path, target = self.samples[paddle_mv3.data.sampler.as_draw(key).index]
        return self.transform(self.loader(path), shared), target

    patch(dataset.ImageFolder, "__getitem__", getitem)


@bug(
    "06",
    "an image augmented alike in all epochs of a training",
    ["images", "epoch: it is not in the generator's seed"],
    "an image looks the same in all epochs: overfitting",
    "the generator's seed lacks the epoch",
    "the generator's seed includes the epoch",
)
def _(patch):
    generator = dataset.generator
    patch(
        dataset,
        "generator",
        lambda seed, draw, purpose: generator(seed, draw._replace(epoch=0), purpose),
    )


@bug(
    "06",
    "evaluation on augmented images",
    ["evaluation", "the images"],
    "accuracy of evaluation lower, and another each time",
    "the transforms of training for both data sets",
    "resize and centre crop for evaluation",
    TRAIN,
)
def _(patch):
    original = train.evaluation_data

    def evaluation_data(args, rank, world_size):
        loader, data = original(args, rank, world_size)
        data.transform = paddle_mv3.ClassificationPresetTrain(args.val_crop_size, normalize=False)
        return loader, data

    patch(train, "evaluation_data", evaluation_data)


@bug(
    "06",
    "evaluation in train mode",
    ["evaluation", "model in train mode | in eval mode"],
    "accuracy depends on the batch, and evaluation moves the running statistics",
    "model.eval() is missing",
    "model.eval() before, model.train() after",
    API + "nn/Layer_en.html",
)
def _(patch):
    patch(model.MobileNetV3, "eval", lambda self: None)


@bug(
    "06",
    "training in eval mode after the first evaluation",
    ["step 2, epoch 1, iteration 0", "dropout"],
    "learns in the first epoch only",
    "model.train() once, before the loop over epochs",
    "model.train() in each epoch",
    API + "nn/Layer_en.html",
)
def _(patch):
    once = model.MobileNetV3.train

    def train_once(self):
        if not getattr(self, "was_trained", False):
            self.was_trained = True
            once(self)

    patch(model.MobileNetV3, "train", train_once)


@bug(
    "06",
    "last batch of an epoch left out of the training",
    ["step 1", "loop", "epoch and val"],
    "some images are not seen in an epoch; fewer steps",
    "drop_last=True copied from an example",
    "drop_last=False",
    API + "io/BatchSampler_en.html",
)
def _(patch):
    init = paddle_mv3.BatchSampler.__init__
    patch(
        paddle_mv3.BatchSampler,
        "__init__",
        lambda self, sampler, batch_size: init(self, sampler, batch_size, drop_last=True),
    )


@bug(
    "06",
    "last batch left out of the evaluation",
    ["evaluation", "48 images | 54"],
    "accuracy of fewer images",
    "drop_last=True copied from the loader of training",
    "all images of evaluation count",
    API + "io/BatchSampler_en.html",
)
def _(patch):
    batches = paddle_mv3.EvalBatchSampler.__iter__
    patch(
        paddle_mv3.EvalBatchSampler,
        "__iter__",
        lambda self: (batch for batch in batches(self) if len(batch) == self.batch_size),
    )


@bug(
    "06",
    "mixup's labels of another pair of images",
    ["labels", "label 0"],
    "mixing does harm in place of good",
    "images mixed with the one before, labels with the one after",
    "one permutation for both",
    "https://arxiv.org/abs/1710.09412",
)
def _(patch):
    def soft_labels(self, labels, lam):
        own = np.eye(self.num_classes, dtype=np.float32)[labels]
        return own * np.float32(lam) + np.roll(own, -1, axis=0) * np.float32(1 - lam)

    patch(mixup._Mix, "soft_labels", soft_labels)


@bug(
    "06",
    "checkpoint without the optimizer's state",
    ["going on from a checkpoint", "update", "what is missing from the checkpoint?"],
    "a kink in the loss after each resume",
    "only the model's state_dict is saved",
    "save and load optimizer.state_dict() too",
    API + "optimizer/Optimizer_en.html",
)
def _(patch):
    patch(checkpoint, "load_optimizer", lambda optimizer, model, state: None)


@bug(
    "06",
    "checkpoint without the schedule",
    ["going on from a checkpoint", "learning rate"],
    "the rate starts anew after each resume",
    "a schedule that counts by itself, and is not saved",
    "save and load the schedule's state, or step(epoch)",
    API + "optimizer/lr/LRScheduler_en.html",
)
def _(patch):
    step = paddle_mv3.WarmupSchedule.step

    def count(self, epoch=None):
        if epoch != 0 and epoch != getattr(self, "newest", -1):
            step(self)
        self.newest = epoch

    patch(paddle_mv3.WarmupSchedule, "step", count)
    patch(paddle_mv3.WarmupSchedule, "set_state_dict", lambda self, state: None)


@bug(
    "06",
    "checkpoint without the moving average",
    ["going on from a checkpoint", "between steps", "average"],
    "the average begins anew after each resume",
    "its weights and count are not in the checkpoint",
    "save and load them",
    TRAIN,
)
def _(patch):
    load = checkpoint.load_model

    def load_model(network, arrays, path):
        if network.training:  # the average is in eval mode
            load(network, arrays, path)

    patch(checkpoint, "load_model", load_model)


@bug(
    "06",
    "checkpoint without the gradient scaler",
    ["going on from a checkpoint", "loss scale", "65536.0 | 32768.0"],
    "in mixed precision, overflows after each resume",
    "scaler.state_dict() is not saved",
    "save and load it",
    API + "amp/GradScaler_en.html",
)
def _(patch):
    patch(paddle.amp.GradScaler, "load_state_dict", lambda self, state: None)


@bug(
    "06",
    "loss of an epoch as the mean over batches",
    ["log", "epoch"],
    "logs that are not the reference's, where the last batch is smaller",
    "sum of losses divided by the number of batches",
    "each image counts once",
    TRAIN,
)
def _(patch):
    add = trainer.Window.add
    patch(
        trainer.Window,
        "add",
        lambda self, loss, hits, images: add(self, loss, hits.astype("float64") / images, 1),
    )


@bug(
    "06",
    "the same dropout mask in each step",
    ["step 1", "dropout", "an earlier step's"],
    "dropout thins the network out once and for all",
    "a constant seed set in each step, for reproducible steps",
    "a seed of epoch and iteration",
)
def _(patch):
    patch(paddle_mv3, "step_seed", lambda *_: 0)


@bug(
    "06",
    "gradients clipped in mixed precision only",
    ["step 1", "gradient norm"],
    "without --amp, a step that is far too large now and then",
    "clipping moved into the branch that unscales",
    "clip in both branches",
    TRAIN,
)
def _(patch):
    clip = paddle_mv3.clip_grad_norm_

    def change(self, step):
        patch(paddle_mv3, "clip_grad_norm_", clip if self.scaler else lambda *_: None)
        return step()

    each_step(patch, change)


@bug(
    "06",
    "evaluation cropped as training is",
    ["evaluation", "images of shape (3, 64, 64) | (3, 56, 56)"],
    "accuracy at another resolution than the recipe's",
    "--train-crop-size for both data sets",
    "--val-crop-size for evaluation",
    TRAIN,
)
def _(patch):
    original = train.evaluation_data

    def evaluation_data(args, rank, world_size):
        changed = {**vars(args), "val_crop_size": args.train_crop_size}
        return original(type(args)(**changed), rank, world_size)

    patch(train, "evaluation_data", evaluation_data)


@bug(
    "06",
    "moving average that goes on from the model after a stop",
    ["going on from a checkpoint", "between steps", "average"],
    "the average forgets at each resume",
    "the average is made anew of the loaded model; its count is loaded",
    "save and load its weights",
    TRAIN,
)
def _(patch):
    load = trainer.Trainer.set_state_dict

    def set_state_dict(self, state, path):
        load(self, state, path)
        self.model_ema.module.set_state_dict(self.model.state_dict())

    patch(trainer.Trainer, "set_state_dict", set_state_dict)


@bug(
    "06",
    "accuracy recorded as a share of 1",
    ["the end", "evaluation", "recorded top1"],
    "a hundredth of the reference's result",
    "what a metric returns, as it stands",
    "per cent, as torchvision",
    TRAIN,
)
def _(patch):
    evaluate = train.evaluate
    patch(train, "evaluate", lambda *args: evaluate(*args) / 100)


@bug(
    "06",
    "schedule stepped between the backward pass and the optimizer's step",
    ["step 0", "learning rate in use", "when the schedule is stepped"],
    "each step is taken with the rate of the next",
    "scheduler.step() stands before optimizer.step()",
    "optimizer.step(), then scheduler.step()",
    TRAIN,
)
def _(patch):
    compute = trainer.Trainer.loss

    def loss(self, output, labels):
        if self.model.training:
            self.schedule.step(self.epoch + 1)
        return compute(self, output, labels)

    patch(trainer.Trainer, "loss", loss)


@bug(
    "06",
    "the second worker's images augmented otherwise",
    ["images", "Batch 1: for Draw(", "the loader gives another image than the data set"],
    "a run with another number of workers is another run",
    "the seed of the generator includes the worker",
    "a generator for each image",
)
def _(patch):
    get = dataset.ImageFolder.__getitem__

    def getitem(self, key):
        worker = paddle.io.get_worker_info()
        draw = paddle_mv3.data.sampler.as_draw(key)
        if worker is not None and worker.id == 1:
            draw = draw._replace(repetition=draw.repetition + 7)
        return get(self, draw)

    patch(dataset.ImageFolder, "__getitem__", getitem)
