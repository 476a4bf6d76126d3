"""Training steps of two models side by side, in float64, both from one state.

What only training shows: gradients, updates, batch norm's running statistics, dropout, the
learning rate at the moment of its use.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import paddle
import torch
from reprod_log import ReprodLogger

from ..layers import incomparable, match, relative
from ..locate import locate_backward
from ..paddle_internals import (
    OPTIMIZER_SETTINGS,
    optimizer_accumulators,
    optimizer_values,
    parameters_given,
    parameters_of,
)
from ..pairing import layer_of, sources_of, to_port
from ..settings import different_settings
from ..thresholds import GRADIENT_FLOAT64, LEARNING_RATE, TRAIN_FLOAT64
from .comparison import Comparison, Difference

# Accumulators of Paddle's optimizers, and PyTorch's names for them.
OPTIMIZER_STATE = {
    "velocity": "momentum_buffer",  # Momentum
    "momentum": "momentum_buffer",  # RMSProp
    "mean_square": "square_avg",
    "moment1": "exp_avg",
    "moment2": "exp_avg_sq",
}


@dataclass
class Side:
    """One framework's half of a training.

    `loop` is a generator that yields (loss, learning rate) when the gradients of an iteration are
    there, and None when they have been used.
    """

    model: object
    criterion: object = None
    optimizer: object = None
    scheduler: object = None
    loop: object = None


def record_losses(side, steps):
    """A ReprodLogger with `loss_i` and `lr_i` of `steps` iterations."""
    log = ReprodLogger()
    for i in range(steps):
        loss, lr = next(side.loop)
        log.add(f"loss_{i}", np.array(loss.numpy()))
        log.add(f"lr_{i}", np.array([lr]))
        next(side.loop)
    return log


def compare_training(port, reference, rules, steps):
    """Runs `steps` iterations of both sides in turn.

    Each iteration of the port starts from the reference's weights, statistics and optimizer
    state, so rounding cannot build up: what differs was made in that very iteration. Dropout masks
    are drawn by the port and used by both.

    Args:
        port, reference: Side, in float64.
        rules: {Paddle name: (PyTorch name, "copy" | "rename" | "transpose")}.
        steps: iterations.

    Returns:
        Comparison.
    """
    training = Comparison(optimizer_settings(port, reference))
    scheduler = different_settings(port.scheduler, reference.scheduler)
    training.settings += [f"schedule: {setting}" for setting in scheduler]
    found = training.differences
    dropouts = share_dropout(port.model, reference.model)
    outputs = _listen_to_outputs(port.model, reference.model)
    for i in range(steps):
        where = f"iteration {i}"
        before = torch_arrays(reference.model, rules)
        (loss, lr), (loss_ref, lr_ref) = next(port.loop), next(reference.loop)
        found += [Difference(where, "dropout", *check, 0.0) for check in check_dropout(dropouts)]
        found.append(compare_rates(where, lr, lr_ref))
        logits = compare_logits(where, outputs.get("port"), outputs.get("reference"))
        found += logits
        found.append(compare_losses(where, float(loss), float(loss_ref), after=logits))
        mine, theirs = (
            paddle_gradients_now(port.model, rules),
            torch_gradients_now(reference.model, rules),
        )
        reasons = why_no_gradient(port.model, reference.model, rules)
        found += compare(where, "gradient", mine, theirs, reasons=reasons)

        with rates_at_use(port.optimizer, reference.optimizer) as used:
            next(port.loop)
            next(reference.loop)
        found.append(compare_rates(where, used.get("port"), used.get("reference"), at_use=True))
        found += compare_updates(where, port, reference, rules, before)
        restart(port, reference, rules)
    return training


def _listen_to_outputs(port_model, reference_model):
    """A dictionary that holds what each model has given last, if that is a tensor."""
    outputs = {}

    def keep(side):
        def hook(model, inputs, output):
            if isinstance(output, (paddle.Tensor, torch.Tensor)):
                outputs[side] = output.detach().cpu().numpy()

        return hook

    port_model.register_forward_post_hook(keep("port"))
    reference_model.register_forward_hook(keep("reference"))
    return outputs


def compare_logits(where, port, reference):
    """[Difference] of what two models gave: arrays, or None, of which nothing can be said."""
    if port is None or reference is None:
        return []
    value, reason = relative(port, reference), incomparable(port, reference)
    return [Difference(where, "logits", "", value, TRAIN_FLOAT64, reason)]


def compare_losses(where, port, reference, after=()):
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


def compare_rates(where, port, reference, at_use=False):
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


@contextlib.contextmanager
def rates_at_use(port_optimizer, reference_optimizer):
    """Within, the learning rate with which each optimizer takes a step is noted.

    A rate that was read before or after may be another: a loop may set it in between.

    Yields:
        {"port": float, "reference": float}, filled as steps are taken.
    """
    used = {}
    take_step = port_optimizer.step

    def step(*args, **kwargs):
        used["port"] = float(port_optimizer.get_lr())
        return take_step(*args, **kwargs)

    def note(optimizer, *_):
        used["reference"] = float(optimizer.param_groups[0]["lr"])

    hook = reference_optimizer.register_step_pre_hook(note)
    port_optimizer.step = step
    try:
        yield used
    finally:
        del port_optimizer.step
        hook.remove()


def why_no_gradient(port_model, reference_model, rules):
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


def compare_updates(where, port, reference, rules, before):
    """[Difference] of what a step changed: parameters, running statistics, optimizer state.

    Args:
        before: `torch_arrays` as they were on both sides.
    """
    trained = set(trained_names(rules, torch_parameters(reference.model)))
    after, after_ref = paddle_arrays_now(port.model), torch_arrays_now(reference.model, rules)
    update, update_ref = (
        Lazy(before, lambda name, x=x: x[name] - before[name]) for x in (after, after_ref)
    )
    # What is left of an update after it was added to a weight and taken off again.
    lost = {n: 4 * np.finfo(np.float64).eps * np.abs(x).max() for n, x in before.items()}
    found = []
    for what, is_trained in (("update", True), ("running statistic", False)):
        names = [name for name in before if (name in trained) == is_trained]
        sides = (Lazy(names, x.__getitem__) for x in (update, update_ref))
        rows = compare(where, what, *sides, lost)
        for row in rows:
            if not is_trained and not row.agrees:
                row.hint = _biased_variance(row.name, update, update_ref, before, reference, rules)
                row.cause = "biased_variance" if row.hint else ""
        found += rows
    return found + compare(where, "optimizer state", *optimizer_states(port, reference, rules))


def _biased_variance(name, update, update_ref, before, reference, rules):
    """What to do, if a running variance differs as the biased variance of a batch does; or "".

    A batch's biased variance is divided by its number of values n, the unbiased one by n - 1. The
    running variance moves by momentum * (variance of the batch - running variance), so the
    variance can be had from its change.
    """
    source, _ = rules[name]
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


def _finite(value):
    return value if np.isfinite(value) else np.inf


def compare(where, what, port, reference, lost=None, bound=GRADIENT_FLOAT64, reasons=None):
    """Differences on the scale of the largest value in the same block, less what float64 `lost`.

    A gradient that is zero in theory (the shift of a batch norm that feeds a convolution and
    another batch norm) is pure noise: on its own scale a right port is off by 200 %.

    Args:
        port, reference: {name: array or None}.
        reasons: {name: (reason, hint)} for what one side has not.
    """
    largest = {
        name: np.abs(x).max(initial=0.0) if x is not None else 0.0 for name, x in reference.items()
    }
    blocks = {}
    for name, value in largest.items():
        block = name.rpartition(".")[0].rpartition(".")[0]
        blocks[block] = max(blocks.get(block, 0.0), value)
    rows = []
    # Gradients come into being from the loss back.
    order = reversed(list(reference)) if what == "gradient" else reference
    for name in order:
        a, b = port.get(name), reference[name]
        reason, hint = "", ""
        if a is None and b is None:
            difference = 0.0
        elif reason := incomparable(a, b):
            difference = np.inf
            reason, hint = (reasons or {}).get(name, (reason, ""))
        else:
            scale = blocks[name.rpartition(".")[0].rpartition(".")[0]]
            difference = np.abs(a - b).max(initial=0.0)
            difference = np.maximum(0.0, difference - (lost or {}).get(name, 0.0)) / (scale or 1.0)
        rows.append(Difference(where, what, name, _finite(float(difference)), bound, reason, hint))
    return rows


def compare_gradients(where, port, reference, bound=GRADIENT_FLOAT64, reasons=None):
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


def as_paddle(array, rule):
    """One array of the reference in the port's layout; `rule` as in `Pairing.table`."""
    return to_port([array], rule)


