"""The parts of a training recipe, each by itself: optimizers, schedules, clipping, average.

Step 05 trains with one optimizer and one schedule. Here each of those that torchvision's recipes
use is compared, on random gradients, over more steps than a training could be afforded for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import paddle
import torch

from .. import convert
from ..precision import to_float64
from ..state import (
    Held,
    as_paddle,
    paddle_arrays,
    paddle_gradients,
    put,
    torch_arrays,
    torch_gradients,
    torch_parameters,
    trained_names,
)
from ..threads import one_torch_thread
from ..thresholds import FREE_RUN, TRAIN_FLOAT64
from ..training.comparison import Comparison, Difference
from ..training.quantities import compare, compare_updates, in_no_group, optimizer_settings
from ..training.steps import Side, Stepping
from .defaults import defaults_of_both

if TYPE_CHECKING:
    from ..pairing import Table


Models: TypeAlias = tuple[paddle.nn.Layer, torch.nn.Module]  # the port's, the reference's

# (--wd, --norm-weight-decay, --bias-weight-decay)
DECAYS = ((1e-2, None, None), (1e-2, 0.0, None), (1e-2, None, 0.0), (1e-2, 1e-3, 0.1))
# {argument: in PyTorch}; what both leave at 0 may be None in one of them.
NAMES_OF_OPTIMIZERS = {"rho": "alpha", "epsilon": "eps", "momentum": "momentum"}
# Large enough for 20 steps to move the weights, small enough not to throw them away.
LEARNING_RATES = {"sgd": 0.05, "sgd_nesterov": 0.05, "rmsprop": 0.01, "adamw": 0.01}
# Of torchvision's recipe for this network, and --lr-min; compared to three epochs past the end.
SCHEDULE = {"epochs": 600, "lr_step_size": 2, "lr_gamma": 0.973, "lr_min": 1e-5}
# Further schedules, each made at random: of few epochs, so that each end and period is passed.
SCHEDULES, LONGEST = 40, 12
CLIPPED_TO = (1.0, 0.1, 1e3)  # norms
UPDATES = 6
DECAYS_OF_AVERAGE = (0.9, 0.0, 1.0)
WARMUPS: tuple[dict[str, Any], ...] = (
    {"lr_warmup_epochs": 0},
    {"lr_warmup_epochs": 5, "lr_warmup_method": "linear", "lr_warmup_decay": 0.01},
    {"lr_warmup_epochs": 7, "lr_warmup_method": "constant", "lr_warmup_decay": 0.3},
)


class Optimizers(NamedTuple):
    """Both frameworks' classes of one optimizer, and the same arguments in the words of each."""

    port: type
    port_arguments: dict[str, Any]
    reference: type
    reference_arguments: dict[str, Any]

    def __str__(self) -> str:
        arguments = ", ".join(f"{k}={v}" for k, v in self.port_arguments.items())
        return f"{self.port.__name__}({arguments})"


