"""How small a mistake would have been seen: measured, and then made."""

import numpy as np
import pytest
import torch

from alignment.power import Power, forward_power
from alignment.weights import make_alive

BOUND = 1e-11


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.BatchNorm2d(8, affine=True)
        self.unused = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Parameter(torch.rand(8, 1, 1) + 1, requires_grad=False)
        self.head = torch.nn.Linear(8, 50)
        self.register_buffer("offset", torch.rand(50))

    def forward(self, x):
        x = torch.nn.functional.silu(self.norm(self.conv(x)) * self.frozen)
        return self.head(x.mean((2, 3))) + self.offset


def outputs(model):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 12, 12)))
    return [model(x)]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = make_alive(Net(), seed=0, run=lambda m: outputs(m.double())).double().eval()
    return model


def test_a_change_of_that_size_is_just_seen(net):
    """Ten times as large it is called wrong, ten times smaller it is not."""
    power = forward_power(net, outputs, BOUND)
    assert set(power.unseen) == {"unused.weight", "unused.bias"} and power.unknown == ["offset"]
    seen = {name: change for name, change in power.changes.items() if np.isfinite(change)}
    assert {"norm.running_mean", "norm.running_var", "frozen", "conv.weight"} <= set(seen)
    with torch.no_grad():
        right = outputs(net)[0]
        for name, change in seen.items():
            tensor = net.state_dict()[name]
            kept = tensor.clone()
            sign = torch.from_numpy(np.random.default_rng(1).choice([-1.0, 1.0], tensor.shape))
            # To first order; a change of 1e-11 would drown in rounding.
            scale = 1e-6 / change
            tensor.copy_(kept * (1 + change * scale * sign))
            difference = float((outputs(net)[0] - right).abs().max() / right.abs().max()) / scale
            tensor.copy_(kept)
            assert BOUND / 10 < difference < 10 * BOUND, (name, difference)


def test_nothing_is_left_changed(net):
    before = {name: p.requires_grad for name, p in net.named_parameters()}
    forward_power(net, outputs, BOUND)
    assert before == {name: p.requires_grad for name, p in net.named_parameters()}
    assert all(p.grad is None for p in net.parameters()) and not before["frozen"]


def test_the_line_names_the_weakest():
    power = Power({"a": 1e-9, "b": 1e-7, "c": np.inf}, ["d"])
    assert "in each of 2 tensors a relative change of 1e-07" in power.line()
    assert power.line().index("b 1e-07") < power.line().index("a 1e-09")
    assert power.unseen == ["c"] and "power  d  not known" in power.lines()
    assert Power({}).line() == ""
