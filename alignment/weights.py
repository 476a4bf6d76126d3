"""Weights on which a comparison can fail, and weights from files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .files import CannotRun, load_pdparams, reason_of, require_file, shown
from .torch_files import load_torch_file

if TYPE_CHECKING:
    import paddle

    from .pairing import Pairing


@torch.no_grad()
def make_alive(
    model: torch.nn.Module,
    seed: int = 0,
    image_size: int = 224,
    run: Callable[[torch.nn.Module], Any] | None = None,
    prepare: Callable[[], object] | None = None,
) -> torch.nn.Module:
    """Redraws every parameter and buffer of `model`, in place, so that each one matters.

    As initialised, an image classifier's scales are all 1, its shifts and means all 0, and the
    signal shrinks layer by layer: MobileNetV3's logits are of the order 1e-10, and any two
    networks agree to 1e-9. Here

    - weights are normal with variance 2 / fan-in (He et al., 2015), so the signal keeps its size;
    - the scales of norm layers are uniform in [0.5, 1.5];
    - biases and the shifts of norm layers are normal with standard deviation 0.2;
    - running statistics are those of the inputs passed through the network, each moved at
      random by up to a fifth, so that no two channels have the same;
    - a row of an embedding that is padding stays 0, and buffers of the model's own stay as they
      are.

    Args:
        model: a Module. Left in eval mode.
        seed: of all of it.
        image_size: of the random images, in pixels; for a model (N, 3, H, W) float32 -> logits.
        run: function (model) that passes inputs through any other model.
        prepare: called when the parameters are made, before the statistics.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    for module in model.modules():
        is_norm = isinstance(module, NORMS)
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm and name == "weight":
                parameter.copy_(uniform(parameter, 0.5, 1.5))
            elif parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, math.sqrt(2 / fan_in), generator=generator)
            else:
                parameter.normal_(0, 0.2, generator=generator)
        padding = getattr(module, "padding_idx", None)
        if isinstance(module, nn.Embedding) and padding is not None:
            module.weight[padding] = 0  # Paddle gives 0 for it, whatever stands there

    if prepare is not None:
        prepare()

    # Layer by layer, before each is used: what follows sees the statistics already moved.
    def set_statistics(norm: torch.nn.Module, inputs: tuple) -> None:
        dims = [d for d in range(inputs[0].dim()) if d != 1]
        values = inputs[0].numel() // inputs[0].shape[1]
        variance, mean = torch.var_mean(inputs[0], dims, correction=min(1, values - 1))
        variance = torch.where(variance > 0, variance, torch.ones_like(variance))
        norm.running_mean.copy_(mean + uniform(mean, -0.2, 0.2) * variance.sqrt())
        norm.running_var.copy_(variance * uniform(variance, 0.8, 1.2))

    hooks = [
        norm.register_forward_pre_hook(set_statistics)
        for norm in model.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None
    ]
    model.eval()
    try:
        if run is not None:
            run(model)
        else:
            model(_random_images(16, image_size, generator))
    finally:
        for hook in hooks:
            hook.remove()
    return model


@torch.no_grad()
def make_extreme(model: torch.nn.Module, seed: int, run: Callable[[torch.nn.Module], Any]) -> Any:
    """`make_alive`, and then what a trained network may have and a random one has not, in place.

    - channels of convolutions that a norm follows are of sizes over five decades, so that running
      variances go from 1e-6 to 1e4;
    - scales of norm layers have both signs, and sizes from 0.1 to 3;
    - some scales, some weights and some biases are exactly 0.

    Args:
        run: function (model) that passes inputs through it.
    """
    make_alive(model, seed, run=run, prepare=lambda: _spread(model, seed))


