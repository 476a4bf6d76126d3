"""Images per second of both data pipelines, and how much of an image's time is decoding.

    python benchmarks/data.py
    python benchmarks/data.py --workers 0 4 8 --runs 9

Makes JPEGs of ImageNet's size (500 x 375, some 100 KB) from lite_data.tar in a temporary folder,
then reads them with torchvision's pipeline in torch's DataLoader and with the port's in Paddle's,
in turn; first it asserts that both give the same images. Prints medians; the goal is a ratio of
1.1. Train: random resized crop, flip, normalise, with the same boxes on both sides. Eval: resize,
centre crop, normalise. The port's workers send bytes, and the main process normalises them. The
decoder's share is of the port's time without workers.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch_ref  # noqa: E402  isort: skip  (before torchvision, which it may have to help)

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torchvision import transforms  # noqa: E402

import paddle_mv3  # noqa: E402
from alignment.arguments import count  # noqa: E402
from alignment.files import unpack  # noqa: E402
from paddle_mv3.data.dataset import load_image  # noqa: E402

SIZE, TILE = (500, 375), 125


def make_images(folder, count, quality):
    """JPEGs that cost a decoder what ImageNet's do: each is a mosaic of photographs as they are.

    The photographs of lite_data.tar are small; enlarged they would lack detail, and bytes.
    """
    unpack(ROOT / "lite_data.tar", folder / "lite_data")
    files = paddle_mv3.ImageFolder(folder / "lite_data" / "train").samples
    photographs = [load_image(path) for path, _ in files]
    photographs = [image for image in photographs if min(image.size) >= TILE]
    rng = np.random.default_rng(0)
    images = folder / "images" / "mosaic"
    images.mkdir(parents=True)
    for number in range(count):
        mosaic = Image.new("RGB", SIZE)
        for x in range(0, SIZE[0], TILE):
            for y in range(0, SIZE[1], TILE):
                image = photographs[rng.integers(len(photographs))]
                left = int(rng.integers(0, image.width - TILE + 1))
                top = int(rng.integers(0, image.height - TILE + 1))
                mosaic.paste(image.crop((left, top, left + TILE, top + TILE)), (x, y))
        mosaic.save(images / f"{number:04}.jpg", quality=quality)
    return images.parent


class RecordedCrop(transforms.RandomResizedCrop):
    """Draws as torchvision does, which takes its time, and then crops the box that it is given."""

    def get_params(self, *args):
        super().get_params(*args)
        left, top, right, bottom = self.box
        return top, left, bottom - top, right - left


class RecordedTrain(torch_ref.ImageFolder):
    """torchvision's train preset, with the port's draws."""

    def __init__(self, root, draws):
        self.draws = draws
        self.crop = RecordedCrop(224)
        self.flip = transforms.RandomHorizontalFlip()
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        stages = [self.crop, self.flip, transforms.ToTensor(), normalize]
        super().__init__(root, transforms.Compose(stages))

    def __getitem__(self, index):
        self.crop.box, self.flip.p = self.draws[index]
        return super().__getitem__(index)


class Recorder(paddle_mv3.ClassificationPresetTrain):
    """In place of an image: what the train preset draws for it, box and flip."""

    def __call__(self, image, rng):
        drawn = self.draw(*image.size, rng)
        return drawn["crop"], float(drawn["flip"])


def seconds_per_image(loader):
    """From the first batch to the last, so without starting the workers."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    images = sum(len(targets) for _, targets in batches)
    return (time.perf_counter() - start) / images


def decode_seconds(dataset):
    start = time.perf_counter()
    for path, _ in dataset.samples:
        load_image(path)
    return (time.perf_counter() - start) / len(dataset)


def assert_same(loaders):
    for (images, targets), (expected, expected_targets) in zip(*loaders, strict=True):
        assert np.array_equal(images.numpy(), expected.numpy())
        assert np.array_equal(targets.numpy(), expected_targets.numpy())


def row(preset, workers, port, reference, batches, runs):
    """One line of the table."""
    makers = (
        lambda: paddle_mv3.DataLoader(
            port,
            batch_sampler=batches,
            num_workers=workers,
            finish=paddle_mv3.normalize_batch,
        ),
        lambda: torch.utils.data.DataLoader(reference, batch_sampler=batches, num_workers=workers),
    )
    assert_same([make() for make in makers])
    times = []
    for _ in range(runs):
        mine, theirs = (seconds_per_image(make()) for make in makers)
        times.append((mine, theirs, decode_seconds(port) if workers == 0 else np.nan))
    mine, theirs, _ = (statistics.median(column) for column in zip(*times))
    ratio = statistics.median(theirs / mine for mine, theirs, _ in times)
    share = statistics.median(decode / mine for mine, _, decode in times)
    shown = f"{share:.0%}" if workers == 0 else ""
    return [preset, workers, f"{1 / theirs:.0f}", f"{1 / mine:.0f}", f"{ratio:.2f}", shown]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=count, default=256)
    parser.add_argument("--epochs", type=count, default=4, help="over the images, in a run")
    parser.add_argument("--quality", type=count, default=97, help="of the JPEGs, to 100")
    parser.add_argument("--batch-size", type=count, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=count, default=5)
    parser.add_argument("--torch-threads", type=count, default=1, help="of torch without workers")
    args = parser.parse_args()
    # Of one image's operations a second thread makes none faster, and on a busy machine all slower.
    torch.set_num_threads(args.torch_threads)

    with tempfile.TemporaryDirectory() as folder:
        root = make_images(Path(folder), args.images, args.quality)
        recorder = paddle_mv3.ImageFolder(root, Recorder())
        draws = [recorder[index][0] for index in range(len(recorder))]
        presets = {
            "train": (
                paddle_mv3.ImageFolder(root, paddle_mv3.ClassificationPresetTrain(normalize=False)),
                RecordedTrain(root, draws),
            ),
            "eval": (
                paddle_mv3.ImageFolder(root, paddle_mv3.ClassificationPresetEval(normalize=False)),
                torch_ref.ImageFolder(root, torch_ref.ClassificationPresetEval()),
            ),
        }
        size = statistics.mean(path.stat().st_size for path in root.rglob("*.jpg"))
        print(f"{args.images} JPEGs of {SIZE[0]} x {SIZE[1]}, {size / 1e3:.0f} KB on average")
        indices = list(range(args.images))
        step = args.batch_size
        batches = [indices[i : i + step] for i in range(0, args.images, step)] * args.epochs
        rows = [
            row(preset, workers, *sides, batches, args.runs)
            for preset, sides in presets.items()
            for workers in args.workers
        ]
    headers = ["preset", "workers", "torchvision images/s", "port images/s", "ratio", "decoding"]
    print(tabulate(rows, headers, disable_numparse=True, stralign="right"))


if __name__ == "__main__":
    main()
