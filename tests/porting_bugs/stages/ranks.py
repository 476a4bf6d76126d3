"""Bugs that Checkpoint6/align_training.py --processes 2 finds: the trainer on several ranks."""

import paddle_mv3
from Checkpoint6 import trainer

from . import API, TRAIN, bug, topic

PARALLEL = API + "DataParallel_en.html"


topic("training in two processes")


@bug(
    "06, two processes",
    "loss multiplied by the number of processes",
    ["2 processes and one", "gradient", "2 times"],
    "diverges on several GPUs",
    "the loss was scaled to make up for an average that the loss has already",
    "the mean of each process's own images; DataParallel takes the mean of these",
    PARALLEL,
)
def _(patch):
    loss = trainer.Trainer.loss
    patch(
        trainer.Trainer,
        "loss",
        lambda self, output, labels: loss(self, output, labels) * self.world_size,
    )


@bug(
    "06, two processes",
    "gradients not shared between processes",
    ["2 processes and one, step 0", "gradient"],
    "each process trains a model of its own",
    "the model is not put into DataParallel",
    "paddle.DataParallel(model)",
    PARALLEL,
)
def _(patch):
    patch(trainer.Trainer, "parallel", lambda self: None)


@bug(
    "06, two processes",
    "all processes train on the same images",
    ["2 processes and one, step 0", "order", "with the same images on two ranks"],
    "several GPUs learn no faster than one",
    "paddle.io.BatchSampler in place of DistributedBatchSampler",
    "each rank its share",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    original = paddle_mv3.DistributedSampler.__iter__

    def iterate(self):
        rank, self.rank = self.rank, 0
        yield from original(self)
        self.rank = rank

    patch(paddle_mv3.DistributedSampler, "__iter__", iterate)


@bug(
    "06, two processes",
    "--sync-bn without effect",
    ["2 processes and one, step 0", "gradient"],
    "with few images in a process, less accuracy than the reference",
    "layers are converted in a copy that is not used",
    "use what convert_sync_batchnorm returns",
    API + "nn/SyncBatchNorm_en.html",
)
def _(patch):
    patch(paddle_mv3, "synchronize_batch_norm", lambda network: network)


@bug(
    "06, two processes",
    "accuracy of rank 0's share of the images",
    ["evaluation", "val"],
    "accuracy differs from that of one process",
    "counts are not added up over ranks",
    "all_reduce of the counts",
    PARALLEL,
)
def _(patch):
    evaluate = paddle_mv3.evaluate
    patch(
        paddle_mv3,
        "evaluate",
        lambda *args, sharded=False: evaluate(*args),
    )


@bug(
    "06, two processes",
    "loss of rank 0 in the logs",
    ["log", "train loss"],
    "noisier logs than the reference's",
    "the loss is not averaged over ranks",
    "all_reduce before it is written",
    PARALLEL,
)
def _(patch):
    patch(trainer.distributed, "sum_over_ranks", lambda array, world_size: array)


@bug(
    "06, two processes",
    "the same dropout masks in all processes",
    ["ranks", "with the same dropout masks"],
    "a little less regularisation",
    "one seed on all ranks",
    "a seed of the rank as well",
    TRAIN,
)
def _(patch):
    seed = paddle_mv3.step_seed
    patch(paddle_mv3, "step_seed", lambda *place: seed(*place[:3]))


@bug(
    "06, two processes",
    "images that cannot be shared evenly left out",
    ["2 processes and PyTorch's 2", "images of rank"],
    "an epoch has fewer images than the reference's",
    "drop_last=True of the sampler",
    "fill up from the beginning of the order",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    init = paddle_mv3.DistributedSampler.__init__
    patch(
        paddle_mv3.DistributedSampler,
        "__init__",
        lambda self, dataset, **share: init(self, dataset, **share, drop_last=True),
    )


@bug(
    "06, two processes",
    "decay of the moving average without the number of processes",
    ["moving average", "The mistake is in the moving average"],
    "the average reaches back further than the reference's",
    "images of one process in place of all",
    "adjusted_decay(…, world_size, …)",
    TRAIN,
)
def _(patch):
    adjusted = paddle_mv3.adjusted_decay
    patch(
        paddle_mv3,
        "adjusted_decay",
        lambda decay, batch_size, world_size, *rest: adjusted(decay, batch_size, 1, *rest),
    )
