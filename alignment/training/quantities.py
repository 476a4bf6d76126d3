"""How far two trainings differ, quantity by quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dropout import check_dropout, check_masks
from ..layers import incomparable, relative
from ..paddle_internals import (
    ONLY_IN_TORCH,
    OPTIMIZER_SETTINGS,
    only_in_paddle,
    optimizer_values,
    parameters_given,
)
from ..pairing import layer_of, sources_of
from ..state import (
    Lazy,
    optimizer_states,
    paddle_arrays_now,
    paddle_gradients_now,
    paddle_parameters,
    torch_arrays_now,
    torch_gradients_now,
    torch_parameters,
    trained_names,
)
from ..thresholds import GRADIENT_FLOAT64, LEARNING_RATE, TRAIN_FLOAT64
from .comparison import Difference

if TYPE_CHECKING:
    import paddle
    import torch

    from ..pairing import Table
    from .steps import Side


def compare_dropout(where: str, shared: Mapping[str, Any], earlier: Any = None) -> list[Difference]:
    """[Difference] of what the dropout layers of both sides do.

    Args:
        shared: of `share_dropout`.
        earlier: as of `check_masks`; None: masks are not compared with each other.
    """
    checks = check_dropout(shared)
    if earlier is not None:
        checks += check_masks(shared, earlier)
    return [Difference(where, "dropout", *check, 0.0) for check in checks]


def compare_forward(
    where: str,
    losses: Sequence[float],
    logits: Sequence[np.ndarray | None],
) -> list[Difference]:
    """[Difference] of what a forward pass gives.

    Args:
        losses: two numbers, the port's and the reference's.
        logits: two arrays; None of what is no tensor.
    """
    rows = compare_logits(where, logits[0], logits[1])
    mine, theirs = losses
    return [*rows, compare_losses(where, mine, theirs, after=rows)]


def compare_logits(
    where: str, port: np.ndarray | None, reference: np.ndarray | None
) -> list[Difference]:
    """[Difference] of what two models gave: arrays, or None, of which nothing can be said."""
    if port is None or reference is None:
        return []
    value, reason = relative(port, reference), incomparable(port, reference)
    return [Difference(where, "logits", "", value, TRAIN_FLOAT64, reason)]


def compare_losses(
    where: str, port: float, reference: float, after: Sequence[Difference] = ()
) -> Difference:
    """Difference of two numbers.

    Args:
        after: [Difference] of the logits that they come from, if these were compared.
    """
    difference = _finite(abs(port - reference) / max(abs(reference), 1e-30))
    name = f"{port!r} | {reference!r}"
    hint = "" if after else "The mistake is in the forward pass in train mode, or in the loss"
    row = Difference(where, "loss", name, difference, TRAIN_FLOAT64, hint=hint)
    if not row.agrees and reference and np.isfinite(port / reference):
        row.name += f", {port / reference:.6g} times"
    return row


def compare_rates(
    where: str, port: float | None, reference: float | None, at_use: bool = False
) -> Difference:
    """Difference of two learning rates; None: no step was taken.

    Args:
        at_use: these are the rates with which the optimizers took their steps.
    """
    kind = "learning rate in use" if at_use else "learning rate"
    name = f"{port!r} | {reference!r}"
    if port is None or reference is None:
        if port is reference:
            return Difference(where, kind, "no step", 0.0, 0.0)
        side = "port" if port is None else "reference"
        reason = f"the optimizer of the {side} takes no step"
        return Difference(where, kind, name, np.inf, 0.0, reason)
    return Difference(where, kind, name, abs(port - reference), LEARNING_RATE)


def compare(
    where: str,
    what: str,
    port: Mapping[str, Any],
    reference: Mapping[str, Any],
    lost: Any = None,
    bound: float = GRADIENT_FLOAT64,
    reasons: Mapping[str, tuple[str, str]] | None = None,
) -> list[Difference]:
    """Differences on the scale of the largest value in the same block, less what float64 `lost`.

    A gradient that is zero in theory (the shift of a batch norm that feeds a convolution and
    another batch norm) is pure noise: on its own scale a right port is off by 200 %.

    Args:
        port, reference: {name: array or None}.
        reasons: {name: (reason, hint)} for what one side has not.
    """
    lost, reasons = lost or {}, reasons or {}
    # Each array is looked at once: it may be made for that.
    largest, differences, told, own = {}, {}, {}, {}
    for name in reference:
        a, b = port.get(name), reference[name]
        block = _block_of(name)
        if b is not None:
            own[name] = float(np.abs(b).max(initial=0.0))
            largest[block] = max(largest.get(block, 0.0), own[name])
        if a is None and b is None:
            differences[name] = 0.0
        elif reason := incomparable(a, b):
            differences[name] = np.inf
            told[name] = reasons.get(name, (reason, ""))
        else:
            difference = float(np.abs(a - b).max(initial=0.0)) - lost.get(name, 0.0)
            differences[name] = max(0.0, difference)
    rows = []
    # Gradients come into being from the loss back.
    for name in reversed(differences) if what == "gradient" else differences:
        scale = largest.get(_block_of(name)) or 1.0
        value = _finite(float(differences[name] / scale))
        reason, hint = told.get(name, ("", ""))
        seen = bound * scale / own[name] if own.get(name) else np.inf
        rows.append(Difference(where, what, name, value, bound, reason, hint, seen=seen))
    return rows


def _block_of(name: str) -> str:
    """The layer in which the layer of a parameter lies."""
    return name.rpartition(".")[0].rpartition(".")[0]


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.inf


def compare_gradients(
    where: str,
    port: Mapping[str, Any],
    reference: Mapping[str, Any],
    bound: float = GRADIENT_FLOAT64,
    reasons: Mapping[str, tuple[str, str]] | None = None,
) -> list[Difference]:
    """[Difference] of gradients and of their norm, which comes first if a factor is all."""
    rows = compare(where, "gradient", port, reference, bound=bound, reasons=reasons)
    mine, theirs = (
        float(np.sqrt(sum(float((x**2).sum()) for x in gradients.values() if x is not None)))
        for gradients in (port, reference)
    )
    ratio = mine / theirs if theirs else np.inf
    name = f"{mine:.9g} | {theirs:.9g}, {ratio:.3g} times"
    norm = Difference(where, "gradient norm", name, _finite(abs(ratio - 1)), bound)
    if np.isfinite(ratio) and not norm.agrees:
        scaled = {name: None if x is None else ratio * x for name, x in reference.items()}
        if all(row.agrees for row in compare(where, "gradient", port, scaled, bound=bound)):
            return [norm, *rows]
    return [*rows, norm]


def compare_gradients_now(
    where: str, port_model: paddle.nn.Layer, reference_model: torch.nn.Module, rules: Table
) -> list[Difference]:
    """[Difference] of the gradients that two models hold, none of which is kept."""
    mine = paddle_gradients_now(port_model, rules)
    theirs = torch_gradients_now(reference_model, rules)
    reasons = why_no_gradient(port_model, reference_model, rules)
    return compare(where, "gradient", mine, theirs, reasons=reasons)


def why_no_gradient(
    port_model: paddle.nn.Layer, reference_model: torch.nn.Module, rules: Table
) -> dict[str, tuple[str, str]]:
    """{name: (reason, hint)} of the parameters that only one side has a gradient for."""
    found = {}
    port, reference = paddle_parameters(port_model), torch_parameters(reference_model)
    for name, (source, _) in rules.items():
        source = sources_of(source)[0]
        mine, theirs = port.get(name), reference.get(source)
        if mine is None or theirs is None or (mine.grad is None) == (theirs.grad is None):
            continue
        if mine.grad is None and mine.stop_gradient:
            found[name] = (
                "frozen in the port: its stop_gradient is True",
                "Set its stop_gradient to False (trainable=True in its ParamAttr)",
            )
        elif mine.grad is None:
            found[name] = (
                f"no gradient reaches {layer_of(name) or name} in the port",
                "Something between it and the loss is detached: detach(), numpy(), no_grad(), a "
                "tensor made from values",
            )
        elif not theirs.requires_grad:
            found[name] = (
                "frozen in the reference: its requires_grad is False",
                "Set its stop_gradient to True in the port",
            )
        else:
            found[name] = (
                f"no gradient reaches {layer_of(source) or source} in the reference",
                "The reference detaches something between it and the loss: so must the port",
            )
    return found


def compare_updates(
    where: str, port: Side, reference: Side, rules: Table, before: Mapping[str, np.ndarray]
) -> list[Difference]:
    """[Difference] of what a step changed: parameters, running statistics, optimizer state.

    Args:
        before: `torch_arrays` as they were on both sides.
    """
    trained = set(trained_names(rules, torch_parameters(reference.model)))
    after, after_ref = paddle_arrays_now(port.model), torch_arrays_now(reference.model, rules)
    update = Lazy(before, lambda name: after[name] - before[name])
    update_ref = Lazy(before, lambda name: after_ref[name] - before[name])
    # What is left of an update after it was added to a weight and taken off again.
    lost = {n: 4 * np.finfo(np.float64).eps * np.abs(x).max() for n, x in before.items()}
    found = []
    for what, is_trained in (("update", True), ("running statistic", False)):
        names = [name for name in before if (name in trained) == is_trained]
        mine, theirs = (Lazy(names, x.__getitem__) for x in (update, update_ref))
        rows = compare(where, what, mine, theirs, lost)
        for row in rows:
            if not is_trained and not row.agrees:
                row.hint = _biased_variance(row.name, update, update_ref, before, reference, rules)
                row.cause = "biased_variance" if row.hint else ""
        found += rows
    return found + compare(where, "optimizer state", *optimizer_states(port, reference, rules))


def _biased_variance(
    name: str,
    update: Any,
    update_ref: Any,
    before: Mapping[str, np.ndarray],
    reference: Side,
    rules: Table,
) -> str:
    """What to do, if a running variance differs as the biased variance of a batch does; or "".

    A batch's biased variance is divided by its number of values n, the unbiased one by n - 1. The
    running variance moves by momentum * (variance of the batch - running variance), so the
    variance can be had from its change.
    """
    source = sources_of(rules[name][0])[0]
    norm = dict(reference.model.named_modules()).get(layer_of(source))
    momentum = getattr(norm, "momentum", None)
    if not source.endswith("running_var") or not momentum:
        return ""
    with np.errstate(all="ignore"):
        ratio = (update_ref[name] / momentum + before[name]) / (
            update[name] / momentum + before[name]
        )
        excess = ratio - 1  # 1 / (n - 1), for all channels alike
        n = 1 + 1 / excess.mean()
        alike = np.ptp(excess) <= 1e-3 * abs(excess.mean())
    if not (alike and n >= 1.5 and abs(n - round(n)) < 1e-3 * n):
        return ""
    return (
        "The port's running variance takes the biased variance of the batch (divided by n = "
        f"{round(n)}), PyTorch's the unbiased one (by n - 1). Paddle's batch norm does so on the "
        "CPU. Use a batch norm that corrects it by n / (n - 1): paddle_mv3/norm.py"
    )


def optimizer_settings(port: Side, reference: Side) -> list[str]:
    """["optimizer: momentum 0.0 | 0.9", …]: what can be read off two Sides' optimizers and differs.

    A name that is another in PyTorch is given twice: rho 0.99 | alpha 0.9.
    """
    optimizer, group = port.optimizer, dict(reference.optimizer.param_groups[0])
    if "betas" in group:
        group["beta1"], group["beta2"] = group["betas"]
    values = optimizer_values(optimizer)
    pairs = [(name, values[name], ref, group.get(ref)) for name, _, ref in OPTIMIZER_SETTINGS]
    decay = values.get("weight_decay")
    pairs.append(("weight_decay", decay, "weight_decay", group.get("weight_decay")))
    found = [
        f"optimizer: {name} {a} | {b}"
        if name == name_ref or name == "epsilon"
        else f"optimizer: {name} {a} | {name_ref} {b}"
        for name, a, name_ref, b in pairs
        if a is not None and b is not None and a != b
    ]
    found += [
        f"optimizer: {name} none | {group[name]}"
        for name in ONLY_IN_TORCH
        if group.get(name) and values.get(name) is None
    ]
    found += [
        f"optimizer: {name} {value} | none" for name, value in only_in_paddle(optimizer).items()
    ]
    if values["clipping"]:
        found.append(f"optimizer: gradient clipping {values['clipping']} | None")
    if values["momentum"] is None and group.get("momentum"):
        kinds = type(optimizer).__name__, type(reference.optimizer).__name__
        found.append("optimizer: {} | {} with momentum".format(*kinds))
    mine = _without_group(port.model, optimizer)
    others = {id(p) for g in reference.optimizer.param_groups for p in g["params"]}
    theirs = [p for p in reference.model.parameters() if p.requires_grad and id(p) not in others]
    if len(mine) > len(theirs):
        names = mine[0] if len(mine) == 1 else f"{mine[0]}, …"
        found.append(f"optimizer: {in_no_group(len(mine))} ({names})")
    return found


def in_no_group(count: int) -> str:
    """Of parameters that an optimizer was not given."""
    what = "parameter is" if count == 1 else "parameters are"
    return f"{count} {what} in no group: never updated"


def _without_group(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> list[str]:
    """Names of the parameters of a Layer that are to be trained and that the optimizer has not."""
    given = {id(parameter) for parameter in parameters_given(optimizer)}
    return [
        name for name, p in model.named_parameters() if not p.stop_gradient and id(p) not in given
    ]
