"""Images per second of both data pipelines, and how much of an image's time is decoding.

    python benchmarks/data.py
    python benchmarks/data.py --workers 0 4 8 --runs 9
    python benchmarks/data.py --against HEAD~1

Makes JPEGs of ImageNet's size (500 x 375, some 100 KB) from lite_data.tar in a temporary folder,
then reads them with torchvision's pipeline in torch's DataLoader and with the port's in Paddle's,
in turn; first it asserts that both give the same images. Prints medians; the goal is a ratio of
1.25. Train: random resized crop, flip, normalise, with the same boxes on both sides. Eval: resize,
centre crop, normalise. The port's workers send bytes, and the main process normalises them; without
workers its images are made by a thread for each core, torch's by one. Decoding is what one thread
needs to decode an image, as a share of the port's time without workers.

"CPU ratio" is that of processor times, of all processes: on a machine that does other work as well
it is the steadier one, and it knows nothing of what runs at the same time.

With --against the port of another commit takes its turn too, from a temporary copy: "to REF" is
how many times as fast this port is, so below 1 it has become slow. Erase is the train preset with
random erasing, for which torchvision is not run.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "benchmarks"))

import torch_ref  # noqa: E402  isort: skip  (before torchvision, which it may have to help)

import data_port  # noqa: E402
import torch  # noqa: E402
from older import check_out  # noqa: E402
from PIL import Image  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torchvision import transforms  # noqa: E402

import paddle_mv3  # noqa: E402
from alignment.arguments import Formatter, count  # noqa: E402
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


class Port:
    """paddle_mv3 of a folder, in a process of its own, which it leaves when it is closed."""

    def __init__(self, root, images, args):
        script = ROOT / "benchmarks" / "data_port.py"
        command = [sys.executable, script, root, images, str(args.batch_size), str(args.epochs)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def seconds(self, preset, workers=0):
        """For an image: by the clock and of the processor; to decode it, by the clock alone."""
        print(preset, workers, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"the port has ended with status {self.process.wait()}")
        return tuple(map(float, answer.split()))


def assert_same(loaders):
    for (images, targets), (expected, expected_targets) in zip(*loaders, strict=True):
        assert np.array_equal(images.numpy(), expected.numpy())
        assert np.array_equal(targets.numpy(), expected_targets.numpy())


def row(preset, workers, port, old, reference, runs):
    """One line of the table. `old` or `reference`, a function that makes a loader, may be None."""
    clock, processor, decoding = [], [], []
    for _ in range(runs):
        nothing = np.nan, np.nan
        sides = [
            port.seconds(preset, workers),
            data_port.seconds_per_image(reference) if reference else nothing,
            old.seconds(preset, workers) if old else nothing,
        ]
        for times, column in zip((clock, processor), zip(*sides)):
            times.append(column)
        decode = port.seconds("decode")[0] if workers == 0 else np.nan
        decoding.append(decode / clock[-1][0])

    def ratio(times, side):
        return f"{statistics.median(run[side] / run[0] for run in times):.2f}"

    speeds = [f"{1 / statistics.median(column):.0f}" for column in zip(*clock)]
    shown = [speeds[1], speeds[0], ratio(clock, 1), ratio(processor, 1)]
    shown.append(f"{statistics.median(decoding):.0%}")
    if old:
        shown += [speeds[2], ratio(clock, 2), ratio(processor, 2)]
    return [preset, workers, *("" if "nan" in text else text for text in shown)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--images", type=count, default=256, help="how many JPEGs")
    parser.add_argument("--epochs", type=count, default=4, help="over the images, in a run")
    parser.add_argument("--quality", type=count, default=97, help="of the JPEGs, to 100")
    parser.add_argument("--batch-size", type=count, default=32, help="images in a batch")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="numbers of loader processes",
    )
    parser.add_argument("--runs", type=count, default=5, help="how often each is measured")
    parser.add_argument(
        "--torch-threads",
        type=count,
        default=1,
        help="of torch without workers",
    )
    parser.add_argument("--against", metavar="REF", help="a commit whose port takes its turn too")
    args = parser.parse_args()
    # Of one image's operations a second thread makes none faster, and on a busy machine all slower.
    torch.set_num_threads(args.torch_threads)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = Path(folder)
        before = check_out(args.against, folder / "before") if args.against else None
        root = make_images(folder, args.images, args.quality)
        recorder = paddle_mv3.ImageFolder(root, Recorder())
        draws = [recorder[index][0] for index in range(len(recorder))]
        references = {
            "train": RecordedTrain(root, draws),
            "eval": torch_ref.ImageFolder(root, torch_ref.ClassificationPresetEval()),
        }
        size = statistics.mean(path.stat().st_size for path in root.rglob("*.jpg"))
        print(f"{args.images} JPEGs of {SIZE[0]} x {SIZE[1]}, {size / 1e3:.0f} KB on average")
        once = data_port.batches_of(args.images, args.batch_size, 1)
        batches = once * args.epochs
        port = stack.enter_context(Port(ROOT, root, args))
        old = stack.enter_context(Port(before, root, args)) if before else None
        rows = []
        for preset in ("train", "eval", *(["erase"] if old else [])):
            for workers in args.workers:

                def reference(batches=batches, preset=preset, workers=workers):
                    return torch.utils.data.DataLoader(
                        references[preset], batch_sampler=batches, num_workers=workers
                    )

                known = preset in references
                if known:
                    mine = data_port.loader(root, preset, workers, once)
                    assert_same([mine, reference(once)])
                rows.append(
                    row(preset, workers, port, old, reference if known else None, args.runs)
                )
    headers = ["preset", "workers", "torchvision images/s", "port images/s", "ratio", "CPU ratio"]
    headers.append("decoding")
    if args.against:
        headers += [f"{args.against} images/s", f"to {args.against}", "by CPU"]
    print(tabulate(rows, headers, disable_numparse=True, stralign="right"))


if __name__ == "__main__":
    main()
