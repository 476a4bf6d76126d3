"""Training steps of two models side by side, in float64, both from one state.

What only training shows: gradients, updates, batch norm's running statistics, dropout, the
learning rate at the moment of its use.
"""

from dataclasses import dataclass

import numpy as np
import paddle
import torch
from reprod_log import ReprodLogger

from .files import whole_file
from .thresholds import GRADIENT_FLOAT64, LEARNING_RATE, TRAIN_FLOAT64
from .trace import different_settings, locate_backward, match

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


@dataclass
class Difference:
    """One quantity at one moment. `value` is relative to its scale; agrees up to `bound`."""

    where: str  # "iteration 0"
    kind: str  # one of ADVICE
    name: str
    value: float
    bound: float

    @property
    def agrees(self):
        return self.value <= self.bound


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
    training = Comparison(optimizer_settings(port.optimizer, reference.optimizer))
    scheduler = different_settings(port.scheduler, reference.scheduler)
    training.settings += [f"schedule: {line}" for line in scheduler]
    found = training.differences
    dropouts = share_dropout(port.model, reference.model)
    for i in range(steps):
        where = f"iteration {i}"
        before = torch_arrays(reference.model, rules)
        (loss, lr), (loss_ref, lr_ref) = next(port.loop), next(reference.loop)
        loss, loss_ref = float(loss), float(loss_ref)
        found += [Difference(where, "dropout", *check, 0.0) for check in check_dropout(dropouts)]
        name = f"{lr!r} | {lr_ref!r}"
        found.append(Difference(where, "learning rate", name, abs(lr - lr_ref), LEARNING_RATE))
        difference = abs(loss - loss_ref) / max(abs(loss_ref), 1e-30)
        name = f"{loss!r} | {loss_ref!r}"
        found.append(Difference(where, "loss", name, _finite(difference), TRAIN_FLOAT64))
        gradients = torch_gradients(reference.model, rules)
        found += compare(where, "gradient", paddle_gradients(port.model, rules), gradients)

        next(port.loop)
        next(reference.loop)
        found += compare_updates(where, port, reference, rules, before)
        restart(port, reference, rules)
    return training


def compare_updates(where, port, reference, rules, before):
    """[Difference] of what a step changed: parameters, running statistics, optimizer state.

    Args:
        before: `torch_arrays` as they were on both sides.
    """
    parameters = dict(reference.model.named_parameters())
    trained = {name for name, (source, _) in rules.items() if source in parameters}
    after, after_ref = paddle_arrays(port.model), torch_arrays(reference.model, rules)
    update, update_ref = ({n: x[n] - before[n] for n in before} for x in (after, after_ref))
    # What is left of an update after it was added to a weight and taken off again.
    lost = {n: 4 * np.finfo(np.float64).eps * np.abs(x).max() for n, x in before.items()}
    found = []
    for what, is_trained in (("update", True), ("running statistic", False)):
        sides = (
            {n: x for n, x in u.items() if (n in trained) == is_trained}
            for u in (update, update_ref)
        )
        found += compare(where, what, *sides, lost)
    return found + compare(where, "optimizer state", *optimizer_states(port, reference, rules))


def _finite(value):
    return value if np.isfinite(value) else np.inf


