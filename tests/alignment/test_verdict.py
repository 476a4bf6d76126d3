"""Bug or rounding, and where: float64, layers, training, on right and on wrong ports."""

import json
import sys

import numpy as np
import paddle
import pytest
import torch
from conftest import ROOT

from alignment import layers, locate
from alignment.convert import convert
from alignment.diff import DiffHelper
from alignment.dropout import check_dropout, check_masks
from alignment.files import CannotRun
from alignment.precision import to_float64
from alignment.stages.data import describe_difference
from alignment.stages.metric import locate_metric
from alignment.step import StepReport
from alignment.training.comparison import Comparison
from alignment.training.quantities import (
    compare,
    compare_logits,
    compare_rates,
    optimizer_settings,
)
from alignment.training.steps import Side, rates_at_use
from paddle_mv3.norm import BatchNorm2D, kernel_is_biased

sys.path.insert(0, str(ROOT / "benchmarks"))
import false_alarms

TRUE = np.linspace(1, 2, 1000)
REFERENCE = (TRUE * (1 + 1e-7 * np.sin(7e3 * TRUE))).astype(np.float32)


def verdict(port, port64, threshold):
    helper = DiffHelper()
    helper.compare_info({"a": REFERENCE}, {"a": port}, {"a": TRUE}, {"a": port64})
    return helper.judge(diff_threshold=threshold)["a"].name


def test_the_four_verdicts():
    near = (TRUE * (1 + 1e-7 * np.cos(5e3 * TRUE))).astype(np.float32)
    coarse = TRUE.astype(np.float16).astype(np.float32)
    exact = TRUE * (1 + 1e-15)
    assert verdict(near, exact, 1e-5) == "aligned"
    assert verdict(near, exact, 1e-9) == "rounding"
    assert verdict(coarse, exact, 1e-5) == "imprecise"
    # A mistake of 1e-9 drowns in float32, and shows in float64.
    assert verdict(near, TRUE * (1 + 1e-9), 1e-5) == "misaligned"
    assert verdict(near, np.full_like(TRUE, np.nan), 1e-5) == "misaligned"
    assert verdict(near, TRUE[:, None], 1e-5) == "misaligned"


def test_rounding_passes_and_says_so(tmp_path, capsys):
    helper = DiffHelper()
    port = (TRUE * (1 + 1e-7 * np.cos(5e3 * TRUE))).astype(np.float32)
    helper.compare_info({"a": REFERENCE}, {"a": port}, {"a": TRUE}, {"a": TRUE})
    log = tmp_path / "x.log"
    report = StepReport(helper, log, 1e-9)
    report.note(["what was rounded"])
    assert report.finish()
    out = capsys.readouterr().out.splitlines()
    assert out[-2].endswith("diff check failed") and out[-1].startswith("aligned, rounding: a")
    lines = log.read_text().splitlines()
    assert lines[-2:] == [out[-1], "what was rounded"]
    summary = json.loads(log.with_suffix(".json").read_text())
    assert summary["verdict"] == "rounding" and summary["aligned"] is True


def test_float64_may_be_had_later(tmp_path):
    helper = DiffHelper()
    helper.compare_info({"a": REFERENCE * 200}, {"a": REFERENCE * 200 + np.float32(1e-4)})
    assert StepReport(helper, tmp_path / "x.log", 1.0).within_thresholds
    report = StepReport(helper, tmp_path / "x.log", 1e-12)
    assert not report.within_thresholds and not report.records_agree
    report.judge_in_float64({"a": TRUE * 200}, {"a": TRUE * 200})
    assert report.records_agree and not report.within_thresholds


def test_float_attributes_of_the_reference_are_rounded_and_named():
    port = paddle.nn.Sequential(paddle.nn.BatchNorm2D(3), paddle.nn.LeakyReLU(0.1))
    reference = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.01), torch.nn.LeakyReLU(0.1)
    )
    notes = to_float64(port, reference)
    assert reference[0].eps == 0.0010000000474974513
    assert 1 - reference[0].momentum == float(np.float32(0.99))
    assert reference[1].negative_slope == 0.1  # Paddle keeps this one as float64
    assert len(notes) == 2 and "BatchNorm2d.eps 0.001 -> 0.0010000000474974513" in notes[0]
    assert port[0].weight.dtype == paddle.float64 and reference[0].weight.dtype == torch.float64