def _spread(model: torch.nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def uniform(count: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        count = len(weight)
        if isinstance(module, NORMS):
            sign = torch.where(uniform(count, 0, 1) < 0.5, -1.0, 1.0)
            size = 10 ** uniform(count, -1, 0.5)
            size[uniform(count, 0, 1) < ZEROS] = 0
            weight.copy_((sign * size).reshape(weight.shape))
        elif module.bias is None and weight.dim() > 1:
            size = 10 ** uniform(count, -3, 2)
            weight.mul_(size.reshape(-1, *[1] * (weight.dim() - 1)))
        else:
            weight.masked_fill_(torch.rand(weight.shape, generator=generator) < ZEROS, 0)
        if module.bias is not None:
            module.bias.masked_fill_(uniform(len(module.bias), 0, 1) < ZEROS, 0)


ZEROS = 0.05  # share of what is exactly 0

# Layers whose weight is a scale.
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def _random_images(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 3, size, size) in [-1, 1]: half of them noise, half squares of many sizes.

    Noise alone will not do: to the deeper layers all noise is alike, and statistics taken from it
    are too narrow for anything else. Nor will patterns alone: noise is then out of all bounds.
    """
    images = torch.rand(count, 3, size, size, generator=generator) - 0.5
    for image in images[: count // 2]:
        image.zero_()
        for squares in (3, 7, 14, 28, 56, 112):
            pattern = torch.rand(1, 3, squares, squares, generator=generator) - 0.5
            strength = torch.rand(1, generator=generator)
            image += 0.35 * strength * nn.functional.interpolate(pattern, (size, size))[0]
    return images


def load_pth(path: Path) -> dict[str, torch.Tensor]:
    """A PyTorch state_dict: {name: tensor}, on the CPU, the file mapped rather than read.

    A checkpoint that wraps it (`model`, `state_dict`) is unwrapped, and the prefix that
    DataParallel (`module.`) or torch.compile (`_orig_mod.`) puts before each name is taken off.

    Raises:
        CannotRun: the file is missing, damaged, hostile, or holds no state_dict.
    """
    state = load_torch_file(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise CannotRun(f"{shown(path)} holds no state_dict but a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CannotRun(
                f"{shown(path)} holds no state_dict: entry {name!r:.80} is a {type(value).__name__}"
            )
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def load_paddle(model: paddle.nn.Layer, path: Path, pairing: Pairing | None = None) -> None:
    """Loads the state_dict file `path` into the paddle.nn.Layer `model`; all of it or nothing.

    `set_state_dict` alone skips what is missing and what has another shape, with a warning.

    Args:
        pairing: a Pairing; of what has no counterpart, the file may lack entries: they stay as they
            were initialised.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype.
    """
    state = load_pdparams(path)
    wanted = model.state_dict()
    if pairing is not None:
        may_lack = [name for name in wanted if name not in pairing.table and name not in state]
        wanted = {name: tensor for name, tensor in wanted.items() if name not in may_lack}
    require_same(path, state, wanted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skip loading")  # what has no counterpart
        model.set_state_dict(state)


def load_torch(model: torch.nn.Module, path: Path) -> None:
    """Loads the state_dict file `path` into the torch.nn.Module `model`. Raises: `load_paddle`."""
    state = load_pth(path)
    require_same(path, state, model.state_dict())
    model.load_state_dict(state)


def load_state(model: torch.nn.Module, path: Path) -> None:
    """Loads a .pth or .safetensors file into any torch.nn.Module. Raises: `load_paddle`."""
    if str(path).endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        require_file(path)
        try:
            state = load_file(path)
        except (SafetensorError, ValueError) as error:
            raise CannotRun(f"{shown(path)} is no safetensors file: {reason_of(error)}") from error
    else:
        state = load_pth(path)
    known = model.state_dict()
    lost = [name for name in known if name not in state and not name.endswith(COUNTER)]
    extra = [name for name in state if name not in known]
    other = [n for n in known if n in state and known[n].shape != state[n].shape]
    for names, what in (
        (lost, "lacks"),
        (extra, "has beside the model's"),
        (other, "has of another shape"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CannotRun(
                f"{shown(path)} {what} {names[0]}{more}: it is not of this reference. Give its own "
                "weights, or the arguments of the model that they are of"
            )
    model.load_state_dict(state, strict=False)


COUNTER = "num_batches_tracked"


def require_same(path: Path, state: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises CannotRun unless two state_dicts have the same entries; `path` is the first's file."""
    for name in [*wanted, *state]:
        have, want = (
            f"{str(x[name].dtype).rpartition('.')[2]} {list(x[name].shape)}"
            if name in x
            else "none"
            for x in (state, wanted)
        )
        if have != want:
            raise CannotRun(
                f"{shown(path)} does not fit the model: {name} is {have} in the file, {want} in "
                "the model. Give the --model that it is of, or delete it to have it made again"
            )
