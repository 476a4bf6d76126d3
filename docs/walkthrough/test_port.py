"""pytest test_port.py"""

import json
from pathlib import Path

import port
import reference
import rules

from alignment import assert_aligned


def test_port():
    layers = json.loads(Path(__file__).with_name("map.json").read_text())
    assert_aligned(
        port.SpeechNet,
        reference.SpeechNet,
        "4x40x98",
        map=layers,
        rules=rules.RULES,
        loss=(port.loss, reference.loss),
        targets=["int64[4]<10"],
        accept="biased_variance",
    )
