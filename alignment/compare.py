"""Is this port the same as that reference? For any pair of models: `check`, `assert_aligned`."""

import contextlib
import copy
import difflib
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
import torch

from . import layers
from .convert import Rule, pair_weights
from .dropout import SharedDropout, without_inner_dropout
from .files import CannotRun, load_pdparams, place_of, reason_of, shown
from .findings import Check, Finding, Report
from .inputs import Inputs
from .known import ACCEPTED, CURES, AsPaddle
from .paddle_internals import RECURRENT
from .pairing import counterpart, layer_of
from .precision import default_float64, to_float64
from .stages.initialisation import FEW_SEEDS, SEEDS, compare_tensors
from .structure import SHALLOW, flatten, is_tensor, to_array
from .thresholds import (
    AMPLIFICATION,
    FORWARD_FLOAT64,
    GRADIENT_FLOAT64,
    IMPRECISE,
    TRAIN_FLOAT64,
)
from .training import steps
from .weights import load_state, make_alive

__all__ = ["CHECKS", "OPTIMIZERS", "assert_aligned", "check"]

CHECKS = ("forward", "backward", "training", "initialisation")
# Most ports start from weights that somebody has trained, and leave Paddle's initialisation.
DEFAULT_CHECKS = CHECKS[:3]
FLOAT64_OVER_FLOAT32 = np.finfo(np.float64).eps / np.finfo(np.float32).eps
SMALL = 1e-5  # of this size are differences by a constant that one side rounds
SETTINGS_SHOWN = 8
FLOAT32_BOUND = 1e-4  # where float64 cannot be had
SAMPLES = 1e-3  # float32's error in a model that does not sample: 1e-6, with extreme weights 1e-4
SAME_AGAIN = 1e-9  # a sum in another order gives 1e-16, times what a network amplifies
LEARNING_RATE = 1e-3
ENOUGH_VALUES = 10_000_000  # of initialised parameters, over all seeds
OPTIMIZERS = {
    "sgd": (
        lambda p: paddle.optimizer.SGD(LEARNING_RATE, parameters=p),
        lambda p: torch.optim.SGD(p, LEARNING_RATE),
    ),
    "momentum": (
        lambda p: paddle.optimizer.Momentum(LEARNING_RATE, 0.9, parameters=p),
        lambda p: torch.optim.SGD(p, LEARNING_RATE, momentum=0.9),
    ),
    "adam": (
        lambda p: paddle.optimizer.Adam(LEARNING_RATE, parameters=p),
        lambda p: torch.optim.Adam(p, LEARNING_RATE),
    ),
    "adamw": (
        lambda p: paddle.optimizer.AdamW(LEARNING_RATE, parameters=p, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, LEARNING_RATE, weight_decay=0.01),
    ),
}


def assert_aligned(port, reference, inputs, **options):
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
    port,
    reference,
    inputs,
    *,
    loss=None,
    targets=(),
    map=None,
    rules=(),
    checks=DEFAULT_CHECKS,
    sizes=2,
    steps=3,
    optimizer="sgd",
    bound=None,
    accept=(),
    torch_weights=None,
    paddle_weights=None,
    own_weights=False,
    seed=0,
    log_dir=None,
    stop=False,
):
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
            lies in the layer. Names that differ are paired by order, kind and shape else.
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
        layer_map=dict(map or {}),
        rules=[rule for rule in rules if rule.kind != "layout"],
        channels_last=any(rule.kind == "layout" for rule in rules),
        bound=bound,
        accept=tuple(accept),
        weights=(torch_weights, paddle_weights, own_weights),
        seed=seed,
        log_dir=log_dir,
    )
    return _Comparison(pair, checks, sizes, steps, optimizer, stop).run()


def _one_or_more(given):
    """A text or an array is one, not many characters or rows."""
    return [given] if isinstance(given, (str, np.ndarray)) else list(given)


def _require_rules(rules):
    is_list = isinstance(rules, (list, tuple))
    wrong = next((rule for rule in rules if not isinstance(rule, Rule)), None) if is_list else rules
    if wrong is not None:
        raise CannotRun(f"rules: wanted a list of alignment.Rule, not {wrong!r:.80}")


def _require_layers(layer_map, port, reference):
    """Raises CannotRun unless the layers that a map names are there."""
    known = {
        "port": {name for name, _ in port.named_sublayers()},
        "reference": {name for name, _ in reference.named_modules()},
    }
    for mine, theirs in layer_map.items():
        for name, side in ((mine, "port"), (theirs, "reference")):
            if name not in known[side]:
                near = difflib.get_close_matches(name, known[side], n=1)
                hint = f". Is {near[0]} meant?" if near else ""
                raise CannotRun(
                    f"the map names {name!r:.80}, and the {side} has no such layer{hint}"
                )


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


def propose_map(port, reference, map=None, rules=(), inputs=None, seed=0):
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
    _require_layers(map or {}, model, other)
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
    paired = _counted(len(pairing.table), "parameter")
    summary = f"{paired} paired, {_counted(len(layers_), 'name')} of layers differ"
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

    def __init__(self, given, kind, name):
        self.given, self.kind, self.name = given, kind, name
        self.is_model = isinstance(given, kind)
        if not self.is_model and not callable(given):
            raise CannotRun(
                f"the {name} is of type {type(given).__name__}: wanted a {_framework(kind)} "
                "model, or a class or function that makes one"
            )

    def make(self):
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
            raise CannotRun(f"the {self.name} cannot be {how}: {_told(error)}{hint}") from error
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


def _framework(kind):
    return "Paddle" if issubclass(kind, paddle.nn.Layer) else "PyTorch"


def _told(error):
    """An exception of the user's code in one line, with where it was raised."""
    return f"{type(error).__name__}: {reason_of(error)}{place_of(error)}"


def _is_lazy(reference):
    """Whether layers of it get their sizes from the first input: torch.nn.LazyLinear."""
    return any(
        isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin)
        for tensor in [*reference.parameters(), *reference.buffers()]
    )