LAYERS = [
    (paddle.nn.LeakyReLU(0.1), torch.nn.LeakyReLU(0.1)),
    (paddle.nn.ELU(0.1), torch.nn.ELU(0.1)),
    (paddle.nn.CELU(0.3), torch.nn.CELU(0.3)),
    (paddle.nn.Softplus(beta=1.1), torch.nn.Softplus(beta=1.1)),
    (paddle.nn.Softshrink(0.1), torch.nn.Softshrink(0.1)),
    (paddle.nn.Hardtanh(-0.1, 0.1), torch.nn.Hardtanh(-0.1, 0.1)),
    (paddle.nn.GroupNorm(2, 4, epsilon=1e-3), torch.nn.GroupNorm(2, 4, eps=1e-3)),
    (paddle.nn.LayerNorm(5, epsilon=1e-3), torch.nn.LayerNorm(5, eps=1e-3)),
    (paddle.nn.InstanceNorm2D(4, epsilon=1e-3), torch.nn.InstanceNorm2d(4, eps=1e-3)),
    (paddle.nn.BatchNorm2D(4, epsilon=1e-3), torch.nn.BatchNorm2d(4, eps=1e-3)),
]


@pytest.mark.parametrize(("port", "reference"), LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers_with_float_attributes_agree_in_float64(port, reference):
    to_float64(port, reference)
    x = np.random.RandomState(0).rand(2, 4, 5, 5) - 0.5
    y, z = port(paddle.to_tensor(x)).numpy(), reference(torch.tensor(x)).detach().numpy()
    assert layers.relative(y, z) < 1e-13


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.5])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (2, 3, 1, 1), (8, 3, 2, 7)])
def test_batch_norm_moves_its_statistics_as_pytorch_does(shape, momentum):
    rng = np.random.RandomState(0)
    port = BatchNorm2D(3, momentum=momentum)
    reference = torch.nn.BatchNorm2d(3, momentum=1 - momentum)
    to_float64(port, reference)
    for _ in range(5):
        x = rng.rand(*shape) * 3 + 1
        a, b = paddle.to_tensor(x, stop_gradient=False), torch.tensor(x, requires_grad=True)
        y, z = port(a), reference(b)
        (y**3).sum().backward()
        (z**3).sum().backward()
        assert np.allclose(y.numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-9)
        assert np.allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-6, atol=1e-6)
    assert np.allclose(port._mean.numpy(), reference.running_mean.numpy(), rtol=1e-13)
    assert np.allclose(port._variance.numpy(), reference.running_var.numpy(), rtol=1e-13)
    port.eval()
    reference.eval()
    x = rng.rand(*shape)
    assert np.allclose(
        port(paddle.to_tensor(x)).numpy(), reference(torch.tensor(x)).detach().numpy()
    )


def test_batch_norm_is_paddles_to_the_outside():
    mine, paddles = BatchNorm2D(3), paddle.nn.BatchNorm2D(3)
    assert list(mine.state_dict()) == list(paddles.state_dict())
    assert isinstance(mine, paddle.nn.BatchNorm2D)
    assert kernel_is_biased("Place(cpu)") in (True, False)
    # Frozen, or in eval mode, nothing moves.
    mine.eval()
    mine(paddle.rand([4, 3, 2, 2]))
    assert mine._variance.numpy().tolist() == [1, 1, 1]


def test_batch_norm_moves_its_statistics_alike_in_both_layouts():
    x = paddle.rand([4, 3, 5, 5])
    first, last = BatchNorm2D(3), BatchNorm2D(3, data_format="NHWC")
    first(x)
    last(x.transpose([0, 2, 3, 1]))
    assert np.allclose(first._variance.numpy(), last._variance.numpy(), rtol=1e-6)


