"""Step 02, data: the same image files give the same batches, bit for bit.

    python 02_test_data.py
    python 02_test_data.py --image-dir ILSVRC2012/val --batches 100

Writes result/data_paddle.npy, result/data_ref.npy and result/log/data_diff.log.
"""

from alignment import cli  # isort: skip  (first: it says which package is missing)

import numpy as np
import torch
from reprod_log import ReprodLogger

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.data import locate_image
from alignment.diff import DiffHelper, save

RECORDED = 5  # batches that are recorded whole; of the others, the mean of each channel


def build_paddle_data_pipeline(image_dir, workers):
    dataset = paddle_mv3.ImageFolder(image_dir, paddle_mv3.ClassificationPresetEval())
    loader = paddle_mv3.DataLoader(dataset, batch_size=4, num_workers=workers)
    return dataset, loader


def build_torch_data_pipeline(image_dir, workers):
    dataset = torch_ref.ImageFolder(image_dir, torch_ref.ClassificationPresetEval())
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=workers)
    return dataset, loader


def record(dataset, loader, batches):
    """Runs a pipeline through; both frameworks' tensors turn into arrays with `.numpy()`."""
    log, labels, means = ReprodLogger(), [], []
    log.add("length", np.array([len(dataset), len(loader)]))
    log.add("targets", np.array([target for _, target in dataset.samples]))
    for idx, (images, target) in enumerate(loader):
        if idx == batches:
            break
        if idx < RECORDED:
            log.add(f"dataloader_{idx}", images.numpy())
            log.add(f"labels_{idx}", target.numpy())
        labels.append(target.numpy())
        means.append(images.numpy().mean(axis=(2, 3), dtype=np.float64))
    log.add("all_labels", np.concatenate(labels))
    log.add("all_means", np.concatenate(means))
    return log


def main(args):
    image_dir = cli.image_dir(args)
    paddle_data = build_paddle_data_pipeline(image_dir, args.workers)
    torch_data = build_torch_data_pipeline(image_dir, args.workers)
    save(record(*paddle_data, args.batches), args.result_dir / "data_paddle.npy")
    save(record(*torch_data, args.batches), args.result_dir / "data_ref.npy")

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "data_ref.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "data_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info)
    return diff_helper.report(
        path=args.result_dir / "log" / "data_diff.log",
        diff_threshold=thresholds.DATA,
        locate=lambda: locate_image(paddle_data[0], torch_data[0]),
        hint="the order of classes and files, then RGB or BGR, the interpolation, the crop's "
        "rounding, mean and std",
    )


if __name__ == "__main__":
    arguments = cli.parser(__doc__)
    cli.add_image_dir(arguments)
    arguments.add_argument(
        "--batches", type=cli.positive, help="only the first N batches of 4 images"
    )
    arguments.add_argument("--workers", type=int, default=0, help="loader processes of each side")
    cli.run(main, arguments)