def _settle(reference, inputs):
    """Runs a reference with lazy layers once."""
    given = inputs.map(lambda array: torch.from_numpy(np.array(array)))
    was_training = reference.training
    try:
        with torch.no_grad():
            reference.eval()(*given.positional, **given.named)
    except (Exception, SystemExit) as error:
        raise CannotRun(_does_not_take(_told(error))) from error
    reference.train(was_training)


def _does_not_take(why):
    return (
        f"the reference cannot be run with these inputs: {why}. Give the shapes, dtypes, ranges "
        "and names that it takes (--input)"
    )


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
    log_dir: Path | None = None


class PortBroken(Exception):
    """The port cannot be run; holds a Finding."""


class _Comparison:
    def __init__(self, pair, checks, sizes, count, optimizer, stop):
        self.pair, self.checks, self.sizes, self.count = pair, checks, sizes, count
        self.optimizer, self.stop = optimizer, stop
        self.report = Report()
        self.float64 = True
        self.amplified = 0.0
        self.cures = set()  # of known.CURES, for functions that the reference calls
        self.settings = []
        self.changed = {"port": set(), "reference": set()}

    # What is run, in order.

    def run(self):
        report = self.report
        with _quiet():
            rng = np.random.default_rng(self.pair.seed)
            self.inputs = self.pair.inputs.make(rng)
            self.port, self.reference = self.pair.port.make(), self._make_reference()
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
        report.not_compared = list(dict.fromkeys(report.not_compared))
        report.known = list(dict.fromkeys(report.known))
        return report

    def _make_reference(self):
        reference = self.pair.reference.make()
        if _is_lazy(reference):
            _settle(reference, self.inputs)
        return reference

    def _left_out(self):
        return [name for name in CHECKS if name not in self.checks]

    def _check(self, name, function):
        start = time.perf_counter()
        before = len(self.report.differences)
        summary = function()
        agrees = len(self.report.differences) == before
        if summary is not None:
            seconds = time.perf_counter() - start
            self.report.checks.append(Check(name, agrees, summary, seconds))

    # Models and how they are run.

    def _tensors(self, side, inputs):
        dtype = "float64" if self.float64_now else None

        def tensor(array):
            if array.dtype.kind == "f" and dtype:
                array = array.astype(dtype)
            if side == "port":
                return paddle.to_tensor(np.asarray(array, order="C"))
            return torch.from_numpy(np.array(array))

        return inputs.map(tensor)

    def _call(self, side, model, inputs=None):
        """The output of a model, on fresh tensors of its inputs."""
        given = self._tensors(side, inputs or self.inputs)
        try:
            output = model(*given.positional, **given.named)
        except (Exception, SystemExit) as error:
            if side == "port":
                raise PortBroken(self._broken(error)) from error
            raise ReferenceBroken(_told(error)) from error
        self._note_changed_inputs(side, given, inputs or self.inputs)
        return output

    def _note_changed_inputs(self, side, given, inputs):
        """Remembers which inputs a model has changed in place."""
        before = _named_arrays(inputs)
        for name, tensor in _named_tensors(given).items():
            after = to_array(tensor)
            same = after.shape == before[name].shape and np.array_equal(
                after, before[name].astype(after.dtype), equal_nan=after.dtype.kind == "f"
            )
            if not same:
                self.changed[side].add(name)

    def _broken(self, error):
        return Finding(
            "forward",
            "",
            f"the port breaks off: {_told(error)}",
            hint="The reference runs with the same inputs, so the port has to",
        )

    @contextlib.contextmanager
    def _as_paddle(self, dropout=None):
        functions = AsPaddle(self.pair.accept, dropout)
        with functions.running():
            yield
        self.report.known += list(functions.lines)
        self.cures |= functions.cures

    # Structure: what is which, and the same weights.

    def _structure(self):
        torch_file, paddle_file, own = self.pair.weights
        before = len(self.report.differences)
        _require_layers(self.pair.layer_map, self.port, self.reference)
        if torch_file is not None:
            load_state(self.reference, torch_file)
        pairing = pair_weights(
            self.port, self.reference.state_dict(), self.pair.layer_map, self.pair.rules
        )
        self.pairing, self.table = pairing, pairing.table
        self.layer_map = dict(pairing.layers)
        for name, (source, rule) in self.table.items():
            if isinstance(source, str) and isinstance(rule, str):
                self.layer_map.setdefault(layer_of(name), layer_of(source))
        for name, why in pairing.ignored.items():
            self.report.not_compared.append(f"{name}: {why}")
        self.float64_now = False
        if torch_file is None and not own:
            self._make_weights()
        if paddle_file is None:
            steps.put(self.port, self.reference, self.table)
        else:
            self._load_own(paddle_file)
        for name, mine, theirs in pairing.misfits:
            if mine is None or theirs is None:
                side, shape = ("reference", theirs) if mine is None else ("port", mine)
                self._differs("structure", name, f"only in the {side}, shape {list(shape)}")
            else:
                self._differs("structure", name, "shape", list(mine), list(theirs))
        for name, kind in pairing.unknown:
            text = f"named by Rule.{kind}, and the port has no such parameter"
            self._differs("structure", name, text)
        for line in pairing.tied:
            where, _, sides = line.partition(": ")
            self.report.differences.append(
                Finding("structure", where, "parameter", *sides.split(" | "))
            )
        renamed = pairing.renamed
        if renamed:
            shown_ = ", ".join(f"{a} is {b}" for a, b in list(renamed.items())[:3])
            more = ", …" if len(renamed) > 3 else ""
            self.report.notes.append(
                f"paired by order, kind and shape, as their names differ: {shown_}{more}"
            )
        self.parameters = sum(p.numel() for p in self.reference.parameters())
        if not self.table and len(self.report.differences) == before:
            self.report.not_compared.append("structure: neither side has a parameter")
            return None
        same = "1 entry paired" if len(self.table) == 1 else f"{len(self.table)} entries paired"
        if renamed:
            same += f", {len(renamed)} under other names"
        return f"{same}; the reference has {self.parameters:,} values in its parameters"

    def _make_weights(self):
        try:
            make_alive(
                self.reference,
                self.pair.seed,
                run=lambda model: self._call("reference", model),
            )
        except ReferenceBroken as error:
            raise CannotRun(_does_not_take(error)) from error

    def _load_own(self, path):
        """Loads the port's own weights, and compares them with the reference's."""
        state = load_pdparams(path)
        wanted = self.port.state_dict()
        expected = steps.torch_arrays_now(self.reference, self.table)
        extra = [name for name in state if name not in wanted]
        if extra:
            self.report.not_compared.append(
                f"{shown(path)}: entries that the port does not have: {_some(extra)}"
            )
        for name, target in wanted.items():
            if name not in state:
                if name in self.table:
                    self._differs("structure", name, f"the port's file {shown(path)} has none")
                continue
            array = np.asarray(state[name])
            if tuple(array.shape) != tuple(target.shape):
                sides = list(array.shape), list(target.shape)
                text = "shape {} in the port's file, {} in the port".format(*sides)
                self._differs("structure", name, text)
                continue
            target.set_value(array.astype(str(target.dtype).rpartition(".")[2]))
            if name in self.table:
                value = layers.relative(array.astype(np.float64), expected[name])
                if value > 1e-7:
                    self.report.differences.append(
                        Finding(
                            "structure", name, "value in the port's file", "", "", value, 1e-7,
                            hint="The port's file holds other numbers than the reference's: look "
                            "at the conversion of the weights",
                        )
                    )  # fmt: skip

    def _differs(self, check_, where, quantity, port="", reference="", **more):
        self.report.differences.append(
            Finding(check_, where, quantity, str(port), str(reference), **more)
        )

    # Forward.

    def _forward(self):
        port, reference = self.port.eval(), self.reference.eval()
        port.eval()
        try:
            with torch.no_grad():
                first = _leaves(self._call("reference", reference))
        except ReferenceBroken as error:
            raise CannotRun(_does_not_take(error)) from error
        self._require_values(first)
        broken = None
        try:
            with paddle.no_grad():
                mine = _leaves(self._call("port", port))
        except PortBroken as error:
            broken = error
        else:
            for name in sorted(self.changed["port"] - self.changed["reference"]):
                self._differs(
                    "forward", name, "changed in place by the port, and not by the reference",
                    hint="Look for operations that end in _ or for inplace=True: what the caller "
                    "holds is another tensor afterwards",
                )  # fmt: skip
            for path, a, b in layers.pair_leaves(mine.arrays, first.arrays):
                if a is not None and b is not None and a.dtype != b.dtype:
                    self._differs("forward", f"output{path}", "dtype", a.dtype, b.dtype)
        self.report.notes += to_float64(port, reference)
        self.float64_now = True
        shelves = layers.Shelf(), layers.Shelf()
        outputs, seen, seen_reference = {}, {}, {}

        def run(side):
            def forward(model):
                outputs[side] = self._call(side, model)

            return forward

        try:
            with default_float64(), torch.no_grad(), paddle.no_grad():
                with self._as_paddle():
                    layers.record(reference, run("reference"), shelves[0], seen_reference)
                layers.record(port, run("port"), shelves[1], seen)
        except (ReferenceBroken, PortBroken) as error:
            if broken is not None:
                self._where_broken(broken, seen, seen_reference)
            self._no_float64(error)
            return self._compare_float32(mine, first)
        if broken is not None:
            raise broken
        theirs64, mine64 = _leaves(outputs["reference"]), _leaves(outputs["port"])
        self._require_values(theirs64)
        pairs = [
            layers.relative(a, first.arrays.get(path))
            for path, a in theirs64.arrays.items()
            if first.arrays.get(path) is not None
        ]
        amplified = max((x for x in pairs if np.isfinite(x)), default=0.0) * FLOAT64_OVER_FLOAT32
        self.amplified = amplified
        # float32 and float64 of one model this far apart: as well it may sample random numbers.
        if amplified > SAMPLES * FLOAT64_OVER_FLOAT32 and self._differs_from_itself("reference"):
            raise CannotRun(
                "the reference gives another output each time it is run, in eval mode and with the "
                "same inputs. Take the random numbers out of it, or make them one of its inputs"
            )
        limit = self._bound(FORWARD_FLOAT64)
        worst = self._compare_outputs("forward", mine64, theirs64, limit)
        seen = self._comparable_layers(seen, seen_reference)
        rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
        if self.pair.log_dir is not None:
            layers.write(rows, Path(self.pair.log_dir) / "compare_layers.log")
        different = [
            f
            for f in self.report.differences
            if f.check == "forward" and f.where.startswith("output")
        ]
        self._note_settings()
        if different:
            self._locate(different, rows, seen, seen_reference, limit)
            if self._differs_from_itself("port"):
                where = self.report.differences.index(different[0])
                first_ = self.report.differences[max(0, where - 1)]
                first_ = first_ if first_.detail else different[0]
                first_.hint = (
                    "The port gives another output each time it is run, in eval mode and with the "
                    "same inputs: it samples random numbers"
                )
        else:
            self._imprecise(mine, first, mine64, theirs64)
        count = sum(bool(row.name) for row in rows)
        layers_ = _counted(count, "layer") if count else "no layer has a counterpart: outputs alone"
        summary = f"{_counted(len(theirs64.arrays), 'output')}, {layers_}, float64: largest "
        summary += f"difference {worst:.0e}" if np.isfinite(worst) else "difference not a number"
        if not different:
            summary += self._other_sizes(limit)
        return summary

    def _require_values(self, leaves):
        """Raises CannotRun if what the reference returns is nothing that can be compared."""
        arrays = leaves.arrays
        if not arrays:
            kinds = ", ".join(sorted({type(each).__name__ for each in leaves.others.values()}))
            raise CannotRun(
                f"the reference returns no tensor ({kinds or 'an empty structure'}): there is "
                "nothing to compare. Give a class or function whose model returns tensors"
            )
        if not any(array.size for array in arrays.values()):
            shape = list(next(iter(arrays.values())).shape)
            raise CannotRun(
                f"the reference returns an empty tensor, shape {shape}: give inputs with which "
                "there is something in it"
            )
        for path, array in arrays.items():
            if not array.size:
                self.report.not_compared.append(f"output{path}: empty, shape {list(array.shape)}")
            if array.dtype.kind in "fc" and np.isnan(array).any():
                raise CannotRun(
                    f"the reference's output{path} holds NaNs with these weights and inputs, and "
                    "NaNs cannot be compared. Give other inputs, or weights that fit them "
                    "(--torch-weights, --own-weights)"
                )

    def _differs_from_itself(self, side):
        """Whether a model gives another output when it is run again."""
        model = self.port if side == "port" else self.reference
        with default_float64(), torch.no_grad(), paddle.no_grad():
            first, second = (_leaves(self._call(side, model)).arrays for _ in range(2))
        return any(
            not np.array_equal(a, b, equal_nan=b.dtype.kind == "f")
            and layers.relative(a, b) > SAME_AGAIN
            for _, a, b in layers.pair_leaves(second, first)
            if a is not None and b is not None
        )

    def _where_broken(self, broken, seen, seen_reference):
        """The first layer that differs before the port breaks off; raises `broken`."""
        limit = self._bound(FORWARD_FLOAT64)
        seen = self._comparable_layers(seen, seen_reference, complete=False)
        rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
        self._note_settings()
        self.report.differences.append(broken.args[0])
        if any(row.output > limit for row in rows):
            self._locate([broken.args[0]], rows, seen, seen_reference, limit)
        else:
            broken.args[0].detail += self._settings_lines()
        self.report.differences.remove(broken.args[0])
        raise broken

    def _bound(self, least):
        if self.pair.bound is not None:
            return self.pair.bound
        return max(least, AMPLIFICATION * self.amplified)

    def _no_float64(self, error):
        side = "port" if isinstance(error, PortBroken) else "reference"
        finding = error.args[0]
        why = finding.quantity if isinstance(finding, Finding) else finding
        self.float64, self.float64_now = False, False
        port, reference = self.port, self.reference
        port.to(dtype="float32")
        reference.float()
        self.report.not_compared.append(
            f"float64: the {side} cannot be run in it ({why}). In float32 a mistake below "
            f"{FLOAT32_BOUND:g} cannot be told from rounding, and gradients were not compared"
        )

    def _compare_float32(self, mine, theirs):
        limit = max(self.pair.bound or 0.0, FLOAT32_BOUND)
        before = len(self.report.differences)
        worst = self._compare_outputs("forward", mine, theirs, limit)
        found = self.report.differences[before:]
        if found:
            self._note_settings()
            with torch.no_grad(), paddle.no_grad():
                seen_reference = layers.record(
                    self.reference, lambda model: self._call("reference", model)
                )
                seen = layers.record(self.port, lambda model: self._call("port", model))
            seen = self._comparable_layers(seen, seen_reference)
            rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
            self._locate(found, rows, seen, seen_reference, limit)
        outputs = _counted(len(theirs.arrays), "output")
        return f"{outputs}, in float32 alone: largest difference {worst:.0e}"

    def _compare_outputs(self, check_, mine, theirs, limit):
        """The largest difference; what is above the limit becomes a Finding."""
        worst = 0.0
        for path, a, b in layers.pair_leaves(mine.arrays, theirs.arrays):
            a = layers.arrange(a, b, self.pair.channels_last)
            name = f"output{path}"
            value = layers.relative(a, b)
            worst = max(worst, value)
            if value <= limit:
                continue
            reason = layers.incomparable(a, b)
            if reason.startswith(("shape", "dtype")):
                quantity, _, sides = reason.partition(" ")
                self._differs(check_, name, quantity, *sides.split(" | "))
            elif reason:
                self._differs(check_, name, reason)
            else:
                finding = Finding(check_, name, "output", "", "", value, limit)
                self.report.differences.append(finding)
        for path, a, b in layers.pair_leaves(mine.others, theirs.others):
            if isinstance(a, SHALLOW) and isinstance(b, SHALLOW):
                if a != b:
                    self._differs(check_, f"output{path}", "value", repr(a), repr(b))
            else:
                kinds = " | ".join(type(x).__name__ for x in (a, b))
                self.report.not_compared.append(f"output{path}: no tensor ({kinds})")
        return worst

    def _comparable_layers(self, seen, seen_reference, complete=True):
        """`seen` without the layers of parameters that have no counterpart; notes on all such.

        Args:
            complete: the port has run to its end.
        """
        before = len(self.report.not_compared)
        paired = {
            layer_of(name)
            for name, (source, rule) in self.table.items()
            if isinstance(source, str) and isinstance(rule, str)
        }
        never = [
            name
            for name, layer in self.port.named_sublayers()
            if name not in seen
            and not list(layer.children())
            and not _in_recurrent(self.port, name)
        ]
        if never:
            self.report.not_compared.append(
                f"layers of the port that were never called: {_some(never)}"
            )
        never = [
            name
            for name, module in self.reference.named_modules()
            if name
            and name not in seen_reference
            and not list(module.children())
            and not name.endswith("out_proj")
        ]
        if never:
            self.report.not_compared.append(
                f"layers of the reference that were never called: {_some(never)}"
            )
        kept, lost = {}, []
        if not complete:
            del self.report.not_compared[before:]
        for name, each in seen.items():
            plain = name.partition(" (call")[0]
            own = [p for p in each.layer.parameters(include_sublayers=False)]
            if own and plain and plain not in paired and not list(each.layer.children()):
                lost.append(name)
            else:
                kept[name] = each
        matched = layers.match(kept, seen_reference, self.layer_map)
        lost += [name for name in kept if name and name not in matched]
        # What lies in attention or a recurrent layer is compared with it.
        whole = [name for name in matched if layers.is_one(seen[name].layer)]
        lost = [n for n in lost if not any(n.startswith(f"{name}.") for name in whole)]
        others = set(matched.values())
        lost_reference = [name for name in seen_reference if name and name not in others]
        for names, side in ((lost, "port"), (lost_reference, "reference")):
            if names and complete:
                self.report.not_compared.append(
                    f"{_counted(len(names), 'layer')} of the {side} without a counterpart, each by "
                    f"itself (what comes after them is): {_some(names)}"
                )
        return kept

    def _note_settings(self):
        found = layers.compare_settings(self.port, self.reference, self.layer_map)
        self.settings = [
            line for line in found if ": type " not in line and ", only in the " not in line
        ]

    def _locate(self, findings, rows, seen, seen_reference, limit):
        """Puts the first layer that differs before the outputs that do."""
        unpaired = layers.unpaired_between(seen, seen_reference, rows)
        row = next((row for row in rows if row.output > limit), None)
        lines = layers.first_forward(rows, limit, unpaired)
        if row is None:
            findings[0].detail = ["All layers agree: the mistake is in what is done with them"]
            return
        if not row.name:  # the model itself: what comes out of it is told already
            findings[0].detail = [*lines, *self._settings_lines()]
            findings[0].hint = self._cure(row.output)
            return
        found = layers.different_settings(row.port.layer, row.reference.layer)
        difference = row.output if np.isfinite(row.output) else None
        if row.input > limit:
            found = []  # the mistake lies before it
        finding = Finding("forward", row.name, "output", "", "", difference, limit)
        if not np.isfinite(row.output):
            how = layers.how_far_all(
                row.port.outputs, row.reference.outputs, self.pair.channels_last
            )
            quantity, _, sides = how.partition(" ")
            finding.quantity = how
            if " | " in sides:
                finding.quantity = quantity
                finding.port, finding.reference = sides.split(" | ", 1)
            finding.bound = None
        if found:
            name, _, sides = found[0].partition(" ")
            finding.quantity, (finding.port, finding.reference) = name, sides.split(" | ", 1)
        finding.detail = [*lines, *self._settings_lines()]
        if not found:
            finding.hint = CURES.get(layers.kind(row.port.layer), "") or self._cure(row.output)
        index = self.report.differences.index(findings[0])
        self.report.differences.insert(index, finding)

    def _settings_lines(self):
        return [f"Differs (port | reference): {line}" for line in self.settings[:SETTINGS_SHOWN]]

    def _settings_of(self, name):
        """Lines on what can be read off a layer of the port and its counterpart and differs."""
        port = dict(self.port.named_sublayers())
        reference = {n: module for n, module in self.reference.named_modules() if n}
        other = layers.match(port, reference, self.layer_map).get(name)
        if other is None:
            return []
        found = layers.different_settings(port[name], reference[other])
        return [f"Differs (port | reference): {name}: {line}" for line in found]

    def _cure(self, difference):
        """What to do about a small difference, if a function that was called is known for it."""
        if difference > SMALL:
            return ""
        return "; ".join(CURES[name] for name in sorted(self.cures))

    def _imprecise(self, mine, theirs, mine64, theirs64):
        """Whether the port's float32 is as good as PyTorch's."""
        for path, a, b in layers.pair_leaves(mine.arrays, theirs.arrays):
            a64, b64 = mine64.arrays.get(path), theirs64.arrays.get(path)
            if b64 is None or a64 is None or b is None or a is None or b.dtype.kind != "f":
                continue
            if not b.size or not np.isfinite(b64).all():
                continue
            floor = 4 * np.finfo(np.float32).eps * np.abs(b64).mean()
            ratio = np.abs(a - a64).mean() / max(np.abs(b - b64).mean(), floor, 1e-300)
            if ratio > IMPRECISE:
                self._differs(
                    "forward",
                    f"output{path}",
                    f"float32 error {ratio:.0f} times PyTorch's (bound {IMPRECISE:g})",
                    hint="In float64 they agree: is something on the way in half precision?",
                )

    def _other_sizes(self, limit):
        """Compares other sizes of the inputs; a text on them for the summary."""
        done, number = [], 0
        given = self.pair.inputs
        while len(done) + 1 < self.sizes:
            described = given.resized(number)
            number += 1
            if described is None:
                break
            inputs = described.make(np.random.default_rng(self.pair.seed))
            with default_float64(), torch.no_grad(), paddle.no_grad():
                try:
                    with self._as_paddle():
                        theirs = _leaves(self._call("reference", self.reference, inputs))
                except ReferenceBroken:
                    continue
                shapes = [each.shape for each in described.leaves() if hasattr(each, "shape")]
                before_ = [each.shape for each in given.leaves() if hasattr(each, "shape")]
                shape = next(a for a, b in zip(shapes, before_) if a != b)
                text = "x".join(str(size) for size in shape)
                done.append(text)
                try:
                    mine = _leaves(self._call("port", self.port, inputs))
                except PortBroken as broken:
                    finding = broken.args[0]
                    finding.quantity = f"at {text}: {finding.quantity}"
                    self.report.differences.append(finding)
                    continue
                before = len(self.report.differences)
                self._compare_outputs("forward", mine, theirs, limit)
                found = self.report.differences[before:]
                if found:
                    self._locate_at(inputs, found, limit, text)
        is_image = any(getattr(each, "is_image", False) for each in given.leaves())
        if self.sizes > 1 and not done and is_image:
            self.report.not_compared.append(
                "another size of image: the reference takes none of those tried"
            )
        return f"; also at {', '.join(done)}" if done else ""

    def _locate_at(self, inputs, found, limit, text):
        with self._as_paddle():
            seen_reference = layers.record(
                self.reference, lambda model: self._call("reference", model, inputs)
            )
        seen = layers.record(self.port, lambda model: self._call("port", model, inputs))
        rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
        self._locate(found, rows, seen, seen_reference, limit)
        index = self.report.differences.index(found[0])
        first = self.report.differences[max(0, index - 1)]
        first = first if first.detail else found[0]
        first.detail.insert(0, f"This shows at a size of {text}, not at the first one")

    # Backward and training.

    def _backward(self):
        if not self._has_float64():
            return None
        parameters = [p for p in self.port.parameters() if not p.stop_gradient]
        if not parameters:
            self.report.not_compared.append("backward: the port has no parameter to be trained")
        self.train_mode = True
        self._compare_inner_dropout()
        try:
            return self._first_step()
        except NoGradient as error:
            self.report.not_compared.append(f"backward: {error}")
            return None

    def _compare_inner_dropout(self):
        """The rate of dropout inside of recurrent layers: all that can be compared of it."""
        theirs = dict(self.reference.named_modules())
        for name, layer in self.port.named_sublayers(include_self=True):
            if not isinstance(layer, RECURRENT):
                continue
            other = theirs.get(counterpart(name, self.layer_map))
            if isinstance(other, torch.nn.RNNBase) and abs(layer.dropout - other.dropout) > 1e-6:
                rates = f"{layer.dropout:.6g}", f"{other.dropout:.6g}"
                self._differs("backward", name, "dropout", *rates)

    def _has_float64(self):
        if "forward" not in self.checks and self.float64 and not self.float64_now:
            self._run_both()  # what breaks off here does so in any dtype
            self.report.notes += to_float64(self.port, self.reference)
            self.float64_now = True
            self._note_settings()
            try:
                with default_float64():
                    self._run_both()
            except PortBroken as error:
                self._no_float64(error)
            except CannotRun as error:
                if not isinstance(error.__cause__, ReferenceBroken):
                    raise
                self._no_float64(error.__cause__)
        return self.float64

    def _run_both(self):
        with torch.no_grad(), paddle.no_grad():
            try:
                self._require_values(_leaves(self._call("reference", self.reference.eval())))
            except ReferenceBroken as error:
                raise CannotRun(_does_not_take(error)) from error
            self.port.eval()
            self._call("port", self.port)

    def _first_step(self):
        """Compares outputs in train mode, loss and gradients."""
        side, side_reference, result = self._gradients()
        limit = self._bound(TRAIN_FLOAT64)
        before = len(self.report.differences)
        worst = self._compare_outputs("backward", result["mine"], result["theirs"], limit)
        if len(self.report.differences) > before and self.train_mode and self._samples(result):
            del self.report.differences[before:]
            self.report.not_compared.append(
                "train mode: the reference samples random numbers other than dropout's, so both "
                "sides were compared in eval mode"
            )
            self.train_mode = False
            return self._first_step()
        rows = [*result["dropout"], *result["loss"], *result["gradients"]]
        rows.sort(key=lambda row: not row.reason)  # no gradient at all says more than another one
        found = self.report.differences[before:]
        if found:
            rows = [row for row in rows if row.kind != "loss"]
        self._add_rows("backward", rows)
        worst_gradient = max((r.value for r in rows if r.kind == "gradient"), default=0.0)
        if len(self.report.differences) > before:
            self._locate_backward(self.report.differences[before], limit, bool(found))
        self.first = (side, side_reference)
        count = sum(row.kind == "gradient" for row in rows)
        if count and not result["any_gradient"]:
            self.report.not_compared.append(
                "gradients: all are 0 in the reference, so they say nothing. Does the loss depend "
                "on the output?"
            )
        mode = "train" if self.train_mode else "eval"
        return (
            f"{mode} mode, {_counted(count, 'gradient')}, float64: largest difference of outputs "
            f"{worst:.0e}, of gradients {worst_gradient:.0e}"
        )

    def _set_mode(self, train):
        for model in (self.port, self.reference):
            if train:
                model.train()
            else:
                model.eval()

    def _gradients(self, record=False):
        """One forward and backward pass of both sides."""
        self._set_mode(self.train_mode)
        self.port.clear_gradients()
        self.reference.zero_grad(set_to_none=True)
        self.masks = masks = SharedDropout()
        result, inputs = {}, {}

        def run(side):
            def forward_and_backward(model):
                given = self._tensors(side, self.inputs)
                for tensor in _floats(given):
                    if side == "port":
                        tensor.stop_gradient = False
                    else:
                        tensor.requires_grad_(True)
                inputs[side] = given
                try:
                    output = model(*given.positional, **given.named)
                    loss = self._loss(side, output)
                    if side == "reference" and not loss.requires_grad:
                        raise NoGradient(
                            "no gradient reaches anything in the reference: its output, or the "
                            "loss, is detached (detach, no_grad, inference_mode)"
                        )
                    loss.backward()
                except (CannotRun, NoGradient, PortBroken):
                    raise
                except (Exception, SystemExit) as error:
                    if side == "port":
                        finding = self._broken(error)
                        finding.check = "backward"
                        raise PortBroken(finding) from error
                    raise ReferenceBroken(_told(error)) from error
                result[side] = output, loss

            return forward_and_backward

        before = self._statistics()
        with default_float64(), without_inner_dropout(self.port, self.reference) as lines:
            self.report.not_compared += lines
            with masks.of_port(self.port):
                if record:
                    result["seen"] = layers.record(self.port, run("port"), layers.Shelf())
                else:
                    run("port")(self.port)
            try:
                with self._as_paddle(masks), masks.of_reference(self.reference):
                    if record:
                        result["seen_reference"] = layers.record(
                            self.reference, run("reference"), layers.Shelf()
                        )
                    else:
                        run("reference")(self.reference)
            except ReferenceBroken as error:
                if not self.train_mode:
                    raise NoGradient(f"the reference has no backward pass: {error}") from error
                self.report.not_compared.append(
                    f"train mode: the reference cannot be run in it ({error}), so both sides were "
                    "compared in eval mode"
                )
                self.train_mode = False
                return self._gradients(record)
        result["before"] = before
        result["mine"], result["theirs"] = (_leaves(result[s][0]) for s in ("port", "reference"))
        losses = [float(result[s][1].detach()) for s in ("port", "reference")]
        result["losses"] = losses
        limit = self._bound(TRAIN_FLOAT64)
        difference = abs(losses[0] - losses[1]) / max(abs(losses[1]), self._loss_scale(result))
        result["loss"] = [
            steps.Difference(
                "", "loss", f"{losses[0]!r} | {losses[1]!r}",
                difference if np.isfinite(difference) else np.inf, limit,
            )
        ]  # fmt: skip
        result["dropout"] = [
            steps.Difference(each.where, "dropout", each.text, 0.0 if each.agrees else np.inf, 0.0)
            for each in masks.checks
        ]
        mine = steps.paddle_gradients(self.port, self.table)
        theirs = steps.torch_gradients(self.reference, self.table)
        reasons = steps.why_no_gradient(self.port, self.reference, self.table)
        rows = steps.compare("", "gradient", mine, theirs, reasons=reasons)
        rows += self._input_gradients(inputs)
        result["gradients"] = rows
        result["any_gradient"] = any(x is not None and np.any(x) for x in theirs.values())
        result["any_gradient"] |= any(
            x.grad is not None and bool(x.grad.any()) for x in _floats(inputs["reference"])
        )
        return steps.Side(self.port), steps.Side(self.reference), result

    def _loss_scale(self, result):
        """The size of the terms of the loss: their sum may be near 0 by chance."""
        arrays = [x for x in result["theirs"].arrays.values() if x.dtype.kind == "f" and x.size]
        return 1e-3 * max((np.abs(x).max() for x in arrays), default=1.0) or 1e-30

    def _input_gradients(self, inputs):
        rows = []
        sides = [_named_floats(inputs[side]) for side in ("port", "reference")]
        for name, theirs in sides[1].items():
            mine = sides[0][name].grad
            a = None if mine is None else mine.numpy()
            b = None if theirs.grad is None else theirs.grad.numpy()
            if a is None and b is None:
                continue
            reason = layers.incomparable(a, b)
            if reason.startswith("none in"):
                side = "port" if a is None else "reference"
                reason = f"no gradient reaches the input in the {side}"
            value = layers.relative(a, b)
            rows.append(steps.Difference("", "gradient", name, value, GRADIENT_FLOAT64, reason))
        return rows

    def _loss(self, side, output):
        function = self.pair.loss[0 if side == "port" else 1]
        if function is not None:
            return self._given_loss(side, function, output)
        total = None
        rng = np.random.default_rng(self.pair.seed + 1)
        for tensor in flatten(output).values():
            if not is_tensor(tensor) or not _is_float(tensor):
                continue
            shape = tuple(tensor.shape)
            numbers = rng.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape))))
            if side == "port":
                term = (tensor * paddle.to_tensor(numbers)).sum()
            else:
                term = (tensor * torch.from_numpy(np.asarray(numbers))).sum()
            total = term if total is None else total + term
        if (
            total is None
            and side == "port"
            and any(f.check == "forward" for f in self.report.differences)
        ):
            raise PortBroken(Finding("backward", "output", "the port returns no floats"))
        if total is None:
            raise NoGradient("the output holds no real floats. Give a loss (--loss)")
        return total

    def _given_loss(self, side, function, output):
        targets = self._tensors(side, Inputs(self.targets, {})).positional
        try:
            value = function(output, *targets)
            wrong = ""
            if not is_tensor(value):
                wrong = f"it returns {value!r:.60}"
            elif int(np.prod(value.shape)) != 1:
                wrong = f"it returns a tensor of shape {list(value.shape)}"
        except (Exception, SystemExit) as error:
            wrong = _told(error)
        if not wrong:
            return value
        text = f"the loss does not work with the output of the {side}: {wrong}"
        if side == "port" and any(f.check == "forward" for f in self.report.differences):
            raise PortBroken(Finding("backward", "", text, hint="The outputs differ already"))
        raise CannotRun(
            f"{text}. It is called with the output and the targets, and returns a tensor of one "
            "value, in both frameworks; or give each its own (--paddle-loss, --torch-loss)"
        )

    def _statistics(self):
        """Copies of the reference's buffers: running statistics, which train mode moves."""
        return {name: buffer.clone() for name, buffer in self.reference.named_buffers()}

    def _samples(self, result):
        """Whether the reference gives another output with the same masks."""
        with torch.no_grad():
            for name, buffer in self.reference.named_buffers():
                buffer.copy_(result["before"][name])
        self.masks.next = 0
        quiet = without_inner_dropout(self.port, self.reference)
        with default_float64(), torch.no_grad(), quiet, self._as_paddle(self.masks):
            again = _leaves(self._call("reference", self.reference))
        pairs = layers.pair_leaves(again.arrays, result["theirs"].arrays)
        return any(layers.relative(a, b) > 1e-9 for _, a, b in pairs)

    def _locate_backward(self, first, limit, forward):
        # The forward pass has moved running statistics: both from one state again.
        steps.put(self.port, self.reference, self.table)
        _, _, result = self._gradients(record=True)
        seen = self._comparable_layers(result["seen"], result["seen_reference"])
        rows = layers.compare(
            seen, result["seen_reference"], self.layer_map, self.pair.channels_last
        )
        unpaired = layers.unpaired_between(seen, result["seen_reference"], rows)
        lines = layers.first_forward(rows, limit, unpaired) or layers.first_backward(rows)
        first.detail += lines
        first.detail += self._settings_lines()
        row = next((row for row in rows if row.output > limit), None)
        if forward and row is not None and row.input <= limit:
            found = layers.different_settings(row.port.layer, row.reference.layer)
            if not row.name:
                return
            finding = Finding("backward", row.name, "output in train mode", "", "", None, limit)
            if np.isfinite(row.output):
                finding.difference = row.output
            if found:
                name, _, sides = found[0].partition(" ")
                finding.quantity, (finding.port, finding.reference) = name, sides.split(" | ", 1)
            finding.detail, first.detail = first.detail, []
            self.report.differences.insert(self.report.differences.index(first), finding)

    def _add_rows(self, check_, rows):
        """Turns rows of a training that differ into Findings."""
        for row in rows:
            if row.agrees or row.value <= (self.pair.bound or 0.0):
                continue
            if row.cause in self.pair.accept:
                self.report.known.append(ACCEPTED[row.cause])
                continue
            hint = CURES[row.cause] if row.cause else row.hint
            finding = Finding(check_, row.name, row.kind, hint=hint)
            if row.reason:
                finding.quantity += f": {row.reason}"
            elif np.isfinite(row.value):
                finding.difference, finding.bound = row.value, row.bound
            if row.kind in ("loss", "dropout"):
                finding.where, finding.quantity = "", row.kind
                finding.port, _, finding.reference = row.name.partition(" | ")
            if row.kind == "dropout":
                finding.where, finding.bound = row.where, None
                finding.detail += self._settings_of(row.where)
            elif row.where:
                finding.detail.append(f"in {row.where}")
            self.report.differences.append(finding)

    def _training(self):
        if not self._has_float64():
            return None
        before = len(self.report.differences)
        if any(f.check == "backward" for f in self.report.differences):
            self.report.not_compared.append("training: gradients differ, so updates would too")
            return None
        if not hasattr(self, "train_mode"):
            self.train_mode = True
        if not any(p.requires_grad for p in self.reference.parameters()):
            self.report.not_compared.append("training: the reference has no parameter to train")
            return None
        port = steps.Side(self.port)
        reference = steps.Side(self.reference)
        make, make_reference = OPTIMIZERS[self.optimizer]
        port.optimizer = make([p for p in self.port.parameters() if not p.stop_gradient])
        trained = [p for p in self.reference.parameters() if p.requires_grad]
        reference.optimizer = make_reference(trained)
        rows, worst = [], {}
        steps.put(self.port, self.reference, self.table)
        for step in range(self.count):
            start = steps.torch_arrays(self.reference, self.table)
            try:
                _, _, result = self._gradients()
            except NoGradient as error:
                self.report.not_compared.append(f"training: {error}")
                return None
            self._same_gradients()
            port.optimizer.step()
            reference.optimizer.step()
            where = f"step {step}"
            rows = [*result["dropout"], *result["loss"], *result["gradients"]]
            rows += steps.compare_updates(where, port, reference, self.table, start)
            for row in rows:
                row.where = row.where if row.kind == "dropout" else where
                worst[row.kind] = max(worst.get(row.kind, 0.0), row.value if row.agrees else 0.0)
            self._add_rows("training", rows)
            if len(self.report.differences) > before:
                break
            steps.restart(port, reference, self.table)
        found = self.report.differences[before:]
        if found:
            found[0].detail += self._settings_lines()
        shown_ = ", ".join(f"{kind} {value:.0e}" for kind, value in worst.items())
        return (
            f"{_counted(self.count, 'step')} of {self.optimizer}, each from one state; largest "
            f"difference: {shown_}"
        )

    def _same_gradients(self):
        """The reference's gradients for the port, too: of one that is zero in theory, an optimizer
        that divides by its size makes a step of full size out of rounding."""
        theirs = steps.torch_gradients(self.reference, self.table)
        parameters = steps.paddle_parameters(self.port)
        for name in theirs:
            gradient, mine = theirs[name], parameters[name].grad
            if gradient is not None and mine is not None:
                mine.set_value(np.asarray(gradient.astype(mine.numpy().dtype), order="C"))

    # Initialisation.

    def _initialisation(self):
        for side in (self.pair.port, self.pair.reference):
            if side.is_model:
                self.report.not_compared.append(
                    f"initialisation: the {side.name} was given as a model. Give its class, or a "
                    "function that makes it"
                )
                return None
        # Of a large model, one seed has as many values as eight of a small one.
        seeds = min(SEEDS, max(FEW_SEEDS, ENOUGH_VALUES // max(1, self.parameters)))
        rows, count, level = compare_tensors(
            self.pair.port.make, self._make_reference, lambda model: self.table, seeds
        )
        told = set()
        for name, test, values, p, agrees in rows:
            if not agrees and name not in told:
                told.add(name)
                port, _, reference = values.partition(" | ")
                self._differs(
                    "initialisation", name, test, port, reference,
                    detail=[f"p {p:.0e}, bound {level:.0e}"],
                    hint="Look at how it is initialised: the distribution, fan-in or fan-out, a "
                    "default of Paddle's layer that was left",
                )  # fmt: skip
        if not rows:
            self.report.not_compared.append("initialisation: no parameter has a counterpart")
            return None
        constants = len({row[0] for row in rows}) - count
        return (
            f"{seeds} seeds: {_counted(constants, 'constant')}, {_counted(count, 'distribution')}"
        )


class ReferenceBroken(Exception):
    """The reference cannot be run."""


class NoGradient(Exception):
    """There is no gradient to compare; says why."""


@dataclass
class _Leaves:
    """What a model has returned."""

    arrays: dict
    others: dict


def _leaves(output):
    flat = flatten(output)
    return _Leaves(
        {path: to_array(leaf) for path, leaf in flat.items() if is_tensor(leaf)},
        {path: leaf for path, leaf in flat.items() if not is_tensor(leaf)},
    )


def _is_float(tensor):
    return tensor.is_floating_point()


def _named_leaves(given):
    flat = {f"input {i}{path}": leaf for i, x in enumerate(given.positional)
            for path, leaf in flatten(x).items()}  # fmt: skip
    flat |= {f"input {name}{path}": leaf for name, x in given.named.items()
             for path, leaf in flatten(x).items()}  # fmt: skip
    return flat


def _named_tensors(given):
    return {name: leaf for name, leaf in _named_leaves(given).items() if is_tensor(leaf)}


def _named_arrays(given):
    return {n: leaf for n, leaf in _named_leaves(given).items() if isinstance(leaf, np.ndarray)}


def _named_floats(given):
    return {name: leaf for name, leaf in _named_tensors(given).items() if _is_float(leaf)}


def _floats(given):
    return _named_floats(given).values()


def _in_recurrent(model, name):
    """Whether a layer lies in an LSTM, GRU or SimpleRNN, which calls a kernel in its place."""
    names = dict(model.named_sublayers(include_self=True))
    parents = [layer_of(name)]
    while parents[-1]:
        parents.append(layer_of(parents[-1]))
    return any(isinstance(names.get(parent), RECURRENT) for parent in parents)


def _some(names, most=3):
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")


def _counted(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextlib.contextmanager
def _quiet():
    """Paddle says at each training step that batch norm keeps running statistics."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="When training, we now always track")
        yield
