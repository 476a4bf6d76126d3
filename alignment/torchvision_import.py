"""torchvision, wherever it can be imported, and quickly. Needs torch, and no paddle."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["import_torchvision"]

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
        with _compiler_on_demand():
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
def _compiler_on_demand() -> Iterator[None]:
    """Within, an import of torch's compiler imports nothing.

    torchvision asks it one question, in roi_align, and has it leave one function of tv_tensors
    alone; importing it for that takes longer than all of torchvision: a second. It is asked when
    roi_align is called, and may trace that function.
    """
    if COMPILER in sys.modules:
        yield
        return
    package: Any = types.ModuleType(COMPILER)
    utils: Any = types.ModuleType(f"{COMPILER}.utils")

    def is_compile_supported(device_type: str) -> bool:
        return importlib.import_module(utils.__name__).is_compile_supported(device_type)

    def disable(function: Any, recursive: bool = True, **_: Any) -> Any:
        return function

    package.__path__, package.disable, package.utils = [], disable, utils
    utils.is_compile_supported = is_compile_supported
    names = {COMPILER: package, utils.__name__: utils}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name, module in names.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
