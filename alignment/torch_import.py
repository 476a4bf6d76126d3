"""torchvision, wherever it can be imported; it and optimizers quickly. Needs torch, no paddle."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["compiler_on_demand", "import_torchvision"]

COMPILER = "torch._dynamo"


def import_torchvision(*modules: str) -> None:
    """Imports torchvision, also where its CUDA wheel stands beside a CPU build of torch.

    torchvision's wheel on PyPI holds CUDA operators that a CPU torch cannot load; its module of
    shape rules for them then fails ("operator torchvision::nms does not exist"), and with it the
    import, although models, transforms and data sets need none of them. Only then is that one
    module left out.

    Args:
        modules: names of modules of it to import too, as "torchvision.transforms.v2".
    """
    try:
        compiler_on_demand()
        with _no_question_to_the_compiler():
            _import(modules)
    except (ImportError, AttributeError):  # another version asks more of the compiler
        _forget()
        _import(modules)


def _import(modules: Sequence[str]) -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _forget()
        name = "torchvision._meta_registrations"
        sys.modules[name] = types.ModuleType(name)
        importlib.import_module("torchvision")
    for name in modules:
        importlib.import_module(name)


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


@contextlib.contextmanager
def _no_question_to_the_compiler() -> Iterator[None]:
    """Within, torchvision's roi_align asks the compiler nothing; it asks when it is called."""
    name = f"{COMPILER}.utils"
    if name in sys.modules:
        yield
        return
    utils: Any = types.ModuleType(name)

    def is_compile_supported(device_type: str) -> bool:
        return importlib.import_module(name).is_compile_supported(device_type)

    utils.is_compile_supported = is_compile_supported
    sys.modules[name] = utils
    try:
        yield
    finally:
        if sys.modules.get(name) is utils:
            del sys.modules[name]


def compiler_on_demand() -> None:
    """torch's compiler is imported when something is compiled, not with the first optimizer.

    Optimizers and torchvision only tell it what to leave alone; importing it for that takes longer
    than all of torchvision: a second or two.
    """
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = _Compiler(COMPILER)


class _Compiler(types.ModuleType):
    """Stands for torch._dynamo until more is wanted of it than to leave something alone."""

    def graph_break(self, *_: Any) -> None:
        """There is no graph yet."""

    def disable(self, function: Any = None, recursive: bool = True, **options: Any) -> Any:
        module = getattr(function, "__module__", None) or ""
        if module.startswith(("torch.optim.", "torchvision.")):
            return function
        return self._imported().disable(function, recursive, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)  # asked by those who look through all modules
        return getattr(self._imported(), name)

    def _imported(self) -> Any:
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return importlib.import_module(COMPILER)