@one_torch_thread()
def compare_recipe(
    port: Any,
    reference: Any,
    make_models: Callable[[], Models],
    rules: Callable[[paddle.nn.Layer], Table],
    optimizers: Sequence[Optimizers] = (),
    steps: int = 20,
    seed: int = 0,
) -> Comparison:
    """Compares the parts of both sides' recipes, up to the first that differs.

    Args:
        port: module with `OPTIMIZERS`, `create_optimizer`, `weight_decay_groups`,
            `LR_SCHEDULERS`, `WarmupSchedule`, `clip_grad_norm_`, `ExponentialMovingAverage` and
            `adjusted_decay`, as paddle_mv3 has them.
        reference: module with the same for PyTorch; `create_lr_scheduler(optimizer, ...)` stands
            for `WarmupSchedule(lr, ...)`.
        make_models: () -> (the port's model, the reference's), float32. Small ones will do; the
            weights are made here.
        rules: function that gives {Paddle name: (PyTorch name, rule)} of the port's model.
        optimizers: [Optimizers] with arguments that no recipe gives them.
        steps: of each optimizer.

    Returns:
        Comparison.
    """
    rng = np.random.default_rng(seed)
    models, models32 = make_models(), make_models()
    table = rules(models[0])
    revive(models, table, rng)
    to_float64(*models)
    # Optimizers are given no statistics.
    trained = {name: table[name] for name in trained_names(table, torch_parameters(models[1]))}
    kinds = one_of_each_kind(reference, models, trained)

    comparison = Comparison()

    def parts() -> Iterator[list[Difference]]:
        yield compare_defaults(port, reference, optimizers)
        yield compare_weight_decay(port, reference, models, table)
        yield compare_schedules(port, reference)
        yield compare_random_schedules(port, reference, rng)
        yield compare_clipping(port, models, table, rng)
        yield compare_moving_average(port, reference, models, table, rng)
        models[0].clear_gradients(set_to_zero=False)
        models[1].zero_grad()
        for name, momentum in [("sgd", 0.0), *((name, 0.9) for name in port.OPTIMIZERS)]:
            where = f"optimizer {name}" if momentum else f"optimizer {name} without momentum"
            sides = build_optimizers(port, reference, models, name, momentum)
            comparison.settings = optimizer_settings(*sides)
            yield compare_optimizers(where, sides, kinds, steps, rng)
            revive(models32, table, rng)
            sides = build_optimizers(port, reference, models32, name, momentum)
            yield compare_free_run(where, sides, trained, steps, rng)
        for each in optimizers:
            sides, linear = small_sides(each)
            comparison.settings = optimizer_settings(*sides)
            yield compare_optimizers(str(each), sides, linear, steps, rng, uneven_gradients)

    for differences in parts():
        comparison.differences += differences
        if not all(row.agrees for row in differences):
            break
    return comparison


def revive(models: Models, table: Table, rng: np.random.Generator) -> None:
    """Gives both the same random weights: a decayed zero would show no decay."""
    with torch.no_grad():
        for tensor in float_tensors(models[1]):
            tensor.copy_(torch.from_numpy(0.1 + 0.1 * rng.standard_normal(tensor.shape)))
    put(*models, table)


def float_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters and statistics; not the count of batches, which Paddle has not."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def build_optimizers(port: Any, reference: Any, models: Models, name: str, momentum: float) -> Any:
    """Both sides' optimizer `name`, on parameters in groups of three weight decays: two Sides."""
    decays, lr = DECAYS[-1], LEARNING_RATES[name]
    sides = []
    for side, model in zip((port, reference), models):
        groups = side.weight_decay_groups(model, *decays)
        optimizer = side.create_optimizer(name, groups, lr, momentum, decays[0])
        sides.append(Side(model, optimizer=optimizer))
    return sides


def one_of_each_kind(reference: Any, models: Models, trained: Table) -> Table:
    """The part of `trained` in which each weight decay, layout and number of axes is there once.

    The smallest of its kind: an optimizer does the same to each of them. That it does it to all is
    seen in the free runs.
    """
    parameters = dict(models[1].named_parameters())
    decays = {
        id(parameter): group["weight_decay"]
        for group in reference.weight_decay_groups(models[1], *DECAYS[-1])
        for parameter in group["params"]
    }
    found: dict[Any, str] = {}
    for name in sorted(trained, key=lambda name: parameters[trained[name][0]].numel()):
        source, rule = trained[name]
        parameter = parameters[source]
        found.setdefault((decays[id(parameter)], rule, parameter.ndim), name)
    return {name: trained[name] for name in found.values()}


