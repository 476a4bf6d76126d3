"""Parameters, statistics, gradients and optimizer states of both sides, as arrays.

All under the port's names and in its layout. `rules` is {Paddle name: (PyTorch name, rule)}, as in
`Pairing.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .paddle_internals import optimizer_accumulators, parameters_of
from .pairing import sources_of, to_port

if TYPE_CHECKING:
    import paddle

    from .pairing import Layout, Table
    from .training.steps import Side


# Accumulators of Paddle's optimizers, and PyTorch's names for them.
OPTIMIZER_STATE = {
    "velocity": "momentum_buffer",  # Momentum
    "momentum": "momentum_buffer",  # RMSProp
    "mean_square": "square_avg",
    "moment1": "exp_avg",
    "moment2": "exp_avg_sq",
}


class Lazy(Mapping):
    """A dictionary of arrays that are made when they are looked at: of a large model, all at once
    would not fit into memory.

    Args:
        names: its keys, in order.
        get: function name -> array or None.
    """

    def __init__(self, names: Iterable[str], get: Callable[[str], np.ndarray | None]) -> None:
        self._names, self._get = dict.fromkeys(names), get

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Held:
    """A model whose tensors stay the same objects, so that they are looked up once.

    To be given in place of the model to the functions of this module, as long as nothing but their
    values changes.

    Args:
        model: a paddle.nn.Layer or a torch.nn.Module.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._state = model.state_dict()
        self._parameters = {}

    def state_dict(self) -> Mapping[str, Any]:
        return self._state

    def named_parameters(self, **which: bool) -> list[tuple[str, Any]]:
        key = tuple(which.items())
        if key not in self._parameters:
            self._parameters[key] = list(self.model.named_parameters(**which))
        return self._parameters[key]


def as_paddle(array: np.ndarray, rule: Layout) -> np.ndarray:
    """One array of the reference in the port's layout; `rule` as in `Pairing.table`."""
    return to_port([array], rule)


def paddle_parameters(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """{name: parameter} of a paddle.nn.Layer, under each of its names."""
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, layer in model.named_sublayers(include_self=True)
        for name, parameter in parameters_of(layer).items()
        if parameter is not None
    }


def torch_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """{name: parameter} of a torch.nn.Module, under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def trained_names(rules: Table, parameters: Collection[str]) -> list[str]:
    """Names of the port whose counterparts are parameters of the reference, not statistics."""
    return [
        name
        for name, (source, _) in rules.items()
        if all(each in parameters for each in sources_of(source))
    ]


def paddle_arrays(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """`paddle_arrays_now` as they are at this moment: copies."""
    return dict(paddle_arrays_now(model))


def paddle_arrays_now(model: paddle.nn.Layer) -> Lazy:
    """{name: float64 array} of the port's parameters and statistics."""
    state = model.state_dict()
    return Lazy(state, lambda name: state[name].numpy().astype(np.float64))


def torch_arrays(model: torch.nn.Module, rules: Table) -> dict[str, np.ndarray]:
    """The reference's parameters and statistics under the port's names, in its layout: copies."""
    return dict(torch_arrays_now(model, rules))


def torch_arrays_now(model: torch.nn.Module, rules: Table) -> Lazy:
    """The same, each as it is when it is looked at."""
    state = model.state_dict()

    def array(name: str) -> np.ndarray:
        source, rule = rules[name]
        arrays = [state[each].detach().cpu().numpy() for each in sources_of(source)]
        return to_port([x.astype(np.float64) for x in arrays], rule)

    return Lazy(rules, array)


def paddle_gradients(model: paddle.nn.Layer, rules: Iterable[str]) -> dict[str, np.ndarray | None]:
    """`paddle_gradients_now` as they are at this moment."""
    return dict(paddle_gradients_now(model, rules))


def paddle_gradients_now(model: paddle.nn.Layer, rules: Iterable[str]) -> Lazy:
    """{name: array or None} of the gradients of the port's parameters, where `rules` names them."""
    parameters = paddle_parameters(model)

    def gradient(name: str) -> np.ndarray | None:
        gradient = parameters[name].grad
        return None if gradient is None else gradient.numpy()

    return Lazy([name for name in rules if name in parameters], gradient)


def torch_gradients(model: torch.nn.Module, rules: Table) -> dict[str, np.ndarray | None]:
    """`torch_gradients_now` as they are at this moment: copies, where those may be views."""
    gradients = torch_gradients_now(model, rules).items()
    return {name: None if x is None else x.copy() for name, x in gradients}


