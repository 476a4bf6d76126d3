"""check, assert_aligned, the command line: what a user relies on, every kind of bad input."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from paddle import nn as pnn
from paddle.nn import functional as PF
from torch import nn
from torch.nn import functional as F

import alignment
from alignment import CannotRun, Rule, assert_aligned, check
from alignment.compare import propose_map
from alignment.inputs import parse
from alignment.layers import relative
from alignment.pairing import read_map

ROOT = Path(__file__).resolve().parents[2]
FORWARD = ("forward",)


class Reference(nn.Module):
    def __init__(self, hidden=5):
        super().__init__()
        self.a, self.b = nn.Linear(6, hidden), nn.Linear(hidden, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


class Port(pnn.Layer):
    def __init__(self, hidden=5):
        super().__init__()
        self.a, self.b = pnn.Linear(6, hidden), pnn.Linear(hidden, 3)

    def forward(self, x):
        return self.b(PF.relu(self.a(x)))


def reference(forward):
    """The class of a reference whose forward is `forward(what Reference gives, model)`."""

    class Changed(Reference):
        def forward(self, x):
            return forward(super().forward(x), self)

    return Changed


def port(forward):
    class Changed(Port):
        def forward(self, x):
            return forward(super().forward(x), self)

    return Changed


def refused(*args, **options):
    """The one line of a CannotRun."""
    with pytest.raises(CannotRun) as error:
        check(*args, **options)
    line = str(error.value)
    assert "\n" not in line and line
    return line


# What is compared, and what a report says.


@pytest.mark.parametrize("made", [lambda kind: kind, lambda kind: kind()])
def test_by_class_and_by_instance(made):
    given = made(Port), made(Reference)
    before = [] if isinstance(given[0], type) else [p.numpy() for p in given[0].parameters()]
    report = check(*given, "4x6")
    assert report.aligned and [c.name for c in report.checks] == [
        "structure", "forward", "backward", "training",
    ]  # fmt: skip
    assert report.not_compared == ["initialisation: not asked for"]
    assert report.verdict.endswith("not compared: 1")
    # An instance is copied: what the caller holds stays as it was.
    for old, now in zip(before, [] if not before else given[0].parameters()):
        assert np.array_equal(old, now.numpy()) and now.dtype == paddle.float32


def test_assert_aligned_raises_with_the_report():
    assert assert_aligned(Port, Reference, "4x6", checks=FORWARD).aligned
    wrong = port(lambda y, model: y * 1.5)
    with pytest.raises(AssertionError, match=r"NOT ALIGNED: forward: output"):
        assert_aligned(wrong, Reference, "4x6", checks=FORWARD)


def test_report_is_json():
    report = check(port(lambda y, model: y / 0), Reference, "4x6", checks="forward")
    text = json.dumps(report.as_dict(), allow_nan=False)
    plain = json.loads(text)
    assert plain["aligned"] is False and plain["verdict"] == report.verdict
    assert plain["differences"][0]["check"] == "forward"
    assert set(plain) >= {"checks", "differences", "not_compared", "known", "notes"}


def test_structure_that_differs_is_not_aligned():
    report = check(lambda: Port(7), Reference, "4x6", checks=FORWARD)
    first = report.differences[0]
    assert (first.check, first.where) == ("structure", "a.weight")
    assert (first.port, first.reference) == ("[6, 7]", "[6, 5]")
    assert not report.aligned


def test_what_has_no_counterpart_or_is_never_called_is_told():
    class Spare(Port):
        def __init__(self):
            super().__init__()
            self.spare = pnn.Linear(2, 2)

    report = check(Spare, Reference, "4x6", checks=FORWARD)
    assert any("never called: spare" in line for line in report.not_compared), report.text()
    assert report.differences[0].where == "spare.weight"
    assert "only in the port" in report.differences[0].quantity


@pytest.mark.parametrize("checks", [("training",), ("initialisation",), ("training", "forward")])
def test_nothing_compared_is_never_green(checks):
    class Plain(nn.Module):
        def forward(self, x):
            return x * 2

    class PlainPort(pnn.Layer):
        def forward(self, x):
            return x * 2

    report = check(PlainPort, Plain, "4x6", checks=checks)
    assert report.aligned == report.compared == ("forward" in checks)
    assert "structure: neither side has a parameter" in report.not_compared
    assert "0 layers" not in report.text() and "0 entries" not in report.text()
    if "forward" in checks:
        assert "no layer has a counterpart: outputs alone" in report.text()


def test_how_small_a_mistake_would_have_been_seen():
    report = check(Port, Reference, "2x6", checks=FORWARD)
    assert report.power.startswith("power: in each of 4 tensors a relative change of ")
    assert report.power in report.text() and report.power == report.as_dict()["power"]

    class Dead(nn.Module):  # what b gives is thrown away
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            x = self.a(x)
            return x + 0 * self.b(x).sum()

    class DeadPort(Port):
        def forward(self, x):
            x = self.a(x)
            return x + 0 * self.b(x).sum()

    report = check(DeadPort, Dead, "2x6", checks=FORWARD)
    assert report.aligned
    line = "parameters that have no effect on the outputs: b.weight, b.bias"
    assert line in report.not_compared


def test_stop_at_the_first_check_that_differs():
    report = check(port(lambda y, model: y + 1), Reference, "4x6", stop=True)
    assert [c.name for c in report.checks] == ["structure", "forward"]
    assert "backward: stopped before it" in report.not_compared


@dataclasses.dataclass
class Both:
    logits: object
    mask: object
    count: int


def nest(is_torch):
    def make(y, model):
        mask = y > 0
        return {"both": Both(y, mask, 3), "list": [y * 2, (y + 1, y.argmax(-1))]}

    return make


def test_nested_outputs_are_all_compared():
    right, other = port(nest(False)), reference(nest(True))
    report = check(right, other, "4x6", checks=("forward", "backward"))
    assert report.aligned and "5 outputs" in report.text(), report.text()

    def wrong(y, model):
        found = nest(False)(y, model)
        found["list"][1] = (y + 1, y.argmin(-1))
        found["both"].count = 4
        return found

    report = check(port(wrong), other, "4x6", checks=FORWARD)
    places = [finding.where for finding in report.differences]
    assert "output['list'][1][1]" in places and "output['both'].count" in places


def test_inputs_of_every_kind():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, ids, *, mask, pair, scale=1):
            return self.table(ids) * mask.unsqueeze(-1) * scale + pair["a"][0].unsqueeze(-1)

    class NetPort(pnn.Layer):
        def __init__(self):
            super().__init__()
            self.table = pnn.Embedding(9, 4)

        def forward(self, ids, *, mask, pair, scale=1):
            mask = mask.unsqueeze(-1).astype(self.table.weight.dtype)
            return self.table(ids) * mask * scale + pair["a"][0].unsqueeze(-1)

    inputs = {
        "ids": "int64[2,5]<9",
        "mask": "bool[2,5]",
        "pair": {"a": [np.ones((2, 5), np.float32)]},
        "scale": 3,
    }
    report = check(NetPort, Net, inputs, checks=("forward", "backward"))
    assert report.aligned and "2 gradients" in report.text(), report.text()


def test_attention_ties_and_states():
    """Packed projections, a tied weight, an LSTM's state: one model."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.rnn = nn.LSTM(4, 4, batch_first=True)
            self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            x = self.table(ids)
            x = x + self.attention(x, x, x, need_weights=False)[0]
            x, state = self.rnn(x)
            return self.head(x), state

    class NetPort(pnn.Layer):
        def __init__(self, tied=True):
            super().__init__()
            self.attention = pnn.MultiHeadAttention(4, 2)
            self.rnn, self.table = pnn.LSTM(4, 4), pnn.Embedding(7, 4)
            self.tied = tied
            if not tied:
                self.head = pnn.Linear(4, 7, bias_attr=False)

        def forward(self, ids):
            x = self.table(ids)
            x = x + self.attention(x, x, x)
            x, state = self.rnn(x)
            logits = x @ self.table.weight.T if self.tied else self.head(x)
            return logits, state

    report = check(NetPort, Net, "int64[2,5]<7", checks=("forward", "backward"))
    assert report.aligned and "3 outputs" in report.text(), report.text()
    report = check(lambda: NetPort(tied=False), Net, "int64[2,5]<7", checks=FORWARD)
    assert report.differences[0].check == "structure" and "head" in report.text()


