"""Nested inputs and outputs, as flat lists of named tensors.

Knows neither framework: what a tensor is, is asked of the value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


__all__ = ["flatten", "is_tensor", "rebuild", "to_array"]

SHALLOW = (str, bytes, int, float, complex, bool, type(None))
MOST_LEVELS = 50


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of Paddle or of PyTorch."""
    return hasattr(value, "numpy") and hasattr(value, "shape") and hasattr(value, "detach")


def to_array(tensor: Any) -> np.ndarray:
    """A copy of a tensor as a NumPy array: operations in place change what was recorded else.

    bfloat16, which NumPy has not, becomes float32, which holds it exactly.
    """
    import numpy as np

    if "bfloat16" in str(tensor.dtype):
        tensor = tensor.astype("float32") if hasattr(tensor, "astype") else tensor.float()
    return np.array(tensor.detach().cpu().numpy())


def flatten(value: Any) -> dict[str, Any]:
    """{path: leaf} of a nest of tuples, lists, dictionaries and dataclasses, in order.

    Args:
        value: a tensor, or such a nest of tensors and of anything else.

    Returns:
        {"": value} for a tensor alone; else paths as in Python: "[0]", "['logits']", ".logits".
    """
    found = {}
    _flatten(value, "", found, ())
    return found


def _flatten(value: Any, path: str, found: dict[str, Any], within: tuple) -> None:
    is_new = len(within) < MOST_LEVELS and all(value is not each for each in within)
    children = _children(value) if is_new else None
    if children is None:
        found[path] = value
    else:
        for key, child in children:
            _flatten(child, path + key, found, (*within, value))


def _children(value: Any) -> list[tuple[str, Any]] | None:
    """[(key, child)] of what can be looked into, or None."""
    if is_tensor(value) or isinstance(value, SHALLOW):
        return None
    if isinstance(value, Mapping):  # a ModelOutput of transformers too
        return [(f"[{key!r}]", child) for key, child in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", getattr(value, name)) for name in value._fields]
    if isinstance(value, (tuple, list)):
        return [(f"[{i}]", child) for i, child in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)]
    return None


def rebuild(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same nest with `function(leaf)` for each leaf that is no plain value.

    Args:
        value: tuples, lists and dictionaries of leaves.
    """
    if isinstance(value, Mapping):
        return {key: rebuild(child, function) for key, child in value.items()}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(rebuild(child, function) for child in value)
    return value if isinstance(value, SHALLOW) else function(value)
