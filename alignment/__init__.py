"""Compares a port in PaddlePaddle with its reference in PyTorch. Knows nothing of MobileNet.

    from alignment import check, assert_aligned, Rule

    report = check(port=Net, reference=Ref, inputs="4x3x64x64")
    print(report.text())

The frameworks are imported when one of these is first asked for: parts of this package do without.
"""

from __future__ import annotations

__all__ = ["CannotRun", "Finding", "Report", "Rule", "assert_aligned", "check"]

TYPE_CHECKING = False
if TYPE_CHECKING:  # only then: Ctrl-C is not quiet yet, see environment.py
    from typing import Any

    from .compare import assert_aligned, check
    from .convert import Rule
    from .files import CannotRun
    from .findings import Finding, Report

WHERE = {
    "CannotRun": "files",
    "Finding": "findings",
    "Report": "findings",
    "Rule": "convert",
    "assert_aligned": "compare",
    "check": "compare",
}


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from . import environment  # noqa: F401  (settles warnings before the frameworks are loaded)

    return getattr(importlib.import_module(f".{WHERE[name]}", __name__), name)