class Masked(nn.Module):
    """Mean of the embeddings of all ids but those of padding."""

    def __init__(self, padding, masked):
        super().__init__()
        self.table = nn.Embedding(9000, 4, padding_idx=padding)
        self.padding = masked

    def forward(self, ids):
        kept = (ids != self.padding).unsqueeze(-1).to(self.table.weight.dtype)
        return (self.table(ids) * kept).sum(1) / kept.sum(1)


class MaskedPort(pnn.Layer):
    def __init__(self, padding, masked):
        super().__init__()
        self.table = pnn.Embedding(9000, 4, padding_idx=padding)
        self.padding = masked

    def forward(self, ids):
        kept = (ids != self.padding).unsqueeze(-1).astype(self.table.weight.dtype)
        return (self.table(ids) * kept).sum(1) / kept.sum(1)


@pytest.mark.parametrize(("padding", "masked"), [(None, 0), (None, 1), (0, 0), (1, 1), (7, 7)])
def test_padding_is_among_the_ids(padding, masked):
    """By chance one of 48 ids out of 9000 would hardly be it."""

    def report(masked_by_port):
        net, port = Masked(padding, masked), MaskedPort(padding, masked_by_port)
        return check(port, net, "int64[4,12]<9000", checks=FORWARD)

    right = report(masked)
    assert right.aligned, right.text()
    assert any("padding other than 0 and 1" in x for x in right.not_compared) == (padding is None)
    assert not report(2).aligned


