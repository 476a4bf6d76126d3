"""Step 02, data: the same image files give the same batches, bit for bit.

    python 02_test_data.py
    python 02_test_data.py --image-dir ILSVRC2012/val --batches 100

Training changes images at random: the same random numbers must give the same images, and those of
both sides must be distributed alike. And what a folder holds now and then, or an argument is set to
some day, is made on the fly and compared: kinds of pictures, sizes, arguments, names, batches.
Writes result/data_paddle.npy, result/data_ref.npy, result/log/data_diff.log,
result/log/data_augmentation.log and result/log/data_cases.log.
"""

from alignment import cli  # isort: skip  (first: it says which package is missing)

from functools import partial
from itertools import islice

import numpy as np
import torch
from reprod_log import ReprodLogger

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.arguments import count, workers
from alignment.diff import DiffHelper, save
from alignment.processes import beside
from alignment.stages.augmentation import compare_augmentation, compare_draws
from alignment.stages.data import data_power, locate_image
from alignment.stages.data_cases import compare_cases
from alignment.stages.sampling import compare_items, compare_sampling
from alignment.step import StepReport

RECORDED = 5  # batches that are recorded whole; of the others, two means of each channel
# Arguments of the samplers; seeds that are far apart, as PyTorch adds the epoch to them.
SHUFFLED = [{}, {"shuffle": False}, {"drop_last": True}, {"seed": 1000}]
REPEATED = [{}, {"shuffle": False}, {"repetitions": 2}, {"repetitions": 1}, {"seed": 1000}]
POLICIES = [None, "imagenet", "ra", "ta_wide", "augmix"]  # auto_augment_policy


def build_paddle_data_pipeline(image_dir, workers):
    dataset = paddle_mv3.ImageFolder(image_dir, paddle_mv3.ClassificationPresetEval())
    loader = paddle_mv3.DataLoader(dataset, batch_size=4, num_workers=workers)
    return dataset, loader


def build_torch_data_pipeline(image_dir, workers):
    dataset = torch_ref.ImageFolder(image_dir, torch_ref.ClassificationPresetEval())
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=workers)
    return dataset, loader


def training_data():
    """Both sides' presets, all policies with random erasing, and mixup with CutMix."""
    fused = torch_ref.fused_multiply_add()  # how this CPU rounds, for AugMix
    port = partial(paddle_mv3.ClassificationPresetTrain, random_erase_prob=0.5, fused=fused)
    reference = partial(torch_ref.ClassificationPresetTrain, random_erase_prob=0.5)
    mixes = [side.get_mixup_cutmix(0.2, 1.0, 1000) for side in (paddle_mv3, torch_ref)]
    return port, reference, POLICIES, mixes


def compare_training_data(image_dir, path, draws):
    """`draws` gives what is drawn; the log goes to `path`."""
    dataset = torch_ref.ImageFolder(image_dir)
    return compare_augmentation(*training_data(), dataset, path, draws=draws)


def compare_training_items(image_dir):
    """What the port's data set makes of an image in this or another epoch."""
    preset = paddle_mv3.ClassificationPresetTrain(crop_size=64)
    folder, other = (paddle_mv3.ImageFolder(image_dir, preset, seed=seed) for seed in (0, 1))
    return compare_items(folder, paddle_mv3.Draw, other_seed=other)


def shuffled(dataset, rank, world_size, **more):
    return torch.utils.data.DistributedSampler(dataset, world_size, rank, **more)


def repeated(dataset, rank, world_size, **more):
    return torch_ref.RASampler(dataset, world_size, rank, **more)


def record(dataset, loader, batches):
    """Runs a pipeline through; both frameworks' tensors turn into arrays with `.numpy()`."""
    log, labels, means, weighted = ReprodLogger(), [], [], []
    log.add("length", np.array([len(dataset), len(loader)]))
    log.add("targets", np.array([target for _, target in dataset.samples]))
    for idx, (images, target) in enumerate(islice(loader, batches)):
        if idx < RECORDED:
            log.add(f"dataloader_{idx}", images.numpy())
            log.add(f"labels_{idx}", target.numpy())
        labels.append(target.numpy())
        means.append(images.numpy().mean(axis=(2, 3), dtype=np.float64))
        # The mean would be the same of an image that is turned, or flipped.
        weights = np.random.RandomState(0).rand(*images.shape[2:])
        weighted.append(np.einsum("nchw,hw->nc", images.numpy(), weights) / weights.size)
    log.add("all_labels", np.concatenate(labels))
    log.add("all_means", np.concatenate(means))
    log.add("all_weighted_means", np.concatenate(weighted))
    return log


def compare_training_draws():
    return compare_draws(*training_data())


def main(args):
    image_dir = cli.image_dir(args)
    path = args.result_dir / "log" / "data_cases.log"
    with (
        beside(args.device, compare_training_draws) as draws,
        beside(args.device, compare_cases, paddle_mv3, torch_ref, path) as edge_cases,
    ):
        return compare(args, image_dir, draws, edge_cases)


def compare(args, image_dir, draws, edge_cases):
    """The step; `draws` and `edge_cases` give what is found in these."""
    paddle_data = build_paddle_data_pipeline(image_dir, args.workers)
    torch_data = build_torch_data_pipeline(image_dir, args.workers)
    save(record(*paddle_data, args.batches), args.result_dir / "data_paddle.npy")
    save(record(*torch_data, args.batches), args.result_dir / "data_ref.npy")

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "data_ref.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "data_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info)

    log_dir = args.result_dir / "log"
    report = StepReport(diff_helper, log_dir / "data_diff.log", thresholds.DATA)
    if not report.aligned:  # which class, file or image is the first that differs?
        report.locate(locate_image(paddle_data[0], torch_data[0]))
    # What training adds, each only if all before it agrees.
    train_dir = args.image_dir or image_dir.with_name("train")
    if report.aligned:  # the augmentation of images and batches
        path = log_dir / "data_augmentation.log"
        report.add(compare_training_data(train_dir, path, draws))
    if report.aligned:  # which images each rank gets, shuffled
        report.add(compare_sampling(paddle_mv3.DistributedSampler, shuffled, variants=SHUFFLED))
    if report.aligned:  # the same, each image several times
        report.add(compare_sampling(paddle_mv3.RASampler, repeated, variants=REPEATED))
    if report.aligned:  # an image is another one in the next epoch
        report.add(compare_training_items(train_dir))
    if report.aligned:  # what these images, arguments and counts have not shown
        report.add(edge_cases())
    if report.aligned:  # how small a mistake would have been seen?
        changes = {name: p for each in report.compared for name, p in each.changes.items()}
        report.measured(data_power(torch_info, thresholds.DATA, changes))
    return report.finish(
        "order of files, RGB or BGR, interpolation, rounding of crops, mean and std"
    )


if __name__ == "__main__":
    arguments = cli.parser(__doc__, paddle_mv3.MODELS)
    cli.add_image_dir(arguments)
    option = arguments.add_argument
    option("--batches", type=count, help="only the first N batches of 4 images")
    option("--workers", type=workers, default=0, help="loader processes of each side")
    cli.run(main, arguments, log="data_diff")