class Lazy(Mapping):
    """A dictionary of arrays that are made when they are looked at: of a large model, all at once
    would not fit into memory.

    Args:
        names: its keys, in order.
        get: function name -> array or None.
    """

    def __init__(self, names, get):
        self._names, self._get = dict.fromkeys(names), get

    def __getitem__(self, name):
        if name not in self._names:
            raise KeyError(name)
        return self._get(name)

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def paddle_parameters(model):
    """{name: parameter} of a paddle.nn.Layer, under each of its names."""
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, layer in model.named_sublayers(include_self=True)
        for name, parameter in parameters_of(layer).items()
        if parameter is not None
    }


def torch_parameters(model):
    """{name: parameter} of a torch.nn.Module, under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def paddle_arrays_now(model):
    """{name: float64 array} of the port's parameters and statistics."""
    state = model.state_dict()
    return Lazy(state, lambda name: state[name].numpy().astype(np.float64))


def torch_arrays(model, rules):
    """The reference's parameters and statistics under the port's names, in its layout: copies."""
    return dict(torch_arrays_now(model, rules))


def torch_arrays_now(model, rules):
    """The same, each as it is when it is looked at."""
    state = model.state_dict()

    def array(name):
        source, rule = rules[name]
        arrays = [state[each].detach().cpu().numpy() for each in sources_of(source)]
        return to_port([x.astype(np.float64) for x in arrays], rule)

    return Lazy(rules, array)