def test_padding_that_no_input_holds_is_not_compared():
    ids = np.arange(2, 26).reshape(2, 12)
    report = check(MaskedPort(1, 2), Masked(1, 1), ids, checks=FORWARD)
    told = "padding: no input holds 1, the padding_idx of table. Give inputs that hold it"
    assert told in report.not_compared


def test_initialisation():
    class As(Port):
        def __init__(self):
            super().__init__()
            for layer, fan in ((self.a, 6), (self.b, 5)):
                for parameter in layer.parameters():
                    pnn.initializer.Uniform(-(fan**-0.5), fan**-0.5)(parameter)

    report = check(As, Reference, "4x6", checks="initialisation")
    assert report.aligned and "4 distributions" in report.text(), report.text()
    report = check(Port, Reference, "4x6", checks="initialisation")
    assert {f.where for f in report.differences} >= {"a.weight", "a.bias", "b.weight", "b.bias"}
    report = check(Port(), Reference, "4x6", checks=("forward", "initialisation"))
    assert any("the port was given as a model" in line for line in report.not_compared)


# Names.


class Renamed(pnn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.second = pnn.Linear(6, 5), pnn.Linear(5, 3)

    def forward(self, x):
        return self.second(PF.relu(self.first(x)))


def test_map_of_a_renamed_port(tmp_path):
    proposal = propose_map(Renamed, Reference)
    assert proposal.layers == {"first": "a", "second": "b"} and not proposal.doubts
    proven = propose_map(Renamed, Reference, inputs=["4x6"])
    assert proven.layers == proposal.layers and "the map is right" in proven.summary
    remarked = {"// first": "a remark", **proposal.layers}
    for layers in (proposal.layers, remarked):
        assert check(Renamed, Reference, "4x6", map=layers, checks=FORWARD).aligned
    wrong = propose_map(Renamed, reference(lambda y, model: y + 1), inputs=["4x6"])
    assert wrong.doubts and "the map is right" not in wrong.summary
    path = tmp_path / "map.json"
    path.write_text(json.dumps(remarked))
    assert read_map(path) == proposal.layers


def test_map_of_unknown_layers():
    line = refused(Renamed, Reference, "4x6", map={"frist": "a"})
    assert "'frist'" in line and "port" in line and "Is first meant?" in line
    assert "reference has no such layer" in refused(Port, Reference, "4x6", map={"a": "zz"})
    with pytest.raises(CannotRun, match="no such layer"):
        propose_map(Port, Reference, map={"zz": "a"})


# Bad arguments: one line each.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"checks": "backwards"}, "checks: 'backwards' is not one of forward"),
        ({"checks": ()}, "checks: there is none"),
        ({"optimizer": "lion"}, "optimizer: 'lion' is not one of sgd"),
        ({"accept": "everything"}, "accept: 'everything' is not one of biased_variance"),
        ({"rules": 3}, "wanted a list of alignment.Rule, not 3"),
        ({"rules": ["a"]}, "wanted a list of alignment.Rule, not 'a'"),
        ({"rules": Rule.ignore("a.bias", "")}, "wanted a list of alignment.Rule"),
        ({"rules": [Rule.tie("a.weight", "zz")]}, "Rule.tie names 'zz'"),
        ({"map": ["a"]}, "map: wanted"),
        ({"loss": "mse"}, "loss: wanted a function"),
        ({"targets": "4x3"}, "a target is given, but no loss"),
        ({"targets": ["t=4x3"], "loss": lambda y, t: (y - t).sum()}, "a target has no name"),
        ({"targets": "foo", "loss": lambda y, t: (y - t).sum()}, "target 'foo': wanted SHAPE"),
        ({"paddle_weights": "w.pdparams"}, "the reference would have random weights"),
        ({"torch_weights": "w.pth", "own_weights": True}, "not both"),
    ],
)
def test_bad_options(options, told):
    assert told in refused(Port, Reference, "4x6", **options)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ("", "wanted SHAPE"),
        ("4x6xx,,", "wanted SHAPE"),
        ("4x-6", "wanted SHAPE"),
        ("int64[4,6]<", "wanted SHAPE"),
        ("float31[4,6]", "no dtype float31"),
        ("0x6", "there is nothing in it"),
        ("40000000x6000", "more than fit into memory"),
        ("4x99999999999999999999999", "too large"),
        ("x".join("1" * 40), "more than 32 axes"),
        ("4x6<5", "<5 is for integers"),
        ("int64[4,6]<0", "from 1 to"),
        ("int8[4,6]<1000", "from 1 to 128"),
        (["x=4x6", "x=4x6"], "given twice"),
        ([], "there is no input"),
        (np.zeros((0, 6), np.float32), "nothing in it"),
        (np.full((4, 6), np.nan), "NaN"),
        ({"x": object()}, "of type object"),
        ({3: "4x6"}, "3 is not a name"),
        ("4x5", "the reference cannot be run with these inputs"),
        ("y=4x6", "unexpected keyword argument 'y'"),
        (["4x6", "4x6"], "the reference cannot be run with these inputs"),
        ("nofile.npy", "No such file"),
    ],
)
def test_bad_inputs(inputs, told):
    assert told in refused(Port, Reference, inputs, checks=FORWARD)


