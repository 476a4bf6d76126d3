"""What every stage's bugs are made of; a file for each stage lies beside this one.

Each bug is a few lines that patch the port, the conversion, or what the port calls of Paddle, and
never a check. `names` is what the step must say on screen: the layer, the setting, the stage.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from alignment import cli  # noqa: F401  # isort: skip  (before paddle)

from paddle_mv3 import model

BUGS = {}
# In the order of docs/porting_bugs.md; a stage finds bugs of several.
TOPICS = (
    "structure",
    "normalisation",
    "conversion of weights",
    "parameters",
    "dropout",
    "data",
    "metric",
    "loss",
    "optimizer, schedule",
    "recipe",
    "training data",
    "samplers",
    "training",
    "training in two processes",
)
API = "https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/"
TRAIN = "https://github.com/pytorch/vision/blob/main/references/classification/train.py"


@dataclass
class Bug:
    topic: str
    step: str
    name: str
    names: tuple  # texts
    symptom: str
    reason: str
    fix: str
    source: str
    apply: object  # called with patch(target, attribute, value)


_topic = TOPICS[0]


def topic(name):
    """Says what the bugs that follow are about."""
    global _topic
    assert name in TOPICS, name
    _topic = name


def bug(step, name, names, symptom, reason, fix, source=""):
    def add(apply):
        assert name not in BUGS
        BUGS[name] = Bug(_topic, step, name, tuple(names), symptom, reason, fix, source, apply)
        return apply

    return add


def convolved(patch, layer_name, change):
    """Lets `change(layer, x)` stand for the forward pass of one layer of the built model."""
    build = model.MobileNetV3.__init__

    def init(self, *args, **kwargs):
        build(self, *args, **kwargs)
        layer = dict(self.named_sublayers())[layer_name]
        forward = layer.forward
        layer.forward = lambda x: change(layer, forward, x)

    patch(model.MobileNetV3, "__init__", init)


def built(patch, change):
    """Calls `change(model)` on each model that is built."""
    build = model.MobileNetV3.__init__

    def init(self, *args, **kwargs):
        build(self, *args, **kwargs)
        change(self)

    patch(model.MobileNetV3, "__init__", init)
