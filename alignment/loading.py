"""Models and functions of the user's own code, by name: "package.module:Net", "port.py:Net"."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .files import CannotRun, missing, place_of, reason_of, require_file, shown
from .torch_import import import_torchvision

__all__ = ["factory", "load", "read_argument"]


def load(text: str, flag: str) -> Any:
    """What a text names: "MODULE:NAME" or "FILE.py:NAME"; a name may have dots in it.

    Args:
        flag: of the command line, for errors.

    Raises:
        CannotRun: there is no such module, file or name, or importing it fails.
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise CannotRun(
            f"{flag} {text!a:.200}: wanted MODULE:NAME or FILE.py:NAME, as "
            "torchvision.models:resnet18 or port.py:Net"
        )
    if os.sep in where and not where.endswith(".py"):
        raise CannotRun(
            f"{flag} {text!a:.200}: {where} is neither a module nor a file that ends in .py"
        )
    found = _import(where, flag, text)
    for step in name.split("."):
        if not hasattr(found, step):
            near = difflib.get_close_matches(step, dir(found), n=1)
            hint = f". Is {near[0]} meant?" if near else ""
            raise CannotRun(f"{flag} {text!a:.200}: {where} has no {step}{hint}")
        found = getattr(found, step)
    return found


def _import(where: str, flag: str, text: str) -> Any:
    for attempt in (1, 2):
        try:
            with _own_argv(where):
                return _import_file(where) if where.endswith(".py") else _import_module(where)
        except CannotRun as error:
            raise CannotRun(f"{flag} {text!a:.200}: {error}") from None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if attempt == 1 and "torchvision::" in str(error):
                import_torchvision()  # and once more
                continue
            # Of a syntax error there is no frame: it names its own place.
            place = place_of(error)
            hint = ""
            if "relative import" in str(error):
                hint = ". Give it as a module, package.module:NAME, from the folder of the package"
            raise CannotRun(
                f"{flag} {text!a:.200}: {where} cannot be imported: {type(error).__name__}: "
                f"{reason_of(error)}{place}{hint}"
            ) from error
    return None


@contextlib.contextmanager
def _own_argv(where: str) -> Iterator[None]:
    """A module that reads the command line as it is imported takes its defaults, not our flags."""
    ours, sys.argv = sys.argv, [where]
    try:
        yield
    finally:
        sys.argv = ours


def _import_module(where: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(where)


def _import_file(where: str) -> ModuleType:
    path = Path(where)
    if missing(path):
        raise CannotRun(f"{shown(path)} does not exist")
    require_file(path)
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # for what the file imports from beside it
        sys.path.insert(0, folder)
    # A name of its own: two files of one name may be given.
    name = f"_given_{abs(hash(str(path.resolve())))}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def factory(text: str, arguments: Mapping[str, Any], flag: str) -> Any:
    """The model that a text names, or a function that makes it with keyword arguments.

    Args:
        arguments: {name: value}.
    """
    found = load(text, flag)
    is_model = hasattr(found, "state_dict") and not isinstance(found, type)
    if callable(found) and not is_model:
        return functools.partial(found, **arguments) if arguments else found
    if not is_model:
        raise CannotRun(
            f"{flag} {text!a:.200} is of type {type(found).__name__}: wanted a model, or a class "
            "or function that makes one"
        )
    if arguments:
        raise CannotRun(f"{flag} {text!a:.200} is a model already: it takes no arguments")
    return found


def read_argument(text: str) -> tuple[str, Any]:
    """(name, value) of "NAME=VALUE"; the value as in Python, else a text.

    Raises:
        ValueError: there is no name.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(text)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value