def paddle_gradients_now(model, rules):
    parameters = paddle_parameters(model)

    def gradient(name):
        gradient = parameters[name].grad
        return None if gradient is None else gradient.numpy()

    return Lazy([name for name in rules if name in parameters], gradient)


def torch_gradients_now(model, rules):
    parameters = torch_parameters(model)

    def gradient(name):
        source, rule = rules[name]
        gradients = [parameters[each].grad for each in sources_of(source)]
        return to_port([None if x is None else x.detach().cpu().numpy() for x in gradients], rule)

    return Lazy(trained_names(rules, parameters), gradient)


def paddle_arrays(model):
    """`paddle_arrays_now` as they are at this moment: copies."""
    return dict(paddle_arrays_now(model))


def paddle_gradients(model, rules):
    """`paddle_gradients_now` as they are at this moment."""
    return dict(paddle_gradients_now(model, rules))


def torch_gradients(model, rules):
    """`torch_gradients_now` as they are at this moment."""
    return dict(torch_gradients_now(model, rules))


def trained_names(rules, parameters):
    """Names of the port whose counterparts are parameters of the reference, not statistics."""
    return [
        name
        for name, (source, _) in rules.items()
        if all(each in parameters for each in sources_of(source))
    ]


def _paired_states(port, reference, rules):
    """(name, the port's accumulator, PyTorch's state in the port's layout) of each parameter."""
    theirs_by_name = torch_parameters(reference.model)
    accumulators = optimizer_accumulators(port.optimizer) if port.optimizer else {}
    states = getattr(reference.optimizer, "state", {})
    for name, parameter in port.model.named_parameters():
        if name not in rules:
            continue
        source, rule = rules[name]
        held = [states.get(theirs_by_name.get(each), {}) for each in sources_of(source)]
        for paddle_name, torch_name in OPTIMIZER_STATE.items():
            mine = accumulators.get(paddle_name, {}).get(parameter.name)
            theirs = [state.get(torch_name) for state in held]
            if mine is not None and all(x is not None for x in theirs):
                yield (
                    f"{torch_name} {name}",
                    mine,
                    to_port([x.cpu().numpy() for x in theirs], rule),
                )


def optimizer_states(port, reference, rules):
    """({name: array} of the port, the same of the reference) of what both optimizers remember."""
    pairs = list(_paired_states(port, reference, rules))
    mine = {name: accumulator.numpy() for name, accumulator, _ in pairs}
    return mine, {name: np.array(theirs) for name, _, theirs in pairs}


def restart(port, reference, rules):
    """Puts the reference's weights, statistics and optimizer state into the port."""
    put(port.model, reference.model, rules)
    for _, mine, theirs in _paired_states(port, reference, rules):
        mine.set_value(np.asarray(theirs, order="C"))


def put(port_model, reference_model, rules):
    """Puts the reference's parameters and statistics into the port, tensor by tensor."""
    state = reference_model.state_dict()
    wanted = port_model.state_dict()
    for name, (source, rule) in rules.items():
        arrays = [state[each].detach().cpu().numpy() for each in sources_of(source)]
        target = wanted[name]
        array = to_port(arrays, rule).astype(str(target.dtype).rpartition(".")[2])
        target.set_value(np.asarray(array, order="C"))