def test_range_of_integers():
    made = parse("ids=int8[50]<128")[1].make(np.random.default_rng(0))
    assert made.dtype == np.int8 and made.min() >= 0 and made.max() <= 127
    assert not parse("int64[4]<1")[1].make(np.random.default_rng(0)).any()
    net = nn.Embedding(10, 3), pnn.Embedding(10, 3)
    assert "index out of range" in refused(net[1], net[0], "int64[4]<99", checks=FORWARD)


def test_arrays_of_files(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 6), ">f4"))
    np.save(tmp_path / "object.npy", np.array([{}, None], object), allow_pickle=True)
    assert check(Port, Reference, f"x={tmp_path / 'x.npy'}", checks=FORWARD).aligned
    assert "no numbers" in refused(Port, Reference, str(tmp_path / "object.npy"))


def raises(error):
    def make():
        raise error

    return make


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [
        (Reference, Port, "mixed up?"),
        (Port, lambda: None, "the reference is None"),
        (Port, lambda: Reference, "the reference is a class, Reference"),
        (lambda n: Port(n), Reference, "--paddle-arg NAME=VALUE"),
        (Port, raises(ValueError("no such\nsecond line")), "ValueError: no such"),
        (raises(SystemExit(3)), Reference, "SystemExit: 3"),
        (3, Reference, "the port is of type int"),
    ],
)
def test_models_that_cannot_be_made(mine, theirs, told):
    assert told in refused(mine, theirs, "4x6")