class Port(paddle.nn.Layer):
    """Other names than the reference, an activation that is no layer."""

    def __init__(self, slope=0.1):
        super().__init__()
        self.stem = paddle.nn.Conv2D(3, 4, 3)
        self.norm = paddle.nn.BatchNorm2D(4)
        self.second = paddle.nn.Conv2D(4, 4, 3, padding=1)
        self.act = paddle.nn.LeakyReLU(slope)

    def forward(self, x):
        return self.act(self.second(paddle.nn.functional.relu(self.norm(self.stem(x)))))


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.conv2 = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.out = torch.nn.LeakyReLU(0.1)

    def forward(self, x):
        return self.out(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


def small_pair(**arguments):
    port, reference = Port(**arguments).eval(), Reference().eval()
    state = reference.state_dict()
    arrays = {
        mine: state[theirs].numpy()
        for mine, theirs in {
            "stem.weight": "conv1.weight",
            "stem.bias": "conv1.bias",
            "second.weight": "conv2.weight",
            "second.bias": "conv2.bias",
        }.items()
    }
    port.set_state_dict({**{k: v.numpy() for k, v in port.state_dict().items()}, **arrays})
    to_float64(port, reference)
    x = np.random.RandomState(0).rand(2, 3, 8, 8) - 0.5
    return (
        port,
        reference,
        lambda model: model(paddle.to_tensor(x)),
        lambda model: model(torch.tensor(x)),
    )


def test_layers_of_other_names_correspond_by_order_and_kind(tmp_path):
    port, reference, *run = small_pair()
    rows = layers.compare(layers.record(port, run[0]), layers.record(reference, run[1]))
    pairs = [(row.name, row.reference_name) for row in rows]
    named = [("stem", "conv1"), ("norm", "bn1"), ("second", "conv2"), ("act", "out")]
    assert pairs == [*named, ("", "")]  # and the model itself
    assert max(row.output for row in rows) < 1e-13
    located = locate.locate_forward(port, reference, *run, tmp_path / "layers.log")
    assert located.agrees and located.summary == "All 4 layers agree"
    assert len((tmp_path / "layers.log").read_text().splitlines()) == 2 + 4 + 1


def test_a_map_of_the_user_wins(tmp_path):
    port, reference, *run = small_pair()
    (tmp_path / "map.json").write_text('{"stem": "conv2"}')
    layer_map = layers.read_layer_map(tmp_path / "map.json", port, reference)
    located = locate.locate_forward(port, reference, *run, tmp_path / "x.log", layer_map)
    text = "\n".join(located.lines())
    assert "Differs (port | reference): stem: in_channels 3 | 4" in text
    for content in ("[1]", '{"a": 1}', "{"):
        (tmp_path / "map.json").write_text(content)
        with pytest.raises(CannotRun, match=r"map\.json"):
            layers.read_layer_map(tmp_path / "map.json", port, reference)


def test_setting_that_differs_is_read_off_and_the_layer_named(tmp_path):
    port, reference, *run = small_pair(slope=0.2)
    located = locate.locate_forward(port, reference, *run, tmp_path / "layers.log")
    setting, first = located.findings
    assert (setting.where, setting.quantity) == ("act", "negative_slope")
    assert (setting.port, setting.reference) == ("0.2", "0.1")
    assert (first.where, first.quantity) == ("act", "output") and first.difference > first.bound
    lines = located.lines()
    assert lines[0] == "Differs (port | reference): act: negative_slope 0.2 | 0.1"
    assert lines[1].startswith("First layer that differs: act: output differs by ")
    assert lines[2].startswith("LeakyReLU(negative_slope=0.2) | LeakyReLU(negative_slope=0.1)")
    assert "the mistake is in this layer" in lines[3]
    trace_lines = (tmp_path / "layers.log").read_text().splitlines()
    differ = [line.endswith("<-- differs") for line in trace_lines[2:]]
    assert differ == [False, False, False, True, True]  # the activation, and so the model


def test_function_call_between_layers_is_not_blamed_on_the_next(tmp_path):
    port, reference, *run = small_pair()
    port.forward = lambda x: port.act(port.second(port.norm(port.stem(x))))  # the ReLU is gone
    located = locate.locate_forward(port, reference, *run, tmp_path / "layers.log")
    assert located.findings[0].where == "second"
    assert "between norm and this layer" in located.findings[0].detail[1]


def test_what_differs_is_said_in_words():
    a = np.zeros((2, 3))
    assert layers.how_far(a, a) == "by 0.0e+00"
    assert layers.how_far(np.zeros(6), a) == "shape (6,) | (2, 3)"
    assert layers.how_far(None, a) == "none in the port"
    assert layers.how_far(a + np.nan, a) == "NaN or infinity in the port"
    # Means that are the same say nothing: the largest difference does.
    b = a.copy()
    b[1] = [-3, 0, 3]
    text = describe_difference(b.astype(np.uint8), a.astype(np.uint8))
    assert text == "2 of 6 values differ, most at (1, 0): 253 | 0"
    assert describe_difference(a, a) == ""
    assert "float64 (6,) | float64 (2, 3)" in describe_difference(np.zeros(6), a)


def test_shapes_that_do_not_fit_are_named_in_every_comparison():
    def named(rows):
        comparison = Comparison()
        comparison.differences = rows
        text = "\n".join(comparison.compared("a step").lines())
        assert "by inf" not in text
        return text

    a, b = np.ones((3, 2)), np.ones((2, 3))
    assert "update w: shape (3, 2) | (2, 3)" in named(compare("here", "update", {"w": a}, {"w": b}))
    assert "logits: shape (3, 2) | (2, 3)" in named(compare_logits("here", a, b))
    assert "none in the port" in named(compare("here", "gradient", {"w": None}, {"w": b}))
    assert "NaN or infinity in the port" in named(
        compare("here", "update", {"w": b * np.nan}, {"w": b})
    )
    record = {"acc_top1": np.ones(1)}
    located = locate_metric({"acc_top1": np.ones((1, 1))}, record, [[1.0]], [[1.0, 2.0]])
    assert located.lines()[0] == "First metric that differs: acc_top1: shape (1, 1) | (1,)"
    located = locate_metric({}, record, [], [])
    assert located.lines() == ["First metric that differs: acc_top1: none in the port"]
    layer, other = paddle.nn.Linear(2, 3), torch.nn.Linear(2, 4)
    assert locate.different_weights(layer, other) == []


def test_dropout_that_changes_the_shape_is_named():
    seen = {"shape": (2, 3), "factor": np.ones((2, 1))}
    ((text, value),) = check_dropout({"drop": (torch.nn.Dropout(0.5), seen)})
    assert text == "drop: takes shape (2, 3) and gives (2, 1)" and value == np.inf
    assert check_masks({"drop": (torch.nn.Dropout(0.5), seen)}, {}) == []


def test_the_rate_at_the_moment_of_its_use_is_seen():
    weight = paddle.create_parameter([1], "float32")
    port = paddle.optimizer.SGD(0.1, parameters=[weight])
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with rates_at_use(port, reference) as used:
        port.set_lr(0.2)
        port.step()
        reference.step()
        port.set_lr(0.1)
    assert used == {"port": 0.2, "reference": 0.1}
    row = compare_rates("step 0", **used, at_use=True)
    assert not row.agrees and row.kind == "learning rate in use"
    assert "takes no step" in compare_rates("step 0", None, 0.1, at_use=True).reason
    with rates_at_use(port, reference) as used:
        pass
    port.step()  # as it was
    assert used == {}


@pytest.mark.parametrize(
    ("port", "reference", "said"),
    [
        (
            lambda p: paddle.optimizer.RMSProp(0.1, rho=0.99, parameters=p),
            lambda p: torch.optim.RMSprop(p, 0.1, alpha=0.9, eps=1e-6),
            "optimizer: rho 0.99 | alpha 0.9",
        ),
        (
            lambda p: paddle.optimizer.Adam(0.1, beta2=0.99, parameters=p),
            lambda p: torch.optim.Adam(p, 0.1),
            "optimizer: beta2 0.99 | 0.999",
        ),
        (
            lambda p: paddle.optimizer.AdamW(0.1, parameters=p, weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01),
            "optimizer: weight_decay 0.1 | 0.01",
        ),
        (
            lambda p: paddle.optimizer.SGD(0.1, parameters=p[:1]),
            lambda p: torch.optim.SGD(p, 0.1),
            "optimizer: 1 parameter is in no group: never updated (bias)",
        ),
        (
            lambda p: paddle.optimizer.AdamW(0.1, parameters=p),
            lambda p: torch.optim.AdamW(p, 0.1),
            None,
        ),
    ],
)
def test_settings_of_optimizers(port, reference, said):
    models = paddle.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    sides = (
        Side(models[0], optimizer=port(models[0].parameters())),
        Side(models[1], optimizer=reference(models[1].parameters())),
    )
    assert optimizer_settings(*sides) == ([said] if said else [])


@pytest.mark.parametrize("script", ["01_test_forward.py", "04_test_loss.py", "05_test_backward.py"])
def test_trace_on_request(script, run, tmp_path):
    result = run(script, "--layers")
    assert result.status == 0, result.out
    assert "All 208 layers agree" in result.out
    name = {"01": "forward", "04": "loss", "05": "backward"}[script[:2]]
    lines = (tmp_path / "result" / "log" / f"{name}_layers.log").read_text().splitlines()
    assert len(lines) == 2 + 208 + 1 and not any("differs" in line for line in lines[2:])


@pytest.mark.slow
def test_many_steps_do_not_run_apart(run, tmp_path):
    result = run("05_test_backward.py", "--steps", "12")
    assert result.status == 0, result.out
    assert "float64, 12 iterations, each from the same state" in result.out
    lines = (tmp_path / "result" / "log" / "backward_training.log").read_text().splitlines()
    kinds = {line.split("  ")[1].strip() for line in lines[1:]}
    expected = {"learning rate", "loss", "gradient", "update", "running statistic", "dropout"}
    assert kinds == {*expected, "optimizer state", "logits", "learning rate in use"}
    # 142 parameters' gradients, updates and velocities, 68 statistics, logits, loss, learning rate
    # (2), dropout (2)
    assert len(lines) == 1 + 12 * (3 * 142 + 68 + 6)


def test_what_breaks_off_is_shown_and_cannot_run(run, monkeypatch):
    from paddle_mv3 import model

    monkeypatch.setattr(model.MobileNetV3, "forward", lambda self, x: self.nothing(x))
    result = run("01_test_forward.py")
    assert result.status == 2
    assert "Traceback" in result.err and "error: the step broke off: AttributeError" in result.err


CASES = [case for case in false_alarms.cases(seeds=1) if case[2].get("size") not in (256, 320)]


@pytest.mark.parametrize(
    ("group", "judge", "arguments"), CASES, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_no_false_alarm(group, judge, arguments):
    """A part of benchmarks/false_alarms.py: right ports are called right, far from the bounds."""
    name, over, ratio = judge(**arguments)
    assert name in ("aligned", "rounding")
    assert over < 0.2 and not ratio > 10


def test_arrays_beyond_the_limit_go_to_a_file_and_stay_the_same():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((10, 10), (3, 4, 5), (7,), (0, 3), (2, 2))]
    shelf = layers.Shelf(limit=1000)
    kept = [shelf.keep(array) for array in arrays]
    assert kept[0] is arrays[0]
    assert [isinstance(each, np.memmap) for each in kept] == [False, True, True, False, True]
    for array, each in zip(arrays, kept):
        assert each.shape == array.shape and np.array_equal(array, each)


def test_a_layer_that_is_called_twice_is_compared_twice(tmp_path):
    class Twice(paddle.nn.Layer):
        def __init__(self, factor):
            super().__init__()
            self.linear, self.factor = paddle.nn.Linear(4, 4), factor

        def forward(self, x):
            return self.linear(self.linear(x) * self.factor)

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(self.linear(x))

    reference, port = Reference().double(), Twice(2.0)
    port.to(dtype="float64")
    port.set_state_dict(convert(reference.state_dict(), port))
    x = np.random.default_rng(0).standard_normal((3, 4))
    runs = (lambda m: m(paddle.to_tensor(x))), (lambda m: m(torch.from_numpy(x)))
    located = locate.locate_forward(port, reference, *runs, tmp_path / "layers.log")
    assert located.findings[0].where == "linear (call 2)"
    assert "between linear and this layer" in located.findings[0].detail[1]
