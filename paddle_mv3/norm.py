"""Batch normalisation whose running variance moves as PyTorch's does."""

import functools

import numpy as np
import paddle
from paddle import nn

__all__ = ["BatchNorm2D"]


class BatchNorm2D(nn.BatchNorm2D):
    """paddle.nn.BatchNorm2D with the unbiased batch variance in the running variance.

    (N, C, H, W) -> the same shape; the arguments and the `state_dict` are paddle.nn.BatchNorm2D's.
    Both frameworks normalise by the biased variance of the batch (divided by n = N * H * W).
    Into the running variance PyTorch puts the unbiased one (n - 1), and so does Ioffe & Szegedy
    2015, algorithm 2; Paddle 3.3.1's CPU kernel puts the biased one. Which it is on the device at
    hand is found out by a probe, once.
    """

    def forward(self, x):
        n = x.size // self._mean.shape[0]
        trains = self.training and not self._use_global_stats
        if not trains or n < 2 or not kernel_is_biased(str(x.place)):
            return super().forward(x)
        # The kernel gets a copy to update: backward holds on to what it was given.
        with paddle.no_grad():
            updated = self._variance.clone()
        y = nn.functional.batch_norm(
            x,
            self._mean,
            updated,
            self.weight,
            self.bias,
            training=True,
            momentum=self._momentum,
            epsilon=self._epsilon,
            data_format=self._data_format,
        )
        with paddle.no_grad():
            # The kernel added (1 - momentum) * biased variance; n / (n - 1) of that is due.
            kept = float(np.float32(self._momentum))  # as the kernel holds it
            added = updated - kept * self._variance
            paddle.assign(updated + added / (n - 1), self._variance)
        return y


@functools.cache
def kernel_is_biased(place):
    """Whether Paddle's batch norm on the current device keeps the biased variance.

    A batch of 0 and 2 has the biased variance 1 and the unbiased variance 2.
    """
    x = paddle.to_tensor([[[[0.0]]], [[[2.0]]]])
    mean, variance = paddle.zeros([1]), paddle.zeros([1])
    with paddle.no_grad():
        nn.functional.batch_norm(x, mean, variance, training=True, momentum=0.0)
    return float(variance) < 1.5