def compare_defaults(
    port: Any, reference: Any, optimizers: Sequence[Optimizers]
) -> list[Difference]:
    """What an argument is that is left out: of functions, and of optimizers of the port's own."""
    names = {name: name for name in ("create_optimizer", "weight_decay_groups")}
    names["WarmupSchedule"] = "create_lr_scheduler"
    pairs: dict[str, Any] = {
        mine: (getattr(port, mine), getattr(reference, theirs)) for mine, theirs in names.items()
    }
    for each in optimizers:
        if not each.port.__module__.startswith("paddle."):
            pairs[each.port.__name__] = each.port, each.reference, NAMES_OF_OPTIMIZERS
    return [
        Difference(
            name, "default argument", f"{argument} {a} | {b}", 0.0 if a == b else np.inf, 0.0
        )
        for name, both in pairs.items()
        for argument, a, b in defaults_of_both(*both)
    ]


def compare_weight_decay(
    port: Any, reference: Any, models: Models, rules: Table
) -> list[Difference]:
    """For each parameter: is it in the group of the same decay?"""
    found = []
    for decays in DECAYS:
        by_tensor = [
            {id(p): float(group["weight_decay"]) for group in groups for p in group["params"]}
            for side, model in zip((port, reference), models)
            for groups in [side.weight_decay_groups(model, *decays)]
        ]
        where = "weight decay {}, of norms {}, of biases {}".format(*decays)
        theirs = dict(models[1].named_parameters())
        pairs = {
            name: (by_tensor[0].get(id(parameter)), by_tensor[1].get(id(theirs[rules[name][0]])))
            for name, parameter in models[0].named_parameters()
            if rules[name][0] in theirs
        }
        forgotten = sum(a is None and b is not None for a, b in pairs.values())
        for name, (a, b) in pairs.items():
            reason = ""
            if a is None and b is not None:
                reason = in_no_group(forgotten)
            value = 0.0 if a == b else np.inf
            found.append(Difference(where, "weight decay", f"{name} {a} | {b}", value, 0.0, reason))
    return found


def set_gradients(
    models: Models, rules: Table, rng: np.random.Generator, scale: float = 0.01
) -> None:
    """The same normal gradients for both, of the models' dtype."""
    theirs = dict(models[1].named_parameters())
    pairs = [
        (parameter, theirs[rules[name][0]], rules[name][1])
        for name, parameter in models[0].named_parameters()
        if name in rules and rules[name][0] in theirs
    ]
    dtype = str(pairs[0][1].dtype).rpartition(".")[2]
    values = (scale * rng.standard_normal(sum(p.numel() for _, p, _ in pairs))).astype(dtype)
    start = 0
    for mine, other, rule in pairs:
        gradient = values[start : start + other.numel()].reshape(other.shape)
        start += other.numel()
        other.grad = torch.from_numpy(gradient).to(other.device)
        array = np.ascontiguousarray(as_paddle(gradient, rule))
        if mine.grad is None:
            mine.grad = paddle.to_tensor(array)
        else:
            mine.grad.set_value(array)


def uneven_gradients(models: Models, rules: Table, rng: np.random.Generator) -> None:
    """Gradients of sizes over eight decades, some of them 0, the same for both."""
    for mine, (source, rule) in rules.items():
        parameter = dict(models[1].named_parameters())[source]
        size = 10 ** rng.uniform(-6, 2, parameter.shape)
        gradient = size * rng.standard_normal(parameter.shape)
        gradient[rng.random(parameter.shape) < 0.2] = 0
        parameter.grad = torch.from_numpy(gradient)
        array = np.ascontiguousarray(as_paddle(gradient, rule))
        dict(models[0].named_parameters())[mine].grad = paddle.to_tensor(array)


def small_sides(optimizers: Optimizers) -> tuple[Any, Table]:
    """(two Sides of one linear layer in float64 with an optimizer each, rules)"""
    models = paddle.nn.Linear(5, 7), torch.nn.Linear(5, 7)
    rules = convert.rules(models[0])
    put(*models, rules)
    to_float64(*models)
    port = optimizers.port(**optimizers.port_arguments, parameters=models[0].parameters())
    reference = optimizers.reference(models[1].parameters(), **optimizers.reference_arguments)
    return [Side(model, optimizer=each) for model, each in zip(models, (port, reference))], rules