def share_dropout(port_model, reference_model):
    """Makes each Dropout of the reference use the mask that the port's has drawn.

    Returns:
        {name: (PyTorch module, {"shape" of the input, "factor" by which each value was multiplied};
        empty until the port's layer is called)}
    """
    port = {
        name: layer
        for name, layer in port_model.named_sublayers()
        if isinstance(layer, paddle.nn.Dropout)
    }
    reference = {
        name: module
        for name, module in reference_model.named_modules()
        if isinstance(module, torch.nn.Dropout)
    }
    pairs = {other: name for name, other in match(port, reference).items()}
    shared = {}
    for other, module in reference.items():
        seen = {}
        if other in pairs:
            _see_masks(port[pairs[other]], seen)

        def forward(x, module=module, seen=seen):
            if not module.training or "factor" not in seen or seen["factor"].shape != x.shape:
                return x
            mask = torch.from_numpy(seen["factor"] != 0).to(x)
            # Paddle subtracts in float32.
            return x * mask / float(np.float32(1) - np.float32(module.p))

        module.forward = forward
        shared[other] = module, seen
    return shared


def _see_masks(layer, seen):
    """Has a Dropout of the port note by what it multiplies, seen on ones: what goes in may be 0."""
    original = layer.forward

    def forward(x):
        with paddle.no_grad():
            factor = original(paddle.ones_like(x))
        seen["shape"], seen["factor"] = tuple(x.shape), factor.numpy()
        return x * factor if factor.shape == x.shape else original(x)

    layer.forward = forward


def check_dropout(shared):
    """[(what, 0 or inf)]: whether rate and scaling of each dropout are the reference's.

    The share of zeros has to be its p to 5 sigma, what is kept has to be scaled by 1 / (1 - p).
    """
    found = []
    for name, (module, seen) in shared.items():
        if "factor" not in seen:
            found.append((f"{name}: the port has none, or does not call it", np.inf))
            continue
        factor = seen["factor"]
        if seen["shape"] != factor.shape:
            text = f"{name}: takes shape {seen['shape']} and gives {factor.shape}"
            found.append((text, np.inf))
            continue
        kept = factor != 0
        sigma = np.sqrt(kept.size * module.p * (1 - module.p))
        agrees = abs((~kept).sum() - kept.size * module.p) <= 5 * sigma
        share = 1 - kept.mean()
        found.append((f"{name}: drops {share:.3f} | {module.p:.3g}", 0.0 if agrees else np.inf))
        scale = float(np.median(factor[kept])) if kept.any() else 0.0
        agrees = abs(scale * (1 - module.p) - 1) < 1e-6
        text = f"{name}: scales by {scale:.6g} | {1 / (1 - module.p):.6g}"
        found.append((text, 0.0 if agrees else np.inf))
    return found


def check_masks(shared, earlier):
    """[(what, 0 or inf)]: whether the mask of a step's first image is drawn for it alone.

    Args:
        shared: of `share_dropout`.
        earlier: {name: [what is kept]} of the steps before; this step's is added.
    """
    found = []
    for name, (module, seen) in shared.items():
        if "factor" not in seen or seen["shape"] != seen["factor"].shape:
            continue  # check_dropout says so
        first, *others = (factor != 0 for factor in seen["factor"])
        before = earlier.setdefault(name, [])
        for what, masks in (("another image's", others), ("an earlier step's", before)):
            same = any(_same_mask(first, mask, module.p) for mask in masks)
            text = f"{name}: an image's mask is {what}" if same else f"{name}: not {what} mask"
            found.append((text, np.inf if same else 0.0))
        before.append(first)
    return found


def _same_mask(one, other, rate):
    """Whether two masks agree, and not by chance."""
    if one.shape != other.shape:
        return False
    chance = (rate**2 + (1 - rate) ** 2) ** one.size
    return chance < 1e-9 and np.array_equal(one, other)


def optimizer_settings(port, reference):
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


def in_no_group(count):
    """Of parameters that an optimizer was not given."""
    what = "parameter is" if count == 1 else "parameters are"
    return f"{count} {what} in no group: never updated"


def _without_group(model, optimizer):
    """Names of the parameters of a Layer that are to be trained and that the optimizer has not."""
    given = {id(parameter) for parameter in parameters_given(optimizer)}
    return [
        name for name, p in model.named_parameters() if not p.stop_gradient and id(p) not in given
    ]


def locate_training(port, reference, path, layer_map=None):
    """In which layer two trainings differ, in the first forward and backward pass: Compared.

    Args:
        port, reference: fresh Sides, as for `compare_training`.
    """
    reference.model.zero_grad()
    port.model.clear_gradients()
    return locate_backward(
        port.model,
        reference.model,
        lambda model: next(port.loop),
        lambda model: next(reference.loop),
        path,
        layer_map,
    )