def leaves(y, model):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda y, model: None, "returns no tensor (NoneType)"),
        (lambda y, model: "text", "returns no tensor (str)"),
        (lambda y, model: y[:0], "empty tensor, shape [0, 3]"),
        (lambda y, model: y / 0 * 0, "holds NaNs"),
        (lambda y, model: y + torch.randn(3), "another output each time"),
        (leaves, "SystemExit: 3"),
    ],
)
def test_references_that_cannot_be_compared_with(forward, told):
    assert told in refused(Port, reference(forward), "4x6", checks=FORWARD)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda y: y, "it returns a tensor of shape [4, 3]"),
        (lambda y: 1.0, "it returns 1.0"),
        (lambda y: None, "it returns None"),
        (lambda y, t: y.sum(), "missing 1 required positional argument"),
        (lambda y: F.mse_loss(y, torch.zeros(4, 3)), "--paddle-loss, --torch-loss"),
    ],
)
def test_losses_that_do_not_work(loss, told):
    line = refused(Port, Reference, "4x6", loss=loss, checks=("forward", "backward"))
    assert "the loss does not work" in line and told in line


def test_model_that_cannot_be_copied():
    model = Reference()
    model.kept = model.a.weight * 1
    assert "Give its class" in refused(Port, model, "4x6")


# Defects of a port, each named.


class ChangesItsInput(Port):
    def forward(self, x):
        y = super().forward(x)
        x.zero_()
        return y


@pytest.mark.parametrize(
    ("mine", "told"),
    [
        (ChangesItsInput, "input 0: changed in place by the port"),
        (port(lambda y, model: y + paddle.randn([3])), "it samples random numbers"),
        (port(lambda y, model: y / 0), "NaN or infinity in the port"),
        (port(lambda y, model: None), "none in the port"),
        (port(leaves), "SystemExit: 3"),
        (port(lambda y, model: {}["features"]), "KeyError: 'features'"),
        (port(lambda y, model: y.astype("float16").astype(y.dtype)), "output differs by"),
        (port(lambda y, model: y.unsqueeze(0)), "(1, 4, 3) | (4, 3)"),
        (port(lambda y, model: y.astype("int64")), "dtype"),
    ],
)
def test_defect_is_named(mine, told):
    report = check(mine, Reference, "4x6", checks=FORWARD)
    assert not report.aligned and told in report.text(), report.text()


def test_port_without_a_gradient():
    report = check(port(lambda y, m: y.detach()), Reference, "4x6", checks=("forward", "backward"))
    assert report.differences[0].check == "backward"
    assert "no gradient reaches b in the port" in report.text()


class Frozen(Port):
    def __init__(self):
        super().__init__()
        self.a.weight.stop_gradient = True


def test_frozen_parameter():
    report = check(Frozen, Reference, "4x6", checks=("forward", "backward"))
    first = report.differences[0]
    assert first.where == "a.weight" and "frozen in the port" in first.quantity


class NoBackward(paddle.autograd.PyLayer):
    @staticmethod
    def forward(context, x):
        return x * 1

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("this is why")


def test_backward_that_fails():
    mine = port(lambda y, model: NoBackward.apply(y))
    report = check(mine, Reference, "4x6", checks=("forward", "backward"))
    assert report.differences[0].check == "backward" and "this is why" in report.verdict


# References that leave something out: the rest is compared, and it is said.


@pytest.mark.parametrize("forward", [lambda y, m: y.detach(), lambda y, m: y.argmax(-1)])
def test_reference_without_a_gradient_keeps_its_forward_verdict(forward):
    report = check(port(forward), reference(forward), "4x6", checks=("forward", "backward"))
    assert report.aligned and [c.name for c in report.checks] == ["structure", "forward"]
    assert any(line.startswith("backward: ") for line in report.not_compared)
    report = check(port(forward), reference(forward), "4x6", checks="backward")
    assert not report.aligned and not report.compared


def test_loss_that_does_not_depend_on_the_output():
    report = check(Port, Reference, "4x6", checks="backward", loss=lambda y: (y * 0).sum())
    assert any("all are 0 in the reference" in line for line in report.not_compared)