def compare_optimizers(
    title: str,
    sides: tuple[Side, Side],
    rules: Table,
    steps: int,
    rng: np.random.Generator,
    make_gradients: Callable[[Models, Table, np.random.Generator], None] = set_gradients,
) -> list[Difference]:
    """The worst of each kind at each step, each from one state, in float64."""
    stepping, found = stepping_of(sides, rules), []

    def gradients(where: str) -> list[Difference]:
        make_gradients(stepping.models, rules, rng)
        return []  # they are the same on both sides

    for step in range(steps):
        where = f"{title}, step {step}"
        rows = stepping.step(where, gradients, stepping.update, rates=False)
        found += worst_of_each_kind(rows)
        if not all(row.agrees for row in found):
            break
        stepping.restart()
    return found


def stepping_of(sides: Sequence[Side], rules: Table) -> Stepping:
    """Of two Sides, of which only the values of tensors change."""
    port, reference = (replace(side, model=Held(side.model)) for side in sides)
    return Stepping(port, reference, rules)


def worst_of_each_kind(rows: Iterable[Difference]) -> list[Difference]:
    kinds = {}
    for row in rows:
        if row.kind not in kinds or row.value > kinds[row.kind].value:
            kinds[row.kind] = row
    return list(kinds.values())


def compare_free_run(
    title: str, sides: tuple[Side, Side], rules: Table, steps: int, rng: np.random.Generator
) -> list[Difference]:
    """How far apart the weights are after `steps` in float32, over the way that they have gone."""
    stepping = stepping_of(sides, rules)
    before = torch_arrays(sides[1].model, rules)
    for _ in range(steps):
        set_gradients(stepping.models, rules, rng)
        stepping.update()
    sides = stepping.port, stepping.reference
    rows = compare_updates(f"{title}, {steps} steps", *sides, rules, before)
    worst = max((row for row in rows if row.kind == "update"), key=lambda row: row.value)
    return [Difference(worst.where, "free run", worst.name, worst.value, FREE_RUN)]


def compare_schedules(port: Any, reference: Any) -> list[Difference]:
    """The rate that each side's optimizer uses, up to the first epoch that differs, or the last."""
    found = []
    for name, warmup in itertools.product(port.LR_SCHEDULERS, WARMUPS):
        arguments = {"lr_scheduler": name, **SCHEDULE, **warmup}
        where = f"{name} with {warmup.get('lr_warmup_method', 'no')} warm-up"
        found.append(compare_schedule(port, reference, where, 0.064, arguments))
    return found


def compare_random_schedules(
    port: Any, reference: Any, rng: np.random.Generator
) -> list[Difference]:
    """As `compare_schedules`, of every argument at random, up to the first schedule that differs.

    Few epochs, some past the end: step sizes, the end of warm-up and the end of the training fall
    on the same epoch, beside each other, or outside of it. Each kind has, in turn, no warm-up, one
    epoch of it, some, and as many as can be.
    """
    found = []
    kinds = itertools.cycle(itertools.product(port.LR_SCHEDULERS, range(4)))
    for kind, edge in itertools.islice(kinds, SCHEDULES):
        epochs = int(rng.integers(1, LONGEST))
        warmups = 0, min(1, epochs - 1), int(rng.integers(0, epochs)), epochs - 1
        arguments = {
            "lr_scheduler": kind,
            "epochs": epochs,
            "lr_warmup_epochs": warmups[edge],
            "lr_warmup_method": str(rng.choice(port.LR_WARMUP_METHODS)),
            "lr_warmup_decay": round(float(rng.uniform(0.001, 1)), 3),
            "lr_step_size": int(rng.integers(1, LONGEST)),
            "lr_gamma": round(float(rng.uniform(0.1, 1)), 3),
            "lr_min": round(float(rng.choice([0, 0.01, 0.1])), 3),
        }
        settings = ", ".join(f"{name} {value}" for name, value in arguments.items())
        where = settings.removeprefix("lr_scheduler ")
        lr = round(float(10 ** rng.uniform(-4, 0)), 6)
        found.append(compare_schedule(port, reference, f"schedule {where}", lr, arguments))
        if not found[-1].agrees:
            break
    return found


