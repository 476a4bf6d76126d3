"""Dropout with the same masks on both sides, whatever its form: layers, functions, attention.

The port samples a mask, where it calls dropout; the reference's call of the same number uses it.
Its rate and its scaling are compared on the way.
"""

import contextlib
import math
import sys
from dataclasses import dataclass

import numpy as np
import paddle
import torch
from torch.nn import functional as F

__all__ = ["SharedDropout", "without_inner_dropout"]

IN_PORT = ("dropout", "alpha_dropout", "feature_alpha_dropout")
IN_REFERENCE = {
    F.dropout: 0.5,
    F.dropout1d: 0.5,
    F.dropout2d: 0.5,
    F.dropout3d: 0.5,
    F.alpha_dropout: 0.5,
    F.feature_alpha_dropout: 0.5,
    torch.dropout: None,
}
ALPHA = -1.0507009873554805 * 1.6732632423543772  # what SELU saturates at
SIGMAS = 5.0  # of a binomial distribution: a right port is called wrong once in 1.7 million


@dataclass
class Call:
    """One call of dropout in the port.

    Attributes:
        kept: (shape of the input) bool.
        scale: what is kept was multiplied by.
        channels: how many values were sampled; of dropout2d, as many as there are channels.
    """

    kept: np.ndarray
    scale: float
    sampled: int


class SharedDropout:
    """Runs both sides' dropout; the port first.

    Attributes:
        checks: [(text, whether it agrees)] of rates, scalings and the number of calls.
    """

    def __init__(self):
        self.calls, self.next, self.checks = [], 0, []

    @contextlib.contextmanager
    def of_port(self):
        """Within, the port's calls of dropout are recorded; what was recorded before is gone."""
        self.calls, self.next = [], 0
        functional = paddle.nn.functional
        originals = {name: getattr(functional, name) for name in IN_PORT}
        inside = []  # one that calls another is one call

        def patched(name, original):
            def dropout(x, p=0.5, *args, **kwargs):
                if inside:
                    return original(x, p, *args, **kwargs)
                inside.append(name)
                try:
                    return self._run_port(original, x, p, args, kwargs)
                finally:
                    inside.clear()

            return dropout

        replaced = {}
        for name, original in originals.items():
            replaced[original] = patched(name, original)
        places = [
            (module, name, value)
            for module in list(sys.modules.values())
            if module is not sys.modules[__name__]
            for name, value in list(getattr(module, "__dict__", {}).items())
            if callable(value) and _in(replaced, value)
        ]
        for module, name, original in places:
            setattr(module, name, replaced[original])
        try:
            yield
        finally:
            for module, name, original in places:
                setattr(module, name, original)

    def _run_port(self, original, x, p, args, kwargs):
        with paddle.no_grad():
            state = paddle.get_rng_state()
            ones = original(paddle.ones_like(x), p, *args, **kwargs)
            after = paddle.get_rng_state()
            paddle.set_rng_state(state)
            # Dropout is affine in what comes in; this is what it gives for zeros.
            zeros = original(paddle.zeros_like(x), p, *args, **kwargs)
            paddle.set_rng_state(after)
            factor = ones - zeros
        mask = factor.numpy()
        kept = mask != 0
        if kept.all() and np.ptp(mask) == 0 and mask.flat[0] == 1:  # eval mode, or a rate of 0
            return original(x, p, *args, **kwargs)
        scale = float(np.median(mask[kept])) if kept.any() else 0.0
        self.calls.append(Call(kept, scale, _sampled(kept)))
        return x * factor + zeros

    @contextlib.contextmanager
    def of_reference(self):
        """Within, the reference's calls take the port's masks; the number of calls is compared."""
        self.next = 0
        yield
        more = len(self.calls) - self.next
        if more > 0:
            self.checks.append((f"called {len(self.calls)} times | {self.next} times", False))

    def handles(self, function):
        return function in IN_REFERENCE or function is F.scaled_dot_product_attention

    def run_reference(self, function, args, kwargs):
        if function is F.scaled_dot_product_attention:
            return self._run_attention(args, kwargs)
        names = ("input", "p", "train") if function is torch.dropout else ("input", "p", "training")
        given = dict(zip(names, args)) | {k: v for k, v in kwargs.items() if k in names}
        x, rate = given["input"], given.get("p", IN_REFERENCE[function])
        trains = given.get(names[2], function not in (F.alpha_dropout, F.feature_alpha_dropout))
        if not trains or rate == 0:
            return x
        kept = self._mask(x, rate)
        if kept is None:
            return x
        if function in (F.alpha_dropout, F.feature_alpha_dropout):
            a = ((1 - rate) * (1 + rate * ALPHA**2)) ** -0.5
            return a * torch.where(kept, x, torch.full_like(x, ALPHA)) - a * rate * ALPHA
        # Paddle subtracts in float32.
        return x * kept / float(np.float32(1) - np.float32(rate))

    def _mask(self, x, rate):
        """The port's mask of this call, or None; notes whether the port's rate is the same."""
        number = self.next
        self.next += 1
        if number >= len(self.calls):
            if number == len(self.calls):
                self.checks.append((f"called {number} times | more often", False))
            return None
        call, where = self.calls[number], f"call {number + 1}"
        kept = call.kept
        if kept.size != x.numel():
            text = f"{where}: shape {kept.shape} | {tuple(x.shape)}"
            self.checks.append((text, False))
            return None
        share = 1 - kept.mean()
        sigma = math.sqrt(rate * (1 - rate) / call.sampled)
        agrees = abs(share - rate) <= SIGMAS * sigma + 1e-12
        self.checks.append((f"{where}: drops {share:.3f} | {rate:.3g}", agrees))
        if 0 < rate < 1:
            scale, wanted = call.scale, 1 / (1 - rate)
            agrees = abs(scale / wanted - 1) < 1e-6
            # Of alpha dropout the scaling is another; what comes out of it is compared anyway.
            is_alpha = abs(scale - ((1 - rate) * (1 + rate * ALPHA**2)) ** -0.5) < 1e-6
            text = f"{where}: scales by {scale:.6g} | {wanted:.6g}"
            self.checks.append((text, agrees or is_alpha))
        if kept.shape != tuple(x.shape) and kept.ndim == x.dim():
            moved = np.moveaxis(kept, -1, 1)
            kept = moved if moved.shape == tuple(x.shape) else kept
        return torch.from_numpy(np.ascontiguousarray(kept).reshape(tuple(x.shape))).to(x.device)

    def _run_attention(self, args, kwargs):
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args)) | kwargs
        rate = given.get("dropout_p", 0.0)
        if not rate:
            return F.scaled_dot_product_attention(*args, **kwargs)
        query, key, value = given["query"], given["key"], given["value"]
        if given.get("enable_gqa"):
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (x.repeat_interleave(repeats, -3) for x in (key, value))
        scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(-2, -1) * scale
        mask = given.get("attn_mask")
        if given.get("is_causal"):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = (
                scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
            )
        weights = torch.softmax(scores, -1)
        kept = self._mask(weights, rate)
        if kept is not None:
            weights = weights * kept / float(np.float32(1) - np.float32(rate))
        return weights @ value


