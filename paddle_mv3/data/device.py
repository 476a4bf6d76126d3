"""Normalising where the training is: of images left as bytes, a quarter of them goes to a GPU."""

import numpy as np
import paddle

from .transforms import normalization_table, normalize_batch, normalize_planes, take_apart

__all__ = ["normalize_in_paddle", "normalize_on_device"]


def normalize_on_device(images):
    """As `normalize_batch`, bit for bit; on another device than the CPU it gives a tensor there."""
    if paddle.get_device() == "cpu":
        return normalize_batch(images)
    return normalize_in_paddle(images)


def normalize_in_paddle(images):
    """As `normalize_batch`, bit for bit, in Paddle's operations: a tensor on the device."""
    return look_up_and_erase(*take_apart(images))


def look_up_and_erase(pixels, erased=None):
    """`normalize_batch` in Paddle's operations, on the device that is set.

    The values are looked up in a table that NumPy has made. A device would round a division, or
    a product and a sum in one, in its own way; copying has nothing to round.

    Args:
        pixels: (N, H, W, 3) uint8 array.
        erased: (N,) array of "box" and "value", as `bytes_to_erase` has them, or None.

    Returns:
        (N, 3, H, W) float32 tensor.
    """
    count, height, width, _ = pixels.shape
    table = paddle.to_tensor(_values().ravel())
    channel = paddle.to_tensor(np.arange(3, dtype=np.int32).reshape(1, 3, 1, 1) * 256)
    # To the device as bytes, and only there four times as large.
    sent = paddle.to_tensor(np.ascontiguousarray(pixels))
    index = sent.astype("int32").transpose([0, 3, 1, 2]) + channel
    batch = paddle.gather(table, index.reshape([-1])).reshape([count, 3, height, width])
    if erased is None:
        return batch
    box = paddle.to_tensor(np.ascontiguousarray(erased["box"])).reshape([count, 4, 1, 1, 1])
    value = paddle.to_tensor(np.ascontiguousarray(erased["value"])).reshape([count, 3, 1, 1])
    top, left, rows, columns = (box[:, i] for i in range(4))
    y = paddle.arange(height, dtype="int32").reshape([1, 1, height, 1])
    x = paddle.arange(width, dtype="int32").reshape([1, 1, 1, width])
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
    return paddle.where(inside, value, batch)


def _values():
    """(3, 256) float32: each channel's value of each byte."""
    values = np.empty((3, 1, 256), dtype=np.float32)
    byte = np.arange(256, dtype=np.uint8)[None]
    normalize_planes([byte] * 3, normalization_table(), values)
    return values[:, 0]
