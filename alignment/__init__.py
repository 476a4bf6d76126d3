"""Compares a port in PaddlePaddle with its reference in PyTorch. Knows nothing of MobileNet.

    from alignment import check, assert_aligned, Rule

    report = check(port=Net, reference=Ref, inputs="4x3x64x64")
    print(report.text())

The frameworks are imported when one of these is first asked for: parts of this package do without.
"""

__all__ = ["CannotRun", "Finding", "Report", "Rule", "assert_aligned", "check"]

WHERE = {
    "CannotRun": "files",
    "Finding": "findings",
    "Report": "findings",
    "Rule": "convert",
    "assert_aligned": "compare",
    "check": "compare",
}


def __getattr__(name):
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from . import environment  # noqa: F401  (settles warnings before the frameworks are loaded)

    return getattr(importlib.import_module(f".{WHERE[name]}", __name__), name)
