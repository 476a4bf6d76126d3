"""A port that is not built as the reference is: told as that, and compared as far as it goes."""

import json
import os
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

import paddle_mv3
import torch2paddle
from alignment import layers, origin
from alignment.files import load_pdparams
from alignment.layers import match
from alignment.pairing import counterpart, pair_entries, renamed_prefixes
from paddle_mv3 import model

WEIGHTS = "mobilenet_v3_small-047dcff4.pth"
MODEL_STEPS = ["01_test_forward.py", "03_test_metric.py", "04_test_loss.py", "05_test_backward.py"]


@pytest.fixture
def own_data(tmp_path, data_dir):
    """A folder with the weights of the reference only."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("fake_data.npy", "fake_label.npy", WEIGHTS):
        (folder / name).symlink_to(data_dir / name)
    return folder


@pytest.fixture
def renamed_port(monkeypatch):
    """A port whose classifier is called head."""
    build = model.MobileNetV3.__init__

    def init(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.head = self.classifier
        del self.classifier

    def forward(self, x):
        return self.head(paddle.flatten(self.avgpool(self.features(x)), 1))

    monkeypatch.setattr(model.MobileNetV3, "__init__", init)
    monkeypatch.setattr(model.MobileNetV3, "forward", forward)


def some_slow(scripts, slow):
    return [pytest.param(s, marks=pytest.mark.slow) if s[:2] in slow else s for s in scripts]


@pytest.mark.parametrize("script", some_slow(MODEL_STEPS, ("01", "05")))
def test_with_a_layer_map_a_port_of_other_names_is_aligned(
    script, renamed_port, run, own_data, tmp_path
):
    (tmp_path / "map.json").write_text('{"head": "classifier"}')
    options = ("--data-dir", own_data, "--layer-map", tmp_path / "map.json")
    result = run(script, *options)
    assert result.status == 0, result.out + result.err
    state = load_pdparams(own_data / "mv3_small_paddle.pdparams")
    assert "head.3.bias" in state and len(state) == 210


@pytest.mark.parametrize("script", some_slow(MODEL_STEPS, ("05",)))
def test_without_one_each_step_says_that_names_differ(script, renamed_port, run, own_data):
    result = run(script, "--data-dir", own_data)
    assert result.status == 1, result.out + result.err
    assert (
        "NOT ALIGNED: the port is built differently from the reference: 1 layer of an" in result.out
    )
    assert '--layer-map FILE with {"head": "classifier"}' in result.out


def test_torch2paddle_takes_the_map_both_ways(renamed_port, run, data_dir, tmp_path):
    (tmp_path / "map.json").write_text('{"head": "classifier"}')
    options = ("--layer-map", tmp_path / "map.json")
    there, back = tmp_path / "x.pdparams", tmp_path / "x.pth"
    assert run("torch2paddle.py", data_dir / WEIGHTS, there, *options).status == 0
    assert run("torch2paddle.py", "--reverse", there, back, *options).status == 0
    before, after = (torch.load(path, weights_only=True) for path in (data_dir / WEIGHTS, back))
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    # Without the map a conversion that was asked for by name is refused.
    assert "head.0.weight" not in run("torch2paddle.py", data_dir / WEIGHTS, there, "-v").out


def test_a_port_that_breaks_leaves_a_log_that_says_so(run, own_data, tmp_path, monkeypatch):
    build = model.MobileNetV3.__init__

    def init(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.classifier[0] = paddle.nn.Linear(577, 1024)

    monkeypatch.setattr(model.MobileNetV3, "__init__", init)
    log = tmp_path / "result" / "log"
    log.mkdir(parents=True)
    (log / "forward_diff.log").write_text("aligned: of yesterday\n")
    result = run("01_test_forward.py", "--data-dir", own_data)
    assert result.status == 1 and "Traceback" not in result.err
    lines = (log / "forward_diff.log").read_text().splitlines()
    assert lines[0].endswith("diff check failed") and lines[1].startswith("NOT ALIGNED")
    assert json.loads((log / "forward_diff.json").read_text())["aligned"] is False


# --- what a file was made from ---


def test_an_edit_of_the_conversion_makes_the_weights_anew(run, own_data, tmp_path, monkeypatch):
    path = own_data / "mv3_small_paddle.pdparams"
    assert "made " in run("04_test_loss.py", "--data-dir", own_data).out
    before = path.read_bytes()
    assert "made " not in run("04_test_loss.py", "--data-dir", own_data).out
    assert path.read_bytes() == before
    edited = tmp_path / "torch2paddle.py"
    source = Path(torch2paddle.__file__).read_text()
    edited.write_text(source + "\n# edited\n")
    monkeypatch.setattr(torch2paddle, "__file__", str(edited))
    assert "made " in run("04_test_loss.py", "--data-dir", own_data).out


def test_older_weights_of_the_reference_are_seen_too(run, own_data):
    """Hashes tell, not times."""
    assert run("04_test_loss.py", "--data-dir", own_data).status == 0
    state = torch.load(own_data / WEIGHTS, weights_only=True)
    state["classifier.3.bias"] += 1
    (own_data / WEIGHTS).unlink()
    torch.save(state, own_data / WEIGHTS)
    os.utime(own_data / WEIGHTS, (0, 0))
    result = run("04_test_loss.py", "--data-dir", own_data)
    assert result.status == 0 and "made " in result.out


def test_weights_of_somebody_else_are_used_as_they_are(run, own_data):
    path = own_data / "mv3_small_paddle.pdparams"
    assert run("04_test_loss.py", "--data-dir", own_data).status == 0
    state = load_pdparams(path)
    state["classifier.3.bias"] = state["classifier.3.bias"] + np.float32(1)
    paddle.save({name: paddle.to_tensor(array) for name, array in state.items()}, str(path))
    mine = path.read_bytes()
    result = run("04_test_loss.py", "--data-dir", own_data)
    assert result.status == 1 and "used as it is" in result.out
    assert path.read_bytes() == mine


def test_a_kill_between_the_note_and_the_weights_is_no_harm(run, own_data, monkeypatch):
    """What lies there is still known, and made anew."""
    assert run("04_test_loss.py", "--data-dir", own_data).status == 0
    path = own_data / "mv3_small_paddle.pdparams"
    sources, made_for = [own_data / WEIGHTS], "something else"
    other = own_data / "other"
    other.write_bytes(b"new")
    origin.note_origin(path, other, sources, made_for)  # and killed
    assert origin.origin_of(path, sources, made_for) == origin.STALE
    assert "used as it is" not in run("04_test_loss.py", "--data-dir", own_data).out


def test_own_weights_of_a_port_with_more_parameters_are_loaded(run, own_data, monkeypatch):
    """They hold what the reference has not: that is a difference of the port, not of the file."""
    build = model.MobileNetV3.__init__

    def init(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.extra = paddle.nn.Linear(2, 3)

    monkeypatch.setattr(model.MobileNetV3, "__init__", init)
    assert run("04_test_loss.py", "--data-dir", own_data).status == 1
    path = own_data / "mv3_small_paddle.pdparams"
    state = paddle.load(str(path)) | {
        "extra.weight": paddle.ones([2, 3]),
        "extra.bias": paddle.ones([3]),
    }
    paddle.save(state, str(path))
    result = run("04_test_loss.py", "--data-dir", own_data)
    assert result.status == 1, result.err
    assert "used as it is" in result.out and "extra.weight: shape [2, 3] | none" in result.out


# --- pairing ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"features.5": "features.6"}, "features.5 and features.6 of the port one and the same"),
        ({"features": ""}, "the reference has no such layer"),
        (
            {"classifier.0": "features.0.2", "features.0.2": "classifier.0"},
            "is the reference's features.0.2, and that has no such",
        ),
    ],
)
def test_a_map_that_cannot_be_is_told_as_that(content, said, run, data_dir, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps(content))
    for script in ("04_test_loss.py", "torch2paddle.py"):
        line = run(script, "--layer-map", tmp_path / "map.json").error_line
        assert said in line


def test_the_proposed_map_is_a_file_that_settles_it(renamed_port, run, own_data, tmp_path):
    result = run("04_test_loss.py", "--data-dir", own_data)
    proposal = tmp_path / "result" / "log" / "layer_map.json"
    assert result.status == 1 and "layer_map.json" in result.out
    assert json.loads(proposal.read_text()) == {"head": "classifier"}
    assert run("04_test_loss.py", "--data-dir", own_data, "--layer-map", proposal).status == 0


def test_a_missing_block_is_not_taken_for_a_renamed_layer(monkeypatch):
    monkeypatch.setattr(model, "SMALL", model.SMALL[:4] + model.SMALL[5:])
    import torch_ref

    state = torch_ref.mobilenet_v3_small().state_dict()
    pairing = torch2paddle.pair_weights(paddle_mv3.mobilenet_v3_small(), state)
    assert not pairing.fits and not pairing.renamed


def test_a_map_holds_for_all_that_lies_in_a_layer():
    layer_map = {"stem": "features.0", "stem.1": "bn"}
    assert counterpart("stem.0.weight", layer_map) == "features.0.0.weight"
    assert counterpart("stem.1.weight", layer_map) == "bn.weight"
    assert counterpart("stems.0.weight", layer_map) == "stems.0.weight"
    port = {name: paddle.nn.ReLU() for name in ("stem.0", "other")}
    reference = {name: torch.nn.ReLU() for name in ("features.0.0", "other")}
    assert match(port, reference, layer_map) == {"stem.0": "features.0.0", "other": "other"}


def test_left_over_layers_are_paired_by_order_and_shape():
    wanted = {
        "a.weight": ("a.weight", "transpose"),
        "x.0.weight": ("x.0.weight", "copy"),
        "x.1.weight": ("x.1.weight", "copy"),
        "x.1.bias": ("x.1.bias", "copy"),
        "extra.weight": ("extra.weight", "copy"),
    }
    port = {"a.weight": (3, 2), "x.0.weight": (4,), "x.1.weight": (5,), "x.1.bias": (5,)}
    port["extra.weight"] = (9,)
    reference = {"a.weight": (2, 3), "y.0.weight": (4,), "y.1.weight": (5,), "y.1.bias": (5,)}
    reference["lost.bias"] = (7,)
    pairing = pair_entries(wanted, port, reference)
    assert {name: source for name, (source, _) in pairing.table.items()} == {
        "a.weight": "a.weight",
        "x.0.weight": "y.0.weight",
        "x.1.weight": "y.1.weight",
        "x.1.bias": "y.1.bias",
    }
    assert pairing.renamed == {"x": "y"} and not pairing.fits
    assert pairing.misfits == [("extra.weight", (9,), None), ("lost.bias", None, (7,))]
    assert "1 parameter only in the port, 1 parameter only in the reference" in pairing.verdict()


def test_prefixes_are_as_short_as_they_can_be_and_no_shorter():
    assert renamed_prefixes({"a.0": "b.0", "a.1": "b.1"}) == {"a": "b"}
    crossed = {"a.0": "b.1", "a.1": "b.0"}
    assert renamed_prefixes(crossed) == crossed


@pytest.mark.parametrize("name", list(paddle_mv3.MODELS))
def test_the_right_port_fits(name):
    import torch_ref

    state = torch_ref.MODELS[name]().state_dict()
    pairing = torch2paddle.pair_weights(paddle_mv3.MODELS[name](), state)
    assert pairing.fits and pairing.table == torch2paddle.rules(paddle_mv3.MODELS[name]())


class ReferenceResidual(torch.nn.Module):
    """A block that keeps the chain of its layers in a layer of its own, as torchvision's do."""

    def __init__(self):
        super().__init__()
        self.block = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())

    def forward(self, x):
        return x + self.block(x)


