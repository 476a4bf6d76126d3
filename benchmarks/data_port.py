"""The port's side of benchmarks/data.py, in a process of its own, of any commit.

    python benchmarks/data_port.py ROOT IMAGES BATCH_SIZE EPOCHS

Takes paddle_mv3 from ROOT. For each line "PRESET WORKERS" that it reads, it loads the images and
answers with a line: seconds for an image, by the clock and of the processor.
"""

import resource
import sys
import time
from functools import partial

__all__ = ["batches_of", "decode_seconds", "loader", "seconds_per_image"]


def dataset(root, preset):
    """The images as bytes; "erase" as workers of this commit can send them at best."""
    import paddle_mv3

    if preset == "eval":
        transform = paddle_mv3.ClassificationPresetEval(normalize=False)
    elif preset == "train":
        transform = paddle_mv3.ClassificationPresetTrain(normalize=False)
    else:
        erase = {"random_erase_prob": 0.2}
        try:
            transform = paddle_mv3.ClassificationPresetTrain(normalize=False, **erase)
        except ValueError:  # before bytes could be erased
            transform = paddle_mv3.ClassificationPresetTrain(**erase)
    return paddle_mv3.ImageFolder(root, transform)


def loader(root, preset, workers, batches):
    import paddle_mv3

    images = dataset(root, preset)
    as_bytes = getattr(images.transform, "normalize", True) is False or preset == "eval"
    return paddle_mv3.DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        finish=paddle_mv3.normalize_batch if as_bytes else None,
    )


def batches_of(count, batch_size, epochs):
    """[[index]] of so many images."""
    indices = list(range(count))
    return [indices[i : i + batch_size] for i in range(0, count, batch_size)] * epochs


def seconds_per_image(make):
    """Of a loader that `make` makes: from the first batch to the last, so without starting the
    workers; and of processor time, of all processes from their start to their end.
    """
    used = processor_seconds()
    batches = iter(make())
    first = len(next(batches)[1])
    start = time.perf_counter()
    images = sum(len(targets) for _, targets in batches)
    seconds = time.perf_counter() - start
    del batches  # its workers end: until then their time is not known
    return seconds / images, (processor_seconds() - used) / (first + images)


def processor_seconds():
    """Of this process and of those that it has started and that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def decode_seconds(images):
    from paddle_mv3.data.dataset import load_image

    start = time.perf_counter()
    for path, _ in images.samples:
        load_image(path)
    return (time.perf_counter() - start) / len(images)


def main():
    root, images, batch_size, epochs = sys.argv[1:]
    sys.path.insert(0, root)
    count = len(dataset(images, "eval"))
    batches = batches_of(count, int(batch_size), int(epochs))
    for line in sys.stdin:
        preset, workers = line.split()
        if preset == "decode":
            print(decode_seconds(dataset(images, "eval")), flush=True)
        else:
            make = partial(loader, images, preset, int(workers), batches)
            print(*seconds_per_image(make), flush=True)


if __name__ == "__main__":
    main()
