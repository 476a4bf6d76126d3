"""Small pairs of models, as people write them: a PyTorch reference and its Paddle port.

Each file holds one pair:

    Reference   class of the reference, a torch.nn.Module
    Port        class of the port, right but for what `# KNOWN` says of Paddle itself
    INPUTS      in the terms of `alignment.check`
    LOSS        the same; default: none given
    TARGETS     the same
    MAP         the same
    CHECKS      default: all but "initialisation", as most ports leave Paddle's own
    rules       function () -> the rules
    ACCEPT      known differences of the frameworks that have a cure, and that this port leaves
    NOT_COMPARED      texts: each must be told in a line of `report.not_compared`
    MAY_NOT_COMPARE   texts: lines that hold one of these may stand there too, and no others
    BROKEN      the same port with mistakes, each of them one that is really made
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Broken:
    """A port with one mistake.

    Attributes:
        name: what was done wrong.
        port: class or function () -> paddle.nn.Layer.
        where: where the first difference must be located: a layer or parameter of the port (what
            lies in it counts too), an output, or the check that must find it. A list: any of them.
        words: text that the report must hold. A list: all of them.
    """

    name: str
    port: Callable
    where: str | list
    words: str | list
