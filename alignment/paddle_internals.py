"""What is read of Paddle that Paddle does not promise: each under a name of its own.

Seen in paddlepaddle 3.3.1, whose public API has no way to any of it. Where another version has
moved one of these, it is here that it is looked for.
"""

import contextlib
from types import SimpleNamespace
from unittest import mock

from paddle.amp.auto_cast import amp_global_state

__all__ = [
    "optimizer_accumulators",
    "optimizer_groups",
    "scale_in_float64",
    "scaler_works_on_cpu",
]


def optimizer_accumulators(optimizer):
    """{"velocity" | "moment1" | …: {Parameter.name: Tensor}} of what an optimizer keeps.

    `state_dict` has the same tensors under names that run both together.
    Empty before the first step.
    """
    return optimizer._accumulators


def optimizer_groups(optimizer):
    """[{"params": [Parameter], "weight_decay": number or None, …}], as PyTorch's `param_groups`."""
    return optimizer._param_groups


@contextlib.contextmanager
def scaler_works_on_cpu():
    """Within, `paddle.amp.GradScaler` is made as on a GPU with float16.

    Elsewhere it takes itself out of action: it asks the tracer for its place, and the state of
    mixed precision for its dtype.
    """
    on_gpu = SimpleNamespace(_expected_place=SimpleNamespace(is_gpu_place=lambda: True))
    amp_global_state().amp_dtype = "float16"
    with mock.patch("paddle.amp.grad_scaler._dygraph_tracer", lambda: on_gpu):
        yield


def scale_in_float64(scaler):
    """Keeps the scale of a GradScaler in float64, for gradients that are."""
    scaler._scale = scaler._scale.astype("float64")
