"""Default values of arguments: what both sides do where nothing is said."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["defaults_of_both"]


def defaults_of_both(
    port: Callable, reference: Callable, renamed: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Any, Any]]:
    """(argument, the port's default, the reference's) of each argument that has one on both sides.

    Members of an enumeration are given by their names, the same in Pillow and torchvision.

    Args:
        renamed: {argument of the port: of the reference}: these alone.
    """
    theirs = inspect.signature(reference).parameters
    for name, argument in inspect.signature(port).parameters.items():
        other = name if renamed is None else renamed.get(name)
        sides = [each.default for each in (argument, theirs.get(other or "")) if each is not None]
        if len(sides) == 2 and inspect.Parameter.empty not in sides:
            yield name, _plain(sides[0]), _plain(sides[1])


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name.lower()
    return list(value) if isinstance(value, tuple) else value
