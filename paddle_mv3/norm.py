"""Batch normalisation whose running variance moves as PyTorch's does."""

import functools

import numpy as np
import paddle
from paddle import nn

__all__ = ["BatchNorm2D", "NoVariance"]


class NoVariance(ValueError):
    """Batch norm in train mode has one value for each channel, and so no variance."""


class BatchNorm2D(nn.BatchNorm2D):
    """paddle.nn.BatchNorm2D with the unbiased batch variance in the running variance.

    (N, C, H, W) -> the same shape; the arguments and the `state_dict` are paddle.nn.BatchNorm2D's.
    Both frameworks normalise by the biased variance of the batch (divided by n = N * H * W).
    Into the running variance PyTorch puts the unbiased one (n - 1), and so does Ioffe & Szegedy
    2015, algorithm 2; Paddle 3.3.1's CPU kernel puts the biased one. Which it is on the device at
    hand is found out by a probe, once.

    Raises:
        NoVariance: in train mode, one value for each channel; PyTorch refuses too.

    Attributes:
        sync: mean and variance are those of all ranks' batches together, as with
            torch.nn.SyncBatchNorm; set by `synchronize_batch_norm`.
    """

    sync = False

    def forward(self, x):
        n = x.size // self._mean.shape[0]
        trains = self.training and not self._use_global_stats
        if trains and n < 2 and not self.sync:
            raise NoVariance(
                f"batch norm in train mode has one value for each channel, of {list(x.shape)}: it "
                "has no variance. Give more images, or larger ones"
            )
        if trains and self.sync:
            return self._forward_over_ranks(x)
        if not trains or not kernel_is_biased(str(x.place)):
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

    def _forward_over_ranks(self, x):
        # The kernels hold epsilon and momentum as float32.
        epsilon, kept = float(np.float32(self._epsilon)), float(np.float32(self._momentum))
        wide = x if x.dtype in (paddle.float32, paddle.float64) else x.astype("float32")
        y, mean, variance, n = _SyncBatchNorm.apply(wide, self.weight, self.bias, epsilon)
        if float(n) < 2:
            raise NoVariance("batch norm has one value for each channel on all ranks: no variance")
        with paddle.no_grad():
            unbiased = variance * (n / (n - 1))
            paddle.assign(self._mean * kept + mean * (1 - kept), self._mean)
            paddle.assign(self._variance * kept + unbiased * (1 - kept), self._variance)
        return y.astype(x.dtype)


class _SyncBatchNorm(paddle.autograd.PyLayer):
    """Batch norm over the images of all ranks. Paddle's own, nn.SyncBatchNorm, needs a GPU.

    Each rank's loss is the mean of its own images, and DataParallel takes the mean of the ranks'
    gradients: so the gradient that goes back is that of the sum of all ranks' losses, and the
    gradients of scale and shift are of this rank's images.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        """(N, C, H, W) -> the same shape, mean (C,), biased variance (C,), values per channel"""
        count = paddle.full([1], x.size // x.shape[1], x.dtype)
        n, sums = _over_ranks(count, x.sum([0, 2, 3]))
        mean = sums / n
        centred = x - _planes(mean)
        (squares,) = _over_ranks((centred * centred).sum([0, 2, 3]))
        variance = squares / n
        rstd = 1 / (variance + epsilon).sqrt()
        normalized = centred * _planes(rstd)
        ctx.save_for_backward(normalized, weight, rstd, n)
        return normalized * _planes(weight) + _planes(bias), mean, variance, n

    @staticmethod
    def backward(ctx, grad, *_):
        normalized, weight, rstd, n = ctx.saved_tensor()
        grad_bias = grad.sum([0, 2, 3])
        grad_weight = (grad * normalized).sum([0, 2, 3])
        all_bias, all_weight = _over_ranks(grad_bias, grad_weight)
        grad_x = grad - _planes(all_bias / n) - normalized * _planes(all_weight / n)
        return grad_x * _planes(weight * rstd), grad_weight, grad_bias


def _planes(channels):
    return channels.reshape([1, -1, 1, 1])


def _over_ranks(*vectors):
    """Their sums over all ranks, in one message."""
    together = paddle.concat(vectors)
    if paddle.distributed.get_world_size() > 1:
        paddle.distributed.all_reduce(together)
    return together.split([vector.shape[0] for vector in vectors])


def synchronize_batch_norm(model):
    """Makes every BatchNorm2D of a Layer take its statistics from all ranks (--sync-bn).

    torch.nn.SyncBatchNorm.convert_sync_batchnorm
    """
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, BatchNorm2D):
            layer.sync = True
    return model


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
