"""torchvision, wherever it can be imported. Needs torch, and no paddle."""

import sys
import types


def import_torchvision():
    """Imports torchvision, also where its CUDA wheel stands beside a CPU build of torch.

    torchvision's wheel on PyPI holds CUDA operators that a CPU torch cannot load; its module of
    shape rules for them then fails ("operator torchvision::nms does not exist"), and with it the
    import, although models, transforms and data sets need none of them. Only then is that one
    module left out.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        name = "torchvision._meta_registrations"
        sys.modules[name] = types.ModuleType(name)
        import torchvision  # noqa: F401
