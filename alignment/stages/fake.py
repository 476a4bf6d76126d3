"""Inputs that are made rather than collected: fake images, fake labels, labels for a metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files import CannotRun, load_array, missing, shown, whole_file

IMAGE_SHAPE = (3, 224, 224)
NUM_CLASSES = 1000  # of the models with which the steps run
# MobileNetV3 halves an image five times. It runs on smaller ones too, but of those all is padding
# to the deeper layers: a wrong stride or kernel changes nothing.
MIN_SIZE = 32


def gen_fake_data(batch_size: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels): (batch_size, 3, 224, 224) float32 in [-0.5, 0.5), (batch_size,) int64.

    Images are uniform, labels are 0, 1, 2, …. A smaller batch is the beginning of a larger one.
    `RandomState` because its stream is frozen: these are the same bits with every NumPy.
    """
    images = np.random.RandomState(seed).rand(batch_size, *IMAGE_SHAPE).astype(np.float32)
    return images - np.float32(0.5), np.arange(batch_size, dtype=np.int64)


def load_fake_data(data_dir: Path, batch_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """`fake_data.npy` and `fake_label.npy` of `data_dir`, at least `batch_size` images.

    Files that are missing are made; images that are missing are added by the same recipe.

    Returns:
        images (N, 3, H, W) float32 and labels (N,) int64.

    Raises:
        CannotRun: a file is damaged, or its shape, dtype or values are none that the models take.
    """
    made = gen_fake_data(batch_size)
    loaded = []
    for name, array in zip(("fake_data.npy", "fake_label.npy"), made):
        path = data_dir / name
        if missing(path):
            with whole_file(path) as temporary:
                np.save(temporary, array[:1])
        loaded.append(load_array(path))

    images, labels = loaded
    _check_images(data_dir / "fake_data.npy", images)
    _check_labels(data_dir / "fake_label.npy", labels, len(images))
    lacking = batch_size - len(images)
    if lacking > 0 and images.shape[1:] == IMAGE_SHAPE:
        images = np.concatenate([images, made[0][-lacking:]])
        labels = np.concatenate([labels, made[1][-lacking:]])
    elif lacking > 0:
        raise CannotRun(
            f"{shown(data_dir / 'fake_data.npy')} holds {len(images)} image(s) of {images.shape}: "
            f"this step needs {batch_size}"
        )
    return images, labels


def _check_images(path: Path, images: np.ndarray) -> None:
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise CannotRun(
            f"{shown(path)} holds {images.dtype} {images.shape}: wanted float32 (N, 3, height, "
            "width), N at least 1"
        )
    if min(images.shape[2:]) < MIN_SIZE:
        raise CannotRun(
            f"{shown(path)} holds images of {images.shape[2]} x {images.shape[3]}: too small to "
            f"tell a wrong stride or kernel. Give {MIN_SIZE} x {MIN_SIZE} or more"
        )
    bad = np.argwhere(~np.isfinite(images))
    if len(bad):
        raise CannotRun(
            f"{shown(path)} holds {images[tuple(bad[0])]} at {bad[0].tolist()}: NaN and infinity "
            "agree with anything. Give finite values, or delete the file: it is then made again"
        )


def _check_labels(path: Path, labels: np.ndarray, count: int) -> None:
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise CannotRun(
            f"{shown(path)} holds {labels.dtype} {labels.shape}: wanted int64 ({count},), one "
            "label for each image of fake_data.npy"
        )
    bad = labels[(labels < 0) | (labels >= NUM_CLASSES)]
    if len(bad):
        raise CannotRun(
            f"{shown(path)} holds the label {bad[0]}: wanted 0 to {NUM_CLASSES - 1}, the classes "
            "of the models"
        )


def draw_labels(logits: np.ndarray, seed: int = 0) -> np.ndarray:
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