def _in(functions, value):
    try:
        return value in functions
    except TypeError:  # it cannot be hashed
        return False


def _sampled(kept):
    """How many values were sampled for a mask: one for each channel if each is kept or dropped."""
    if kept.ndim > 2:
        flat = kept.reshape(*kept.shape[:2], -1)
        if (flat.all(-1) | ~flat.any(-1)).all():
            return flat.shape[0] * flat.shape[1]
        last = np.moveaxis(kept, -1, 1).reshape(kept.shape[0], kept.shape[-1], -1)
        if (last.all(-1) | ~last.any(-1)).all():
            return last.shape[0] * last.shape[1]
    return kept.size


@contextlib.contextmanager
def without_inner_dropout(port_model, reference_model):
    """Within, recurrent layers have no dropout between theirs: their masks cannot be seen.

    Yields:
        lines on what is not compared for that.
    """
    found, lines = [], []
    for layer in port_model.sublayers(include_self=True):
        if isinstance(layer, paddle.nn.layer.rnn.RNNBase) and layer.dropout:
            found.append((layer, layer.dropout))
    for layer in reference_model.modules():
        if isinstance(layer, torch.nn.RNNBase) and layer.dropout:
            found.append((layer, layer.dropout))
    if found:
        lines.append(
            "dropout between the layers of LSTM, GRU or RNN: switched off on both sides, as its "
            "masks cannot be shared (its rate is compared)"
        )
    for layer, _ in found:
        layer.dropout = 0.0
    try:
        yield lines
    finally:
        for layer, rate in found:
            layer.dropout = rate