def compare_schedule(
    port: Any, reference: Any, title: str, lr: float, arguments: Mapping[str, Any]
) -> Difference:
    """Difference of the first epoch that differs, or of the last."""
    schedule = port.WarmupSchedule(lr, **arguments)
    tensor = paddle.zeros([1])
    optimizer = paddle.optimizer.SGD(schedule, parameters=[tensor])
    optimizer_ref = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule_ref = reference.create_lr_scheduler(optimizer_ref, **arguments)
    optimizer_ref.step()  # once: before its schedule, PyTorch wants it
    for epoch in range(arguments["epochs"] + 3):
        lr, lr_ref = optimizer.get_lr(), optimizer_ref.param_groups[0]["lr"]
        shown, apart = f"{lr!r} | {lr_ref!r}", abs(lr - lr_ref)
        row = Difference(f"{title}, epoch {epoch}", "learning rate", shown, apart, 0.0)
        if not row.agrees:
            break
        schedule_ref.step()
        schedule.step()
    return row


def compare_clipping(
    port: Any, models: Models, rules: Table, rng: np.random.Generator
) -> list[Difference]:
    """Gradients whose norm is above the largest that is allowed, below it, and 0."""
    found = []
    for scale, largest in itertools.product((1.0, 1e-6, 0.0), CLIPPED_TO):
        set_gradients(models, rules, rng, scale)
        port.clip_grad_norm_([p for p in models[0].parameters() if not p.stop_gradient], largest)
        torch.nn.utils.clip_grad_norm_(models[1].parameters(), largest)
        sides = paddle_gradients(models[0], rules), torch_gradients(models[1], rules)
        where = f"gradients of the order {scale:g} clipped to the norm {largest:g}"
        found += worst_of_each_kind(compare(where, "clipped gradient", *sides))
    return found


def compare_moving_average(
    port: Any, reference: Any, models: Models, rules: Table, rng: np.random.Generator
) -> list[Difference]:
    """Six updates, with one start anew as at the end of warm-up; weights and statistics."""
    found = []
    arguments = [(0.9999, 128, 8, 32, 600), (0.99, 32, 1, 1, 10), (0.9, 1024, 8, 32, 90)]
    for values in arguments:
        decay, decay_ref = port.adjusted_decay(*values), reference.adjusted_decay(*values)
        where = "decay {}, batch {}, {} ranks, every {} steps, {} epochs".format(*values)
        row = (f"{decay!r} | {decay_ref!r}", abs(decay - decay_ref), 0.0)
        found.append(Difference(where, "moving average", *row))
    for decay in DECAYS_OF_AVERAGE:
        found += compare_updates_of_average(port, reference, models, rules, rng, decay)
    return found


def compare_updates_of_average(
    port: Any, reference: Any, models: Models, rules: Table, rng: np.random.Generator, decay: float
) -> list[Difference]:
    found = []
    average = port.ExponentialMovingAverage(models[0], decay)
    average_ref = reference.ExponentialMovingAverage(models[1], decay)
    usual = decay == DECAYS_OF_AVERAGE[0]
    for update in range(UPDATES if usual else 2):
        if update == 2:
            average.n_averaged = 0
            average_ref.n_averaged.fill_(0)
        with torch.no_grad():
            for tensor in float_tensors(models[1]):
                tensor.add_(torch.from_numpy(rng.standard_normal(tensor.shape)))
        put(*models, rules)
        average.update(models[0])
        average_ref.update_parameters(models[1])
        sides = paddle_arrays(average.module), torch_arrays(average_ref.module, rules)
        where = f"update {update}" if usual else f"update {update}, decay {decay:g}"
        rows = compare(where, "moving average", *sides, bound=TRAIN_FLOAT64)
        found += worst_of_each_kind(rows)
    return found