def only_float32(y, model):
    assert "float32" in str(y.dtype), "float32 only"
    return y


@pytest.mark.parametrize("both", [True, False])
def test_float32_alone(both):
    other = reference(only_float32)
    report = check(port(only_float32) if both else Port, other, "4x6")
    assert report.aligned and any("float64" in line for line in report.not_compared)

    class Wrong(Port):
        def forward(self, x):
            return self.b(PF.sigmoid(self.a(x)))

    report = check(Wrong, other, "4x6")
    assert report.differences[0].where == "b", report.text()
    assert "between a and this layer" in report.text()
    assert not check(Port, other, "4x6", checks="backward").compared


def test_masked_outputs():
    def mask(y, model):
        y = y * 1
        y[:, 0] = -float("inf")
        return y

    def other(y, model):
        y = y * 1
        y[:, 1] = -float("inf")
        return y

    assert check(port(mask), reference(mask), "4x6", checks=FORWARD).aligned
    for wrong in (Port, port(other)):
        assert not check(wrong, reference(mask), "4x6", checks=FORWARD).aligned
    infinite = np.full(3, np.inf)
    assert relative(infinite, infinite) == np.inf  # nothing is left to compare
    assert relative(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])) == np.inf


def test_lazy_layers():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.LazyLinear(5)

        def forward(self, x):
            return self.a(x)

    class LazyPort(pnn.Layer):
        def __init__(self):
            super().__init__()
            self.a = pnn.Linear(6, 5)

        def forward(self, x):
            return self.a(x)

    assert check(LazyPort, Lazy, "4x6", checks=FORWARD).aligned
    assert propose_map(LazyPort, Lazy, inputs=["4x6"]).layers == {}
    with pytest.raises(CannotRun, match="lazy layers"):
        propose_map(LazyPort, Lazy)


def test_structure_that_holds_itself():
    def hold(y, model):
        found = {"y": y}
        found["self"] = found
        return found

    report = check(port(hold), reference(hold), "4x6", checks=FORWARD)
    assert report.aligned and "1 output," in report.text()


def test_300_layers():
    class Deep(nn.Module):
        def __init__(self, kind=nn):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(300))

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return x

    class DeepPort(pnn.Layer):
        def __init__(self):
            super().__init__()
            self.layers = pnn.LayerList([pnn.Linear(2, 2) for _ in range(300)])

        def forward(self, x):
            for layer in self.layers:
                x = paddle.tanh(layer(x))
            return x

    report = check(DeepPort, Deep, "4x2", checks=FORWARD)
    assert report.aligned and "300 layers" in report.text()


def test_own_bound():
    wrong = port(lambda y, model: y * (1 + 1e-4))
    assert not check(wrong, Reference, "4x6", checks=("forward", "backward")).aligned
    assert check(wrong, Reference, "4x6", checks=("forward", "backward"), bound=1e-2).aligned


# Weights.