def torch_gradients_now(model: torch.nn.Module, rules: Table) -> Lazy:
    """{name: array or None} of the reference's gradients under the port's names, in its layout."""
    parameters = torch_parameters(model)

    def gradient(name: str) -> np.ndarray | None:
        source, rule = rules[name]
        gradients = [parameters[each].grad for each in sources_of(source)]
        return to_port([None if x is None else x.detach().cpu().numpy() for x in gradients], rule)

    return Lazy(trained_names(rules, parameters), gradient)


def give_gradients_to_port(
    port_model: paddle.nn.Layer, reference_model: torch.nn.Module, rules: Table
) -> None:
    """The reference's gradients for the port, too: of one that is zero in theory, an optimizer
    that divides by its size makes a step of full size out of rounding."""
    theirs = torch_gradients_now(reference_model, rules)
    parameters = paddle_parameters(port_model)
    for name in theirs:
        gradient, mine = theirs[name], parameters[name].grad
        if gradient is not None and mine is not None:
            mine.set_value(np.asarray(gradient.astype(mine.numpy().dtype), order="C"))


def give_gradients_to_reference(
    port_model: paddle.nn.Layer, reference_model: torch.nn.Module, rules: Table
) -> None:
    """The port's gradients for the reference, too, as `give_gradients_to_port` the other way.

    Of parameters that are one and the same on both sides, not of those that are split or joined.
    """
    mine = paddle_gradients_now(port_model, rules)
    parameters = dict(reference_model.named_parameters())
    with torch.no_grad():
        for name in mine:
            source, rule = rules[name]
            gradient = mine[name]
            if source in parameters and gradient is not None:
                # A transposition is its own inverse.
                gradient = np.array(as_paddle(gradient, rule))
                parameters[source].grad.copy_(torch.from_numpy(gradient))


def _paired_states(
    port: Side, reference: Side, rules: Table
) -> Iterator[tuple[str, paddle.Tensor, Any]]:
    """(name, the port's accumulator, PyTorch's state in the port's layout) of each parameter."""
    theirs_by_name = torch_parameters(reference.model)
    accumulators = optimizer_accumulators(port.optimizer) if port.optimizer else {}
    states = getattr(reference.optimizer, "state", {})
    both = [
        (accumulators[paddle_name], torch_name)
        for paddle_name, torch_name in OPTIMIZER_STATE.items()
        if accumulators.get(paddle_name)
    ]
    for name, parameter in port.model.named_parameters():
        if name not in rules:
            continue
        source, rule = rules[name]
        held = [states.get(theirs_by_name.get(each), {}) for each in sources_of(source)]
        for of_port, torch_name in both:
            mine = of_port.get(parameter.name)
            theirs = [state.get(torch_name) for state in held]
            if mine is not None and all(x is not None for x in theirs):
                yield (
                    f"{torch_name} {name}",
                    mine,
                    to_port([x.cpu().numpy() for x in theirs], rule),
                )


def optimizer_states(
    port: Side, reference: Side, rules: Table
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """({name: array} of the port, the same of the reference) of what both optimizers remember.

    Args:
        port, reference: with `model` and `optimizer`, which may be None.
    """
    pairs = list(_paired_states(port, reference, rules))
    mine = {name: accumulator.numpy() for name, accumulator, _ in pairs}
    return mine, {name: np.array(theirs) for name, _, theirs in pairs}


def restart(port: Side, reference: Side, rules: Table) -> None:
    """Puts the reference's weights, statistics and optimizer state into the port.

    Args:
        port, reference: as of `optimizer_states`.
    """
    put(port.model, reference.model, rules)
    for _, mine, theirs in _paired_states(port, reference, rules):
        mine.set_value(np.asarray(theirs, order="C"))


def put(port_model: paddle.nn.Layer, reference_model: torch.nn.Module, rules: Table) -> None:
    """Puts the reference's parameters and statistics into the port, tensor by tensor."""
    state = reference_model.state_dict()
    wanted = port_model.state_dict()
    for name, (source, rule) in rules.items():
        arrays = [state[each].detach().cpu().numpy() for each in sources_of(source)]
        target = wanted[name]
        array = to_port(arrays, rule).astype(str(target.dtype).rpartition(".")[2])
        target.set_value(np.asarray(array, order="C"))
