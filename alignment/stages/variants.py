"""Other arguments, other sizes of images, and weights as training leaves them, at the extremes.

A port that agrees as it is built by default may be wrong with another number of classes, on an
image of odd size, or where a variance is 1e-6.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import paddle
import torch

from ..checks.base import told
from ..convert import pair_weights
from ..findings import Compared, Finding
from ..layers import incomparable, relative
from ..locate import compare_settings, locate_forward
from ..precision import to_float64
from ..state import put
from ..threads import one_torch_thread
from ..thresholds import EXTREME_FLOAT64
from ..weights import make_extreme
from .initialisation import FEW_SEEDS, compare_initialisation

if TYPE_CHECKING:
    from ..pairing import Pairing, Table


__all__ = ["Variant", "build_variant", "compare_variants", "untried_arguments"]

NAME = "another variant of the model"


@dataclass
class Variant:
    """One way to build a model.

    Attributes:
        model: its name in MODELS of both sides.
        arguments: keyword arguments of the function that builds it.
        image: shape of the input, (N, 3, H, W).
        initialised: whether its fresh initialisation is compared too.
    """

    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    image: tuple[int, ...] = (2, 3, 64, 64)
    initialised: bool = False

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.model}({arguments})"


@one_torch_thread()
def compare_variants(
    port: Any,
    reference: Any,
    variants: Sequence[Variant],
    rules: Callable[[paddle.nn.Layer], Table],
    path: Path,
    layer_map: Mapping[str, str] | None = None,
    shapes: Sequence[Variant] = (),
) -> Compared:
    """Builds both sides of each variant, and compares settings and logits, up to the first red.

    The weights are `make_extreme`'s, in float64, in eval mode.

    Args:
        port, reference: modules with `MODELS`, {name: function that builds the network}.
        variants: [Variant].
        rules: function that gives {Paddle name: (PyTorch name, rule)} of the port's model.
        path: of the log: all layers of the variant that differs, or its initialisation.
        layer_map: {layer of the port: layer of the reference}.
        shapes: [Variant] too large to be run: their settings and the shapes of their weights.

    Returns:
        Compared
    """
    largest = 0.0
    for seed, variant in enumerate(variants):
        make_port, make_reference = (side.MODELS[variant.model] for side in (port, reference))
        try:
            findings, difference = _compare_one(
                variant, make_port, make_reference, seed, path, layer_map
            )
        except Broken as broken:
            findings, difference = [_differs(variant, f"the port breaks off: {broken}")], 0.0
        if findings:
            findings[0].title = findings[0].title or "First variant that differs"
            return Compared(NAME, "", findings, path)
        largest = max(largest, difference)
        if variant.initialised:
            make_port = partial(make_port, **variant.arguments)
            make_reference = partial(make_reference, **variant.arguments)
            compared = compare_initialisation(make_port, make_reference, rules, path, FEW_SEEDS)
            if not compared.agrees:
                for finding in compared.findings:
                    finding.where = f"{variant}: {finding.where}"
                return compared
    for variant in shapes:
        findings = _compare_shapes(variant, port, reference, layer_map)
        if findings:
            findings[0].title = "First variant that differs"
            return Compared(NAME, "", findings, path)
    summary = (
        f"{len(variants)} variants of {len({v.model for v in variants})} models agree (float64, "
        f"weights of both signs over {DECADES} orders of magnitude, largest difference "
        f"{largest:.0e}); {len(shapes)} more have weights of the same shapes"
    )
    return Compared(NAME, summary)


DECADES = 5
USUAL = 4, 3, 48, 48  # images from which the statistics are taken


class Broken(Exception):
    """The port cannot be built, or cannot be run; says why."""


def _compare_shapes(
    variant: Variant, port: Any, reference: Any, layer_map: Mapping[str, str] | None
) -> list[Finding]:
    """[Finding] of two models whose weights take no memory and hold no numbers."""
    normal = mock.patch.object(torch.Tensor, "normal_", lambda tensor, *_, **__: tensor)
    with torch.device("meta"), normal:
        theirs = reference.MODELS[variant.model](**variant.arguments)
    try:
        with paddle.LazyGuard():
            mine = _run_port(port.MODELS[variant.model], **variant.arguments)
    except Broken as broken:
        return [_differs(variant, f"the port breaks off: {broken}")]
    state = {name: torch.zeros(()).expand(x.shape) for name, x in theirs.state_dict().items()}
    return _different_structure(variant, mine, theirs, pair_weights(mine, state, layer_map))


def _different_structure(
    variant: Variant, model: paddle.nn.Layer, reference: torch.nn.Module, pairing: Pairing
) -> list[Finding]:
    """[Finding] of weights that do not fit, or of settings that differ."""
    found: Any = pairing.findings()
    if pairing.fits:
        found = compare_settings(model, reference, pairing.layers)
    return [_differs(variant, finding.text()) for finding in found]


def _compare_one(
    variant: Variant,
    make_port: Callable[..., paddle.nn.Layer],
    make_reference: Callable[..., torch.nn.Module],
    seed: int,
    path: Path,
    layer_map: Mapping[str, str] | None,
) -> tuple[list[Finding], float]:
    """([Finding], largest difference of the logits)"""
    reference = make_reference(**variant.arguments)
    model = _run_port(make_port, **variant.arguments)
    pairing = pair_weights(model, reference.state_dict(), layer_map)
    different = _different_structure(variant, model, reference, pairing)
    if different:
        return different, 0.0
    _put_extreme(model, reference, pairing.table, seed)
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(variant.image, generator=generator, dtype=torch.float64) - 0.5

    def run_reference(module: torch.nn.Module) -> np.ndarray:
        with torch.no_grad():
            return module(images).numpy()

    def run_port(layer: paddle.nn.Layer) -> np.ndarray:
        with paddle.no_grad():
            return _run_port(layer, paddle.to_tensor(images.numpy())).numpy()

    mine, theirs = run_port(model), run_reference(reference)
    how = incomparable(mine, theirs)
    difference = np.inf if how else relative(mine, theirs)
    if difference <= EXTREME_FLOAT64:
        return [], difference
    text = f"logits {how or f'differ by {difference:.1e} (relative)'}"
    found = _differs(variant, f"{text}, input {'x'.join(map(str, variant.image))}")
    located = locate_forward(model, reference, run_port, run_reference, path, layer_map)
    return [found, *located.findings], difference


def build_variant(
    variant: Variant,
    port: Any,
    reference: Any,
    layer_map: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[Any]:
    """(the port's model, the reference's) of a Variant, of equal, extreme weights, in float64."""
    models = [side.MODELS[variant.model](**variant.arguments) for side in (port, reference)]
    _put_extreme(  # type: ignore[call-arg]  # models: two
        *models, pair_weights(models[0], models[1].state_dict(), layer_map).table, seed
    )
    return models


def _put_extreme(
    model: paddle.nn.Layer, reference: torch.nn.Module, table: Table, seed: int
) -> None:
    # One image of one pixel, as a variant may have it, has no statistics.
    images = torch.rand(USUAL, generator=torch.Generator().manual_seed(seed)) - 0.5
    make_extreme(reference, seed, run=lambda module: module(images))
    put(model, reference, table)
    to_float64(model, reference)


def _run_port(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except Exception as error:
        raise Broken(told(error)) from error


def _differs(variant: Variant, text: str) -> Finding:
    hint = f"the port when it is built as {variant}"
    return Finding("variants", str(variant), text, hint=hint)


def untried_arguments(reference: torch.nn.Module, variants: Iterable[Variant]) -> list[str]:
    """Names of what the reference's class takes when it is built, and no variant sets.

    Args:
        reference: torch.nn.Module.
    """
    tried = {name for variant in variants for name in variant.arguments}
    parameters = inspect.signature(type(reference).__init__).parameters.values()
    return [
        each.name
        for each in parameters
        if each.default is not inspect.Parameter.empty and each.name not in tried
    ]
