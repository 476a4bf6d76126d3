"""Is this port the same as that reference? For any pair of models: `check`, `assert_aligned`."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import paddle
import torch

from .checks.base import PortBroken, counted, does_not_take, told
from .checks.forward import Forward
from .checks.initialisation import Initialisation
from .checks.structure import Structure, require_layers
from .checks.training import OPTIMIZERS, Training
from .convert import Rule, pair_weights
from .files import CannotRun
from .findings import Check, Report
from .inputs import Inputs
from .known import ACCEPTED
from .pairing import layer_of, without_remarks

__all__ = ["CHECKS", "OPTIMIZERS", "assert_aligned", "check", "propose_map"]

CHECKS = ("forward", "backward", "training", "initialisation")
# Most ports start from weights that somebody has trained, and leave Paddle's initialisation.
DEFAULT_CHECKS = CHECKS[:3]


Port: TypeAlias = paddle.nn.Layer | Callable[[], paddle.nn.Layer]
Reference: TypeAlias = torch.nn.Module | Callable[[], torch.nn.Module]
Array: TypeAlias = str | np.ndarray  # "4x3x64x64", or values
Loss: TypeAlias = Callable[..., Any]


def assert_aligned(port: Port, reference: Reference, inputs: Any, **options: Any) -> Report:
    """`check` for a test: raises AssertionError with the report unless the pair is aligned.

    Args: as for `check`.

    Returns:
        Report.
    """
    report = check(port, reference, inputs, **options)
    if not report.aligned:
        raise AssertionError(report.text())
    return report


def check(
    port: Port,
    reference: Reference,
    inputs: Array | Sequence[Array] | Mapping[str, Array],
    *,
    loss: Loss | tuple[Loss, Loss] | None = None,
    targets: Array | Sequence[Array] = (),
    map: Mapping[str, str] | None = None,
    rules: Sequence[Rule] = (),
    checks: str | Sequence[str] = DEFAULT_CHECKS,
    sizes: int = 2,
    steps: int = 3,
    optimizer: str = "sgd",
    bound: float | None = None,
    accept: str | Sequence[str] = (),
    torch_weights: str | Path | None = None,
    paddle_weights: str | Path | None = None,
    own_weights: bool = False,
    seed: int = 0,
    log_dir: str | Path | None = None,
    stop: bool = False,
    details: bool = False,
) -> Report:
    """Compares a port in PaddlePaddle with its reference in PyTorch.

    Both get the same weights and inputs and run in float64, where a mistake and rounding are
    fourteen digits apart. Models that are given as they are, are copied; those of a class or
    function are made anew.

    Args:
        port: a paddle.nn.Layer, or a class or function () -> paddle.nn.Layer.
        reference: a torch.nn.Module, or a class or function () -> torch.nn.Module.
        inputs: an array or a text, as "4x3x64x64" or "int64[4,16]<1000" (inputs.parse); a list or
            tuple of these for positional arguments, a dictionary for keyword arguments.
        loss: function (output, *targets) -> a tensor of one value, that works in both frameworks;
            or a pair of them, the port's first. None: all floats of the output times fixed random
            numbers, summed.
        targets: as `inputs`, a list: what the loss takes beside the output.
        map: {layer of the port: layer of the reference}, where names differ; holds for all that
            lies in the layer. Names that begin with // are remarks. Names that differ are paired by
            order, kind and shape else.
        rules: [Rule] on parameters and layout.
        checks: which of CHECKS; "initialisation" only where it is asked for.
        sizes: how many sizes of image are compared, where an input is a batch of images.
        steps: of training, each from one state.
        optimizer: of OPTIMIZERS, for the training.
        bound: the largest difference in float64 that passes, relative to the largest value;
            None: as measured, see thresholds.py.
        accept: names of known.ACCEPTED.
        torch_weights: state_dict file (.pth, .safetensors) for the reference, and, converted, for
            the port.
        paddle_weights: state_dict file (.pdparams) for the port, which is compared as it is.
        own_weights: compare with the reference's own weights; else with random ones that matter
            (weights.make_alive), unless a file is given.
        seed: of weights and inputs.
        log_dir: folder for a log of all layers; None writes none.
        stop: after the first check that differs.
        details: also keep what a page shows, in the report's `data`: all layers and weights.

    Returns:
        Report.

    Raises:
        CannotRun: an argument is none of these, or the reference cannot be run with the inputs.
    """
    checks, accept = (_one_or_more(names) for names in (checks, accept))
    for what, names, known in (
        ("checks", checks, CHECKS),
        ("optimizer", [optimizer], OPTIMIZERS),
        ("accept", accept, ACCEPTED),
    ):
        for name in names:
            if name not in known:
                raise CannotRun(f"{what}: {name!r:.40} is not one of {', '.join(known)}")
    if not checks:
        raise CannotRun(f"checks: there is none. Give some of {', '.join(CHECKS)}")
    _require_rules(rules)
    losses = tuple(loss) if isinstance(loss, (tuple, list)) else (loss, loss)
    for each in losses:
        if each is not None and not callable(each):
            raise CannotRun(f"loss: wanted a function (output, *targets), not {each!r:.80}")
    if len(losses) != 2 or (losses[0] is None) != (losses[1] is None):
        raise CannotRun("loss: wanted one function, or two: the port's, then the reference's")
    wanted = Inputs.of(_one_or_more(targets), "target") if len(targets) else Inputs((), {})
    if wanted.named:
        raise CannotRun(
            f"target {next(iter(wanted.named))}: a target has no name. The loss gets them in their "
            "order"
        )
    if wanted.positional and losses[0] is None:
        raise CannotRun("a target is given, but no loss that takes it (--loss)")
    if own_weights and torch_weights is not None:
        raise CannotRun("weights: give --torch-weights or --own-weights, not both")
    if paddle_weights is not None and torch_weights is None and not own_weights:
        raise CannotRun(
            "--paddle-weights alone: the reference would have random weights. Give its own too, by "
            "--torch-weights FILE or --own-weights"
        )
    if map is not None and not isinstance(map, dict):
        raise CannotRun(
            f"map: wanted {{layer of the port: layer of the reference}}, not {map!r:.80}"
        )
    pair = Pair(
        _Side(port, paddle.nn.Layer, "port"),
        _Side(reference, torch.nn.Module, "reference"),
        Inputs.of(inputs),
        wanted.positional,
        losses,
        layer_map=without_remarks(map or {}),
        rules=[rule for rule in rules if rule.kind != "layout"],
        channels_last=any(rule.kind == "layout" for rule in rules),
        bound=bound,
        accept=tuple(accept),
        weights=(torch_weights, paddle_weights, own_weights),
        seed=seed,
        log_dir=log_dir,
        details=details,
    )
    return _Comparison(pair, checks, sizes, steps, optimizer, stop).run()


def _one_or_more(given: Any) -> list[Any]:
    """A text or an array is one, not many characters or rows."""
    return [given] if isinstance(given, (str, np.ndarray)) else list(given)


def _require_rules(rules: Sequence[Rule]) -> None:
    is_list = isinstance(rules, (list, tuple))
    wrong = next((rule for rule in rules if not isinstance(rule, Rule)), None) if is_list else rules
    if wrong is not None:
        raise CannotRun(f"rules: wanted a list of alignment.Rule, not {wrong!r:.80}")


@dataclass
class Proposal:
    """A map of layers.

    Attributes:
        layers: {layer of the port: layer of the reference}, where names differ.
        doubts: {layer or parameter: why}.
        summary: in one line.
    """

    layers: dict
    doubts: dict
    summary: str


def propose_map(
    port: Port,
    reference: Reference,
    map: Mapping[str, str] | None = None,
    rules: Sequence[Rule] = (),
    inputs: Any = None,
    seed: int = 0,
) -> Proposal:
    """Which layer of a port is which of the reference, by names, order, kind and shape.

    With inputs, both models are run with the same weights: what agrees is proven.

    Args: as for `check`.

    Returns:
        Proposal.
    """
    sides = _Side(port, paddle.nn.Layer, "port"), _Side(reference, torch.nn.Module, "reference")
    _require_rules(rules)
    model, other = (side.make() for side in sides)
    if _is_lazy(other):
        if not inputs:
            raise CannotRun("the reference has lazy layers: give --input, which tells their sizes")
        _settle(other, Inputs.of(inputs).make(np.random.default_rng(seed)))
    require_layers(map or {}, model, other)
    plain = [rule for rule in rules if rule.kind != "layout"]
    pairing = pair_weights(model, other.state_dict(), map or {}, plain)
    doubts = {}
    for name, mine, theirs in pairing.misfits:
        side = "port" if theirs is None else "reference"
        doubts[name] = f"only the {side} has it"
        if mine is not None and theirs is not None:
            doubts[name] = f"shape {list(mine)} | {list(theirs)}"
    alike = {}
    state = model.state_dict()
    for name in pairing.table:
        alike.setdefault(layer_of(name), []).append(tuple(state[name].shape))
    renamed = {
        layer
        for layer in alike
        if any(layer == name or layer.startswith(f"{name}.") for name in pairing.renamed)
    }
    for layer in renamed:
        twins = [x for x in renamed if x != layer and sorted(alike[x]) == sorted(alike[layer])]
        if twins and pairing.misfits:
            doubts[layer] = f"has the shapes of {twins[0]} too, and not all fits"
    layers_ = {**(map or {}), **pairing.renamed}
    paired = counted(len(pairing.table), "parameter")
    summary = f"{paired} paired, {counted(len(layers_), 'name')} of layers differ"
    if inputs:
        report = check(
            port,
            reference,
            inputs,
            map=layers_,
            rules=rules,
            checks=("forward",),
            seed=seed,
            sizes=1,
        )
        if report.aligned:
            doubts = {}
            summary += "; run with the same weights, both give the same: the map is right"
        else:
            first = report.differences[0]
            doubts.setdefault(
                first.where or "the model", f"run with it, it differs: {first.text()}"
            )
    elif renamed:
        summary += "; with --input both are run, which proves it"
    return Proposal(layers_, doubts, summary)


class _Side:
    """A model, or how to make it."""

    def __init__(self, given: Any, kind: type, name: str) -> None:
        self.given, self.kind, self.name = given, kind, name
        self.is_model = isinstance(given, kind)
        if not self.is_model and not callable(given):
            raise CannotRun(
                f"the {name} is of type {type(given).__name__}: wanted a {_framework(kind)} "
                "model, or a class or function that makes one"
            )

    def make(self) -> Any:
        try:
            model = copy.deepcopy(self.given) if self.is_model else self.given()
        except (Exception, SystemExit) as error:
            if isinstance(error, CannotRun):
                raise
            how = "copied" if self.is_model else "made"
            hint = ". Give its class, or a function that makes it" if self.is_model else ""
            if isinstance(error, TypeError) and " argument" in str(error):
                flag = "--paddle-arg" if self.kind is paddle.nn.Layer else "--torch-arg"
                hint = f". Arguments are given with {flag} NAME=VALUE"
            raise CannotRun(f"the {self.name} cannot be {how}: {told(error)}{hint}") from error
        if isinstance(model, self.kind):
            return model
        what = f"a class, {model.__name__}" if isinstance(model, type) else repr(model)
        hint = ""
        if isinstance(model, (paddle.nn.Layer, torch.nn.Module)):
            what = f"a model of {_framework(type(model))}, {type(model).__name__}"
            hint = ". Are port and reference mixed up?"
        raise CannotRun(
            f"the {self.name} is {what:.120}: wanted a model of {_framework(self.kind)}{hint}"
        )


def _framework(kind: type) -> str:
    return "Paddle" if issubclass(kind, paddle.nn.Layer) else "PyTorch"


def _is_lazy(reference: torch.nn.Module) -> bool:
    """Whether layers of it get their sizes from the first input: torch.nn.LazyLinear."""
    return any(
        isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin)
        for tensor in [*reference.parameters(), *reference.buffers()]
    )


def _padding_ids(reference: torch.nn.Module) -> dict[str, int]:
    """{embedding of the reference: its padding_idx}"""
    modules = reference.named_modules()
    embeddings = ((n, m) for n, m in modules if isinstance(m, torch.nn.Embedding))
    return {name: m.padding_idx for name, m in embeddings if m.padding_idx is not None}


def _paddings_not_in(inputs: Inputs, ids: Mapping[str, int]) -> list[str]:
    """A line for each embedding whose padding no input holds."""
    integers = [leaf for leaf in inputs.leaves() if leaf.dtype.kind in "iu"]
    return [
        f"padding: no input holds {number}, the padding_idx of {name}. Give inputs that hold it"
        for name, number in ids.items()
        if integers and not any((leaf == number).any() for leaf in integers)
    ]


def _settle(reference: torch.nn.Module, inputs: Inputs) -> None:
    """Runs a reference with lazy layers once."""
    given = inputs.map(lambda array: torch.from_numpy(np.array(array)))
    was_training = reference.training
    try:
        with torch.no_grad():
            reference.eval()(*given.positional, **given.named)
    except (Exception, SystemExit) as error:
        raise CannotRun(does_not_take(told(error))) from error
    reference.train(was_training)


@dataclass
class Pair:
    """What is compared; see `check`."""

    port: _Side
    reference: _Side
    inputs: Inputs
    targets: tuple
    loss: tuple
    layer_map: dict = field(default_factory=dict)
    rules: list = field(default_factory=list)
    channels_last: bool = False
    bound: float | None = None
    accept: tuple = ()
    weights: tuple = (None, None, False)
    seed: int = 0
    log_dir: str | Path | None = None
    details: bool = False


class _Comparison(Structure, Forward, Training, Initialisation):
    """Runs the checks, in order."""

    def run(self) -> Report:
        report = self.report
        with _quiet():
            rng = np.random.default_rng(self.pair.seed)
            self.reference = self.pair.reference.make()
            ids = _padding_ids(self.reference)
            if ids:
                self.pair.inputs = self.pair.inputs.padded_with(list(ids.values()))
            elif any(getattr(leaf, "is_ids", False) for leaf in self.pair.inputs.leaves()):
                report.not_compared.append(
                    "padding other than 0 and 1: no embedding of the reference has a padding_idx. "
                    "If the model masks another id, give inputs that hold it"
                )
            self.inputs = self.pair.inputs.make(rng)
            self._settled(self.reference)
            self.port = self.pair.port.make()
            report.not_compared += _paddings_not_in(self.inputs, ids)
            self.targets = Inputs(self.pair.targets, {}).make(rng).positional
            report.not_compared += [f"{name}: not asked for" for name in self._left_out()]
            try:
                self._check("structure", self._structure)
                for name in CHECKS:
                    differs = any(not check.aligned for check in report.checks)
                    if name in self.checks and self.stop and differs:
                        report.not_compared.append(f"{name}: stopped before it")
                    elif name in self.checks:
                        self._check(name, getattr(self, f"_{name}"))
            except PortBroken as broken:
                finding = broken.args[0]
                report.differences.append(finding)
                report.checks.append(Check(finding.check, False, finding.text()))
        if report.aligned and self.settings:
            report.not_compared += [
                f"a setting that differs (port | reference), with no effect on these inputs: {line}"
                for line in self.settings
            ]
        report.not_compared = list(dict.fromkeys(report.not_compared))
        report.known = list(dict.fromkeys(report.known))
        return report

    def _make_reference(self) -> torch.nn.Module:
        return self._settled(self.pair.reference.make())

    def _settled(self, reference: torch.nn.Module) -> torch.nn.Module:
        """The reference, once its lazy layers know their sizes."""
        if _is_lazy(reference):
            _settle(reference, self.inputs)
        return reference

    def _left_out(self) -> list[str]:
        return [name for name in CHECKS if name not in self.checks]

    def _check(self, name: str, function: Callable[[], str | None]) -> None:
        start = time.perf_counter()
        before = len(self.report.differences)
        summary = function()
        agrees = len(self.report.differences) == before
        if summary is not None:
            seconds = time.perf_counter() - start
            self.report.checks.append(Check(name, agrees, summary, seconds))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Paddle says at each training step that batch norm keeps running statistics."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="When training, we now always track")
        yield