class PortResidual(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.linear, self.tanh = paddle.nn.Linear(4, 4), paddle.nn.Tanh()

    def forward(self, x):
        return x + self.tanh(self.linear(x))


class PortChain(PortResidual):
    def forward(self, x):
        return self.tanh(self.linear(x))


@pytest.mark.parametrize(("block", "counterpart"), [(PortResidual, "0"), (PortChain, "0.block")])
def test_of_a_block_and_the_chain_in_it_the_nearer_one_is_compared(block, counterpart):
    rng = np.random.default_rng(0)
    linear, x = rng.standard_normal((2, 4, 4))
    reference = torch.nn.Sequential(ReferenceResidual(), torch.nn.Linear(4, 2)).double()
    port = paddle.nn.Sequential(("first", block()), ("last", paddle.nn.Linear(4, 2)))
    port.to(dtype="float64")
    with torch.no_grad():
        reference[0].block[0].weight.copy_(torch.from_numpy(linear.T.copy()))
        reference[0].block[0].bias.zero_()
        port.first.linear.weight.set_value(linear)
        port.first.linear.bias.set_value(np.zeros(4))
        seen = layers.record(port, lambda model: model(paddle.to_tensor(x)))
        theirs = layers.record(reference, lambda model: model(torch.from_numpy(x)))
    assert layers.match(seen, theirs)["first"] == counterpart


# --- masks of attention ---


def added(kept, low=-np.inf):
    return np.where(kept, 0.0, low)


KEPT = np.random.default_rng(0).random((3, 10)) < 0.5
CAUSAL = np.tril(np.ones((10, 10), dtype=bool))


@pytest.mark.parametrize(
    ("port", "reference", "agree", "inverted"),
    [
        (added(KEPT[:, None, None], -1e9), added(KEPT), True, False),
        (added(~KEPT[:, None, None]), added(KEPT), False, True),
        (added(KEPT[:, None, :, None]), added(KEPT), False, False),
        (added(KEPT[:, ::-1]), added(KEPT), False, False),
        (added(CAUSAL[None, None], -1e30), added(CAUSAL), True, False),
        (added(np.broadcast_to(CAUSAL, (3, 10, 10))), added(CAUSAL), True, False),
        (added(np.broadcast_to(KEPT[:, None], (3, 10, 10))), added(KEPT), True, False),
        (added(CAUSAL.T), added(CAUSAL), False, False),
        (np.zeros((3, 10)), added(KEPT), False, False),
        (np.zeros((3, 10)), added(KEPT | True), None, None),
        (added(KEPT, -1.0), added(KEPT), None, None),
        (added(KEPT) + 1, added(KEPT), None, None),
    ],
)
def test_masks_are_compared_by_what_they_keep(port, reference, agree, inverted):
    masks = layers.Masks(port, reference)
    assert bool(masks) == (agree is not None)
    if masks:
        assert (masks.agree, masks.inverted) == (agree, inverted)