@pytest.fixture
def weights(tmp_path):
    """The files of one reference and of its right port."""
    from safetensors.torch import save_file

    state = Reference().state_dict()
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    torch.save(Reference(7).state_dict(), tmp_path / "other.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"xx")
    converted = {
        name: paddle.to_tensor(np.array(x.numpy().T if x.ndim == 2 else x.numpy(), order="C"))
        for name, x in state.items()
    }
    paddle.save(converted, str(tmp_path / "w.pdparams"))
    return tmp_path, converted


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_weights_of_a_file(name, weights):
    folder, _ = weights
    report = check(Port, Reference, "4x6", torch_weights=folder / name, checks=FORWARD)
    assert report.aligned
    assert "other.pth has of another shape a.weight" in refused(
        Port, Reference, "4x6", torch_weights=folder / "other.pth"
    )
    assert "no safetensors file" in refused(
        Port, Reference, "4x6", torch_weights=folder / "bad.safetensors"
    )


def test_mistake_in_the_conversion_is_named(weights):
    folder, state = weights

    def report(**changed):
        entries = {name: x for name, x in {**state, **changed}.items() if x is not None}
        paddle.save(entries, str(folder / "mine.pdparams"))
        files = {"torch_weights": folder / "w.pth", "paddle_weights": folder / "mine.pdparams"}
        return check(Port, Reference, "4x6", checks=FORWARD, **files)

    assert report().aligned
    name = "a.weight"
    shuffled = report(**{name: state[name].reshape([5, 6]).T.reshape([6, 5])})
    assert shuffled.differences[0].where == name, shuffled.text()
    assert "look at the conversion" in shuffled.differences[0].hint
    transposed = report(**{name: state[name].T})
    assert "shape [5, 6] in the port's file" in transposed.differences[0].text()
    lacking = report(**{"b.bias": None})
    assert "mine.pdparams has none" in lacking.differences[0].text()
    more = report(zz=state["b.bias"])
    assert more.aligned and any("zz" in line for line in more.not_compared)


# The command line.

FILES = {
    "text.py": "this is no JSON\n",
    "syntax.py": "class Net(\n",
    "exits.py": "raise SystemExit('bye')\n",
    "lacks.py": "import no_such_package\n",
    "relative.py": "from . import given\n",
    "reads_argv.py": "import argparse, given\nargparse.ArgumentParser().parse_args()\n"
    "Net = given.Reference\n",
}


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Runs a command in this process; returns (exit status, stdout, stderr)."""
    from alignment import commands

    (tmp_path / "given.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_compare import Port, Reference, Renamed\nmodel, number = Reference(), 3\n"
        "def shouts():\n    print('loud')\n    return Renamed()\n"
    )
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["alignment", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            commands.main(list(arguments))
        out, err = capfd.readouterr()
        return leaving.value.code, out, err

    return run


PAIR = ("--torch", "given.py:Reference", "--paddle", "given.py:Port", "--input", "4x6")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("given.py", "wanted MODULE:NAME or FILE.py:NAME"),
        ("", "wanted MODULE:NAME or FILE.py:NAME"),
        ("given.py:", "wanted MODULE:NAME or FILE.py:NAME"),
        ("no.py:Net", "no.py does not exist"),
        ("no_such_module:Net", "No module named 'no_such_module'"),
        ("./given:Net", "neither a module nor a file that ends in .py"),
        ("given.py:Referense", "Is Reference meant?"),
        ("given.py:number", "is of type int"),
        ("syntax.py:Net", "SyntaxError"),
        ("exits.py:Net", "SystemExit: bye"),
        ("lacks.py:Net", "No module named 'no_such_package' (lacks.py, line 1)"),
        ("relative.py:Net", "package.module:NAME"),
    ],
)
def test_command_names_what_it_cannot_import(where, told, command):
    status, _, err = command("compare", "--torch", where, *PAIR[2:])
    assert status == 2 and err.startswith("error: --torch") and told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--checks", "foo"), "'foo' is not one of forward"),
        (("--steps", "0"), "--steps: 0 is not a whole number above 0"),
        (("--sizes", "0"), "--sizes: 0"),
        (("--seed", "-1"), "--seed: -1"),
        (("--bound", "0"), "--bound"),
        (("--optimizer", "foo"), "invalid choice: 'foo'"),
        (("--accept", "foo"), "invalid choice: 'foo'"),
        (("--torch-arg", "hidden"), "'hidden' is not NAME=VALUE"),
        (
            ("--torch-arg", "hidden=2", "--torch-arg", "hidden=3"),
            "--torch-arg hidden is given twice",
        ),
        (("--torch-arg", "width=2"), "unexpected keyword argument 'width'"),
        (("--map", "no.json"), "no.json: No such file"),
        (("--map", "text.py"), "cannot read text.py"),
        (("--rules", "given.py:number"), "wanted a list of alignment.Rule"),
        (("--target", "4x3"), "no loss that takes it"),
        (("--torch-loss", "given.py:shouts"), "give both, or --loss for both"),
        (("--json", "/proc/none/report.json"), "cannot write"),
        (("--json", "."), "is a folder"),
        (("--log-dir", "text.py"), "cannot write text.py"),
        (("--torch-weights", "no.pth"), "no.pth: No such file"),
        (("--bogus",), "unrecognized arguments: --bogus"),
    ],
)
def test_command_refuses_bad_flags(flags, told, command):
    status, _, err = command("compare", *PAIR, *flags)
    assert status == 2 and err.startswith("error: ") and told in err, err
    assert err.count("\n") == 1 and "Traceback" not in err


def test_command_compares_and_writes(command, tmp_path):
    flags = ("--checks", "forward", "--json", "out/report.json", "--log-dir", "out")
    status, out, err = command("compare", *PAIR, *flags)
    assert (status, err) == (0, "") and out.splitlines()[-1] == "Layers: out/compare_layers.log"
    assert json.loads((tmp_path / "out/report.json").read_text())["aligned"] is True
    assert (tmp_path / "out/compare_layers.log").read_text().count("Linear") >= 2
    status, out, _ = command("compare", *PAIR, "-q", "--checks", "forward")
    assert (status, out.count("\n")) == (0, 1)
    wide = ("--paddle-arg", "hidden=7", "--checks", "forward")
    status, out, _ = command("compare", *PAIR, *wide)
    assert status == 1 and "a.weight: shape [6, 7] | [6, 5]" in out


def test_module_that_reads_the_command_line(command):
    pair = ("--torch", "reads_argv.py:Net", *PAIR[2:])
    assert command("compare", *pair, "--checks", "forward")[0] == 0


def test_command_map_is_what_compare_takes(command, tmp_path):
    given = ("--torch", "given.py:Reference", "--paddle", "given.py:shouts", "--input", "4x6")
    status, out, err = command("map", *given)
    # What the model prints stays out of it.
    assert status == 0 and json.loads(out) == {"first": "a", "second": "b"}
    assert "loud" in err and "the map is right" in err
    (tmp_path / "map.json").write_text(out)
    status, _, _ = command("compare", *given, "--map", "map.json", "--checks", "forward")
    assert status == 0


@pytest.mark.parametrize("name", ["compare", "map"])
def test_help_says_what_there_is(name, command):
    status, out, _ = command(name, "--help")
    assert status == 0 and "(default: [])" not in out and "(default: False)" not in out
    assert f"alignment {name} --torch" in out and "python -m" not in out


# From a folder outside of the repository.

OUTSIDE = ("--torch", "torch.nn:Linear", "--paddle", "paddle.nn:Linear", "--input", "2x3")
ARGUMENTS = (
    *("--torch-arg", "in_features=3", "--torch-arg", "out_features=4"),
    *("--paddle-arg", "in_features=3", "--paddle-arg", "out_features=4"),
)


def test_from_another_folder(spawn):
    given = ("compare", *OUTSIDE, *ARGUMENTS, "--checks", "forward")
    result = spawn("-m", "alignment", *given, env={"PYTHONPATH": str(ROOT)})
    assert result.status == 0 and result.out.splitlines()[-1].startswith("aligned: "), result.err
    line = spawn("-m", "alignment", "compare", env={"PYTHONPATH": str(ROOT)}).error_line
    assert "--torch, --paddle, --input" in line and "python -m alignment compare --help" in line


@pytest.mark.slow
def test_installed_by_pip(tmp_path, spawn):
    """The console script, without the repository."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    shutil.copy(ROOT / "pyproject.toml", source)
    shutil.copytree(ROOT / "alignment", source / "alignment")
    pip = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target, source)
    subprocess.run([sys.executable, "-m", "pip", *map(str, pip)], check=True, timeout=300)
    shutil.rmtree(source)
    assert sorted(path.name for path in target.iterdir() if path.suffix != ".dist-info") == [
        "alignment",
        "bin",
    ]
    assert (target / "alignment" / "templates" / "report.html").exists()
    script, env = target / "bin" / "alignment", {"PYTHONPATH": str(target)}
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    given = ("compare", *OUTSIDE, *ARGUMENTS)
    result = spawn(script, *given, env=env, cwd=outside)
    assert result.status == 0 and result.out.splitlines()[-1].startswith("aligned: "), result.err
    line = spawn(script, env=env, cwd=outside).error_line
    assert "alignment compare" in line and "alignment map" in line
    assert os.listdir(outside) == []


def test_public_names():
    assert all(getattr(alignment, name) is not None for name in alignment.__all__)
