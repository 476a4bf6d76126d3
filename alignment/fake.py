"""Inputs that are made rather than collected: fake images, fake labels, labels for a metric."""

import numpy as np

from .files import CannotRun, first_line, shown, whole_file

IMAGE_SHAPE = (3, 224, 224)


def gen_fake_data(batch_size=1, seed=0):
    """(images, labels): (batch_size, 3, 224, 224) float32 in [-0.5, 0.5), (batch_size,) int64.

    Images are uniform, labels are 0, 1, 2, …. A smaller batch is the beginning of a larger one.
    `RandomState` because its stream is frozen: these are the same bits with every NumPy.
    """
    images = np.random.RandomState(seed).rand(batch_size, *IMAGE_SHAPE).astype(np.float32)
    return images - np.float32(0.5), np.arange(batch_size, dtype=np.int64)


def load_fake_data(data_dir, batch_size=1):
    """`fake_data.npy` and `fake_label.npy` of `data_dir`, at least `batch_size` images.

    Files that are missing are made; images that are missing are added by the same recipe.

    Returns:
        images (N, 3, H, W) float32 and labels (N,) int64.

    Raises:
        CannotRun: a file is damaged, or its shape or dtype is another.
    """
    made = gen_fake_data(batch_size)
    loaded = []
    for name, array in zip(("fake_data.npy", "fake_label.npy"), made):
        path = data_dir / name
        if not path.exists():
            with whole_file(path) as temporary:
                np.save(temporary, array[:1])
        try:
            loaded.append(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise CannotRun(f"cannot read {shown(path)}: {first_line(error)}") from error

    images, labels = loaded
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1] != 3:
        raise CannotRun(
            f"{shown(data_dir / 'fake_data.npy')} holds {images.dtype} {images.shape}: "
            "wanted float32 (N, 3, height, width)"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise CannotRun(
            f"{shown(data_dir / 'fake_label.npy')} holds {labels.dtype} {labels.shape}: "
            f"wanted int64 ({len(images)},), one label for each image of fake_data.npy"
        )
    missing = batch_size - len(images)
    if missing > 0 and images.shape[1:] == IMAGE_SHAPE:
        images = np.concatenate([images, made[0][-missing:]])
        labels = np.concatenate([labels, made[1][-missing:]])
    elif missing > 0:
        raise CannotRun(
            f"{shown(data_dir / 'fake_data.npy')} holds {len(images)} image(s) of {images.shape}: "
            f"this step needs {batch_size}"
        )
    return images, labels


def draw_labels(logits, seed=0):
    """Labels that put top-1 and top-5 accuracy to the test.

    Weights that were never trained get every real label wrong, and a metric that is always 0
    agrees with any other. Here 4 in 10 labels are the largest logit, 3 in 10 the fifth and 3 in
    10 the sixth, at random; so top-4 is not top-5, nor is top-6. Where the fifth and the sixth (or
    the first and the second) are so near that rounding could swap them, the label is the third.

    Args:
        logits: (N, num_classes) array, num_classes at least 6.

    Returns:
        (N,) int64.
    """
    ranks = np.random.RandomState(seed).choice([0, 4, 5], size=len(logits), p=[0.4, 0.3, 0.3])
    order = np.argsort(-logits, axis=1, kind="stable")
    best = np.take_along_axis(logits, order[:, :6], axis=1)
    lead = np.where(ranks == 0, best[:, 0] - best[:, 1], best[:, 4] - best[:, 5])
    ranks[lead < 1e-3 * np.abs(best).max(axis=1)] = 2
    return np.take_along_axis(order, ranks[:, None], axis=1)[:, 0]