def compare(where, what, port, reference, lost=None, bound=GRADIENT_FLOAT64):
    """Differences on the scale of the largest value in the same block, less what float64 `lost`.

    A gradient that is zero in theory (the shift of a batch norm that feeds a convolution and
    another batch norm) is pure noise: on its own scale a right port is off by 200 %.
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
    order = reversed(reference) if what == "gradient" else reference
    for name in order:
        a, b = port.get(name), reference[name]
        if a is None or b is None:
            difference = 0.0 if a is b else np.inf
        else:
            scale = blocks[name.rpartition(".")[0].rpartition(".")[0]]
            difference = np.abs(a - b).max(initial=0.0)
            difference = np.maximum(0.0, difference - (lost or {}).get(name, 0.0)) / (scale or 1.0)
        rows.append(Difference(where, what, name, _finite(float(difference)), bound))
    return rows


def compare_gradients(where, port, reference, bound=GRADIENT_FLOAT64):
    """[Difference] of gradients and of their norm, which comes first if a factor is all."""
    rows = compare(where, "gradient", port, reference, bound=bound)
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
    return array.T if rule == "transpose" else array


def paddle_arrays(model):
    return {name: x.numpy().astype(np.float64) for name, x in model.state_dict().items()}


def torch_arrays(model, rules):
    """The reference's parameters and statistics under the port's names, in its layout."""
    state = model.state_dict()
    return {
        name: as_paddle(state[source].detach().cpu().numpy().astype(np.float64), rule)
        for name, (source, rule) in rules.items()
    }


def paddle_gradients(model, rules):
    parameters = dict(model.named_parameters())
    return {
        name: None if parameters[name].grad is None else parameters[name].grad.numpy()
        for name in rules
        if name in parameters
    }


def torch_gradients(model, rules):
    parameters = dict(model.named_parameters())
    return {
        name: None
        if parameters[source].grad is None
        else as_paddle(parameters[source].grad.cpu().numpy(), rule)
        for name, (source, rule) in rules.items()
        if source in parameters
    }


def _paired_states(port, reference, rules):
    """(name, the port's accumulator, PyTorch's state in the port's layout) of each parameter."""
    torch_parameters = dict(reference.model.named_parameters())
    accumulators = getattr(port.optimizer, "_accumulators", {})
    states = getattr(reference.optimizer, "state", {})
    for name, parameter in port.model.named_parameters():
        source, rule = rules[name]
        held = states.get(torch_parameters.get(source), {})
        for paddle_name, torch_name in OPTIMIZER_STATE.items():
            mine = accumulators.get(paddle_name, {}).get(parameter.name)
            theirs = held.get(torch_name)
            if mine is not None and theirs is not None:
                yield f"{torch_name} {name}", mine, as_paddle(theirs.cpu().numpy(), rule)


def optimizer_states(port, reference, rules):
    """({name: array} of the port, the same of the reference) of what both optimizers remember."""
    pairs = list(_paired_states(port, reference, rules))
    mine = {name: accumulator.numpy() for name, accumulator, _ in pairs}
    return mine, {name: np.array(theirs) for name, _, theirs in pairs}


def restart(port, reference, rules):
    """Puts the reference's weights, statistics and optimizer state into the port."""
    dtype = next(iter(port.model.parameters())).numpy().dtype
    state = torch_arrays(reference.model, rules)
    port.model.set_state_dict({name: array.astype(dtype) for name, array in state.items()})
    for _, mine, theirs in _paired_states(port, reference, rules):
        mine.set_value(np.ascontiguousarray(theirs))


def share_dropout(port_model, reference_model):
    """Makes each Dropout of the reference use the mask that the port's has drawn.

    Returns:
        {name: (PyTorch module, {"input", "output"} of the port's layer, empty until it is called)}
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

        def keep(layer, inputs, output, seen=seen):
            seen["input"], seen["output"] = inputs[0].numpy(), output.numpy()

        def forward(x, module=module, seen=seen):
            if not module.training or "input" not in seen or seen["output"].shape != x.shape:
                return x
            # Where the input is 0 the mask cannot be seen, nor does it matter.
            mask = torch.from_numpy(seen["output"] != 0).to(x)
            # Paddle subtracts in float32.
            return x * mask / float(np.float32(1) - np.float32(module.p))

        if other in pairs:
            port[pairs[other]].register_forward_post_hook(keep)
        module.forward = forward
        shared[other] = module, seen
    return shared


def check_dropout(shared):
    """[(what, 0 or inf)]: whether rate and scaling of each dropout are the reference's.

    The share of zeros has to be its p to 5 sigma, what is kept has to be scaled by 1 / (1 - p).
    """
    found = []
    for name, (module, seen) in shared.items():
        if "input" not in seen:
            found.append((f"{name}: the port has none, or does not call it", np.inf))
            continue
        alive = seen["input"] != 0
        before, after = seen["input"][alive], seen["output"][alive]
        kept = after != 0
        sigma = np.sqrt(kept.size * module.p * (1 - module.p))
        agrees = abs((~kept).sum() - kept.size * module.p) <= 5 * sigma
        share = 1 - kept.mean()
        found.append((f"{name}: drops {share:.3f} | {module.p:.3g}", 0.0 if agrees else np.inf))
        scale = float(np.median(after[kept] / before[kept]))
        agrees = abs(scale * (1 - module.p) - 1) < 1e-6
        text = f"{name}: scales by {scale:.6g} | {1 / (1 - module.p):.6g}"
        found.append((text, 0.0 if agrees else np.inf))
    return found


def check_masks(shared, earlier):
    """[(what, 0 or inf)]: whether the mask of a step's first image is drawn for it alone.

    Args:
        shared: of `share_dropout`.
        earlier: {name: [(where it can be seen, what is kept)]} of the steps before; this step's is
            added.
    """
    found = []
    for name, (module, seen) in shared.items():
        if "input" not in seen:
            continue  # check_dropout says so
        first, *others = ((x != 0, y != 0) for x, y in zip(seen["input"], seen["output"]))
        before = earlier.setdefault(name, [])
        for what, masks in (("another image's", others), ("an earlier step's", before)):
            same = any(_same_mask(first, mask, module.p) for mask in masks)
            text = f"{name}: an image's mask is {what}" if same else f"{name}: not {what} mask"
            found.append((text, np.inf if same else 0.0))
        before.append(first)
    return found


def _same_mask(one, other, rate):
    """Whether two masks agree where both can be seen, and not by chance."""
    visible = one[0] & other[0]
    chance = (rate**2 + (1 - rate) ** 2) ** visible.sum()
    return chance < 1e-9 and np.array_equal(one[1][visible], other[1][visible])


class Comparison:
    """What was compared of two trainings, in the order in which things happen."""

    def __init__(self, settings=()):
        self.settings = list(settings)  # lines: what can be read off and differs
        self.differences = []  # [Difference]

    def write(self, path):
        """One line for each quantity at each moment."""
        with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write("# float64; relative to the largest value in the same block\n")
            for row in self.differences:
                mark = "" if row.agrees else f"  <-- differs (bound {row.bound:g})"
                file.write(f"{row.where}  {row.kind:17}  {row.value:.1e}  {row.name}{mark}\n")

    def findings(self, what="{count} iterations, each from one state"):
        """(whether all agrees, lines) for `DiffHelper.report`.

        Args:
            what: was compared; {count} stands for the number of moments.
        """
        first = next((row for row in self.differences if not row.agrees), None)
        if first is None:
            worst = {}
            for row in self.differences:
                if row.kind not in worst or row.value > worst[row.kind].value:
                    worst[row.kind] = row
            shown = ", ".join(f"{kind} {row.value:.0e}" for kind, row in worst.items())
            what = what.format(count=len({row.where for row in self.differences}))
            return True, [f"float64, {what}, largest: {shown}"]
        lines = [f"Differs (port | reference): {line}" for line in self.settings]
        return False, lines + self._name(first)

    def _name(self, first):
        same = [r for r in self.differences if (r.where, r.kind) == (first.where, first.kind)]
        count = sum(not row.agrees for row in same)
        also = f" ({count} of {len(same)} differ)" if len(same) > 1 else ""
        by = f": differs by {first.value:.1e}" if np.isfinite(first.value) else ""
        lines = [f"First to part: {first.where}, {first.kind} {first.name}{by}{also}"]
        norm = next(
            (r for r in self.differences if (r.where, r.kind) == (first.where, "gradient norm")),
            None,
        )
        if norm and first.kind == "gradient":
            lines.append(f"Norm of all gradients (port | reference): {norm.name}")
        before = self.differences[: self.differences.index(same[0])]
        kinds = dict.fromkeys(r.kind for r in before if r.where == first.where)
        if kinds:
            lines.append(f"In {first.where} these agree: {', '.join(kinds)}")
        if first.where != self.differences[0].where and first.kind == "gradient":
            lines.append(f"Before {first.where} all agrees: are the gradients cleared?")
        lines.append(f"The mistake is in {ADVICE[first.kind]}")
        return lines


ADVICE = {
    "dropout": "dropout: its rate, its scaling, its seed, or that it is not called in train mode",
    "learning rate": "the schedule: its constants, and when it is stepped",
    "loss": "the forward pass in train mode (batch norm, dropout), then the loss",
    "gradient": "the backward pass: something detached, or gradients that were not cleared; of "
    "several processes, not averaged",
    "update": "the optimizer: its arithmetic or settings, weight decay, clipping, the parameters "
    "it was given",
    "optimizer state": "the optimizer: what it keeps from step to step, and in which units",
    "running statistic": "batch norm: momentum (Paddle's is 1 minus PyTorch's), frozen statistics",
    "weight decay": "the parameter groups: which parameters have a weight decay of their own",
    "free run": "the optimizer in float32: from one state, in float64, its steps agree",
    "clipped gradient": "gradient clipping: one norm over all gradients, then one factor",
    "moving average": "the moving average of the weights: decay, first update, statistics",
    "loop": "the loop: how many batches an epoch has (drop_last), how many epochs there are",
    "log": "what the loop adds up for its lines, or when it writes them",
    "evaluation": "the evaluation: its images, its mode, how it adds up; or the eval-mode forward",
    "between steps": "what the loop does between two steps (evaluation, saving, loading)",
    "order": "the sampler: its epoch (set_epoch), its seed, its share, the size of a batch",
    "images": "the data: what is drawn for an image, or what is done with it (step 02); of several "
    "processes, which images each gets",
    "labels": "the labels: class indices, or the shares that mixing gives (step 02)",
    "loss scale": "the gradient scaler: when it is updated, after which gradients it halves",
    "logits": "the forward pass in train mode: the mode, batch norm, dropout",
    "ranks": "how ranks are kept the same: DataParallel, its gradients, what is drawn on each rank",
    "gradient norm": "a factor of all gradients: clipping, the loss scale; of several processes, "
    "their average",
}


def optimizer_settings(port, reference):
    """["momentum 0.0 | 0.9", …]: what can be read off two optimizers and differs."""
    group = reference.param_groups[0]
    parameters, grouped = [], False
    for item in port._parameter_list:
        grouped = isinstance(item, dict)
        parameters += item["params"] if grouped else [item]
    decays = getattr(port, "_regularization_method", "") == "l2_decay"
    decay = port._regularization_coeff if decays else 0
    pairs = [
        ("momentum", getattr(port, "_momentum", None), group.get("momentum")),
        ("nesterov", getattr(port, "_use_nesterov", None), group.get("nesterov")),
        ("weight_decay", None if grouped else decay, group.get("weight_decay")),
        ("epsilon", getattr(port, "_epsilon", None), group.get("eps")),
        ("gradient clipping", getattr(port, "_grad_clip", None), None),
    ]
    found = [
        f"optimizer: {name} {a} | {b}"
        for name, a, b in pairs
        if (a is not None and b is not None and a != b) or (name == "gradient clipping" and a)
    ]
    if getattr(port, "_momentum", None) is None and group.get("momentum"):
        found.append(f"optimizer: {type(port).__name__} | {type(reference).__name__} with momentum")
    count_ref = sum(len(g["params"]) for g in reference.param_groups)
    trained = [p for p in parameters if not p.stop_gradient]
    if len(trained) != count_ref:
        found.append(
            f"optimizer: {len(trained)} of {len(parameters)} parameters trained | {count_ref}"
        )
    return found


def locate_training(port, reference, path, layer_map=None):
    """Lines that say in which layer two trainings part, in the first forward and backward pass.

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
