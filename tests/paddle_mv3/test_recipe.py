"""Optimizers, schedules, regularisation, initialisation: the port's against PyTorch's."""

import itertools

import numpy as np
import paddle
import pytest
import torch

import paddle_mv3
import torch_ref
from alignment.stages.initialisation import compare_initialisation
from alignment.stages.recipe import compare_recipe
from paddle_mv3.training.ema import adjusted_decay
from torch2paddle import convert, rules

SMALL = {"width_mult": 0.25, "num_classes": 10}
ZERO = paddle.nn.initializer.Constant(0.0)
RMSPROP = {"rho": 0.9, "epsilon": 0.0316, "momentum": 0.9}


def small_models():
    return paddle_mv3.mobilenet_v3_small(**SMALL), torch_ref.mobilenet_v3_small(**SMALL)


@pytest.mark.parametrize("seed", [1, 2])
def test_recipe_is_torchvisions(seed):
    """Each optimizer for 20 steps: in float64 from shared states, in float32 freely."""
    comparison = compare_recipe(paddle_mv3, torch_ref, small_models, rules, seed=seed)
    compared = comparison.compared("the recipe")
    assert compared.agrees, compared.lines()
    where = {row.where for row in comparison.differences}
    for name in (*paddle_mv3.OPTIMIZERS, "sgd without momentum"):
        assert {f"optimizer {name}, step {i}" for i in range(20)} <= where
        assert f"optimizer {name}, 20 steps" in where
    kinds = {row.kind for row in comparison.differences}
    assert kinds == {
        *(
            "default argument",
            "weight decay",
            "update",
            "optimizer state",
            "free run",
            "learning rate",
        ),
        *("clipped gradient", "moving average"),
    }
    changed = [row for row in comparison.differences if row.kind in ("update", "optimizer state")]
    assert max(row.value for row in changed) < 2e-7
    free = [row.value for row in comparison.differences if row.kind == "free run"]
    assert max(free) < 1e-5


# --- RMSProp ---------------------------------------------------------------------------------


def parameters(seed=0, shapes=((5, 3), (3,), ()), dtype="float32"):
    rng = np.random.default_rng(seed)
    return [
        paddle.create_parameter(
            list(shape),
            dtype,
            default_initializer=paddle.nn.initializer.Assign(rng.standard_normal(shape)),
        )
        for shape in shapes
    ]


def step(optimizer, tensors, rng, scale=1.0):
    for tensor in tensors:
        gradient = scale * rng.standard_normal(tensor.shape)
        tensor.grad = paddle.to_tensor(gradient, dtype="float32").astype(tensor.dtype)
    optimizer.step()


def test_rmsprop_stops_and_goes_on_bit_for_bit(tmp_path):
    """state_dict and set_state_dict, with a schedule, groups and clipping."""

    def build():
        tensors = parameters()
        groups = [
            {"params": tensors[:1], "weight_decay": 1e-2},
            {"params": tensors[1:], "weight_decay": 0.0},
        ]
        schedule = paddle_mv3.WarmupSchedule(0.01, "exponentiallr", lr_gamma=0.5, epochs=10)
        clip = paddle.nn.ClipGradByGlobalNorm(0.5)
        optimizer = paddle_mv3.RMSProp(schedule, **RMSPROP, parameters=groups, grad_clip=clip)
        return tensors, schedule, optimizer

    def train(tensors, schedule, optimizer, steps, rng):
        for _ in range(steps):
            step(optimizer, tensors, rng)
            schedule.step()

    new_process = paddle.utils.unique_name.guard  # in which names are given out from the start
    with new_process():
        tensors, *parts = build()
        train(tensors, *parts, 6, np.random.default_rng(1))

    rng = np.random.default_rng(1)
    with new_process():
        first, *first_parts = build()
        train(first, *first_parts, 3, rng)
    paddle.save(first_parts[1].state_dict(), str(tmp_path / "half.pdopt"))

    with new_process():
        second, *second_parts = build()
        for a, b in zip(second, first):
            a.set_value(b)
        second_parts[1].set_state_dict(paddle.load(str(tmp_path / "half.pdopt")))
        train(second, *second_parts, 3, rng)
    for a, b in zip(tensors, second):
        assert np.array_equal(a.numpy(), b.numpy())
    assert parts[1].get_lr() == second_parts[1].get_lr() == 0.01 / 64


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_rmsprop_without_groups(momentum, weight_decay):
    tensors = parameters(dtype="float64")
    theirs = [torch.nn.Parameter(torch.from_numpy(x.numpy())) for x in tensors]
    settings = {**RMSPROP, "momentum": momentum}
    mine = paddle_mv3.RMSProp(0.01, **settings, parameters=tensors, weight_decay=weight_decay)
    reference = torch.optim.RMSprop(
        theirs, 0.01, alpha=0.9, eps=0.0316, momentum=momentum, weight_decay=weight_decay or 0.0
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        for a, b in zip(tensors, theirs):
            gradient = rng.standard_normal(a.shape)
            a.grad, b.grad = paddle.to_tensor(gradient), torch.from_numpy(np.array(gradient))
        mine.step()
        reference.step()
    for a, b in zip(tensors, theirs):
        assert np.abs(a.numpy() - b.detach().numpy()).max() < 1e-7


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rmsprop_has_master_weights(dtype, grouped):
    """Updates that are lost in half precision add up in the float32 copy."""
    single = parameters()
    half = [paddle.create_parameter(x.shape, dtype, default_initializer=ZERO) for x in single]
    with paddle.no_grad():
        for a, b in zip(half, single):
            paddle.assign(b.astype(dtype), a)
            paddle.assign(a.astype("float32"), b)
    settings = {**RMSPROP, "weight_decay": 0.01}
    groups = [{"params": [x], "weight_decay": 0.01} for x in half] if grouped else half
    optimizer = paddle_mv3.RMSProp(1e-4, **settings, parameters=groups, multi_precision=True)
    reference = paddle_mv3.RMSProp(1e-4, **settings, parameters=single, multi_precision=True)
    rng = np.random.default_rng(0)
    before = [x.astype("float32").numpy() for x in half]
    for _ in range(20):
        for a, b in zip(half, single):
            gradient = paddle.to_tensor(rng.standard_normal(a.shape), dtype="float32").astype(dtype)
            a.grad, b.grad = gradient, gradient.astype("float32")
        optimizer.step()
        reference.step()
    assert not reference.state_dict().get("master_weights")  # float32 needs none
    masters = optimizer.state_dict()["master_weights"]
    for a, b, start in zip(half, single, before):
        assert a.dtype == getattr(paddle, dtype)
        master = masters[a.name].numpy()
        assert np.array_equal(master, b.numpy())
        assert not np.array_equal(master, start)
        assert np.array_equal(
            a.astype("float32").numpy(), b.astype(dtype).astype("float32").numpy()
        )


@pytest.mark.skipif(not paddle.device.cuda.device_count(), reason="AMP is for GPUs")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rmsprop_under_amp(dtype):
    """O2 by paddle.amp.decorate, and a scaler that leaves out a step with infinities."""
    paddle.set_device("gpu")
    model = paddle.nn.Linear(4, 3)
    optimizer = paddle_mv3.RMSProp(0.01, **RMSPROP, parameters=model.parameters())
    model, optimizer = paddle.amp.decorate(model, optimizer, level="O2", dtype=dtype)
    scaler = paddle.amp.GradScaler(init_loss_scaling=4.0, decr_every_n_nan_or_inf=1)
    # The gradient is 2: momentum_buffer = 2 / (sqrt(0.1 * 4) + 0.0316). Then infinity: no step.
    expected = -0.01 * 2 / (np.sqrt(0.4) + 0.0316)
    for value in (1.0, np.inf):
        with paddle.amp.auto_cast(level="O2", dtype=dtype):
            loss = model(paddle.full([2, 4], value)).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.clear_grad()
        master = optimizer.state_dict()["master_weights"][model.bias.name]
        assert np.allclose(master.numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 1.0}, "rho is 1.0"),
        ({"rho": -0.1}, "rho is -0.1"),
        ({"epsilon": -1e-8}, "epsilon is -1e-08"),
        ({"momentum": -0.9}, "momentum is -0.9"),
    ],
)
def test_rmsprop_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        paddle_mv3.RMSProp(0.01, parameters=parameters(), **arguments)


def test_create_optimizer():
    def build(opt, **arguments):
        return paddle_mv3.create_optimizer(opt, parameters(), 0.1, **arguments)

    assert type(build("sgd", momentum=0)) is paddle.optimizer.SGD
    assert type(build("sgd")) is paddle.optimizer.Momentum
    assert build("sgd_nesterov")._use_nesterov and not build("sgd")._use_nesterov
    assert type(build("adamw")) is paddle.optimizer.AdamW
    with pytest.raises(ValueError, match=r"no optimizer 'adam'.*rmsprop"):
        build("adam")


def test_a_second_optimizer_does_not_inherit_the_decay_of_the_first():
    tensors = parameters()
    groups = [{"params": tensors, "weight_decay": 0.5}]
    paddle_mv3.create_optimizer("rmsprop", groups, 0.1)
    optimizer = paddle_mv3.create_optimizer("adamw", tensors, 0.1, weight_decay=0.0)
    before = [x.numpy() for x in tensors]
    for tensor in tensors:
        tensor.grad = paddle.zeros_like(tensor)
    optimizer.step()
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, tensors))


# --- weight decay ----------------------------------------------------------------------------


def test_weight_decay_groups_of_all_kinds_of_layers():
    def paddle_net():
        nn = paddle.nn
        layers = [nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.GroupNorm(2, 4), nn.InstanceNorm2D(4)]
        return nn.Sequential(*layers, nn.LayerNorm(4), nn.Linear(4, 4, bias_attr=False), nn.PReLU())

    def torch_net():
        nn = torch.nn
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)]
        layers += [nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(4), nn.Linear(4, 4, bias=False)]
        return nn.Sequential(*layers, nn.PReLU())

    port, reference = paddle_net(), torch_net()
    theirs = dict(reference.named_parameters())
    for decays in itertools.product([1e-2], [None, 0.0, 1e-3], [None, 0.0, 0.1]):
        mine, expected = (
            {id(p): group["weight_decay"] for group in groups for p in group["params"]}
            for groups in (
                paddle_mv3.weight_decay_groups(port, *decays),
                torch_ref.weight_decay_groups(reference, *decays),
            )
        )
        for name, (source, _) in rules(port).items():
            if source in theirs:
                parameter = dict(port.named_parameters())[name]
                assert mine[id(parameter)] == expected[id(theirs[source])], (name, decays)
        assert len(mine) == len(expected) == len(theirs)


# --- schedules -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", paddle_mv3.LR_SCHEDULERS)
@pytest.mark.parametrize("method", paddle_mv3.LR_WARMUP_METHODS)
def test_schedule_is_pytorchs_to_the_last_bit(name, method):
    """600 epochs and 30 beyond, at the moment of use; several warm-ups, decays, minima."""
    for warmup, decay, minimum, lr, step_size, gamma in itertools.product(
        (0, 1, 2, 5, 7), (0.01, 1 / 3, 1.0), (0.0, 1e-5), (0.064, 0.5), (2, 30), (0.973,)
    ):
        arguments = {
            "lr_scheduler": name,
            "epochs": 600,
            "lr_warmup_epochs": warmup,
            "lr_warmup_method": method,
            "lr_warmup_decay": decay,
            "lr_step_size": step_size,
            "lr_gamma": gamma,
            "lr_min": minimum,
        }
        reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr)
        schedule_ref = torch_ref.create_lr_scheduler(reference, **arguments)
        schedule = paddle_mv3.WarmupSchedule(lr, **arguments)
        reference.step()  # once: PyTorch warns where there was none
        for epoch in range(630):
            assert schedule() == reference.param_groups[0]["lr"], (arguments, epoch)
            schedule_ref.step()
            schedule.step()


def test_schedule_goes_on_from_a_state():
    def build():
        return paddle_mv3.WarmupSchedule(0.5, "cosineannealinglr", 100, 5, "linear")

    whole = build()
    for _ in range(63):
        whole.step()
    second = build()
    second.set_state_dict(whole.state_dict())
    assert second() == whole()
    whole.step()
    second.step()
    assert second() == whole()
    third = build()
    third.step(64)
    assert third() == whole()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr_scheduler": "poly"}, "lr_scheduler is 'poly': choose from steplr"),
        ({"lr_warmup_method": "exp"}, "lr_warmup_method is 'exp': choose from linear"),
        ({"lr_warmup_decay": 0.0}, "lr_warmup_decay is 0.0"),
        ({"lr_step_size": 0}, "lr_step_size is 0"),
        ({"lr_warmup_epochs": 90}, "lr_warmup_epochs is 90"),
    ],
)
def test_schedule_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        paddle_mv3.WarmupSchedule(0.1, **arguments)


# --- loss, moving average --------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_cross_entropy(smoothing, soft, scale):
    """Value and gradient in float64, also where an image counts for more than 64."""
    rng = np.random.default_rng(0)
    logits = scale * rng.standard_normal((6, 50))
    labels = rng.dirichlet(np.ones(50), 6) if soft else rng.integers(0, 50, 6)
    x = torch.from_numpy(logits).requires_grad_()
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(x, torch.from_numpy(labels))
    expected.backward()
    y = paddle.to_tensor(logits, stop_gradient=False)
    loss = paddle_mv3.CrossEntropyLoss(smoothing)(y, paddle.to_tensor(labels))
    loss.backward()
    assert abs(float(loss) / float(expected) - 1) < 1e-14
    assert np.abs(y.grad.numpy() - x.grad.numpy()).max() < 1e-13 * np.abs(x.grad.numpy()).max()


def test_label_smoothing_is_checked():
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.5"):
        paddle_mv3.CrossEntropyLoss(1.5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_moving_average_of_a_model_in_16_bits_moves(dtype):
    model = paddle.nn.Linear(3, 2)
    model.to(dtype=dtype)
    average = paddle_mv3.ExponentialMovingAverage(model, 0.999)
    average.update(model)
    start = average.module.weight.numpy()
    assert start.dtype == np.float32
    with paddle.no_grad():
        model.weight.set_value(model.weight + 1)
    end = model.weight.astype("float32").numpy()
    for _ in range(100):
        average.update(model)
    moved = (average.module.weight.numpy() - start) / (end - start)
    assert np.allclose(moved, 1 - 0.999**100, rtol=1e-3)


def test_moving_average_goes_on_from_a_state():
    model = paddle.nn.Linear(3, 2)
    average = paddle_mv3.ExponentialMovingAverage(model, 0.9)

    def move(scale):
        with paddle.no_grad():
            for parameter in model.parameters():
                parameter.set_value(parameter + scale)

    for scale in (1.0, 2.0):
        average.update(model)
        move(scale)
    second = paddle_mv3.ExponentialMovingAverage(model, 0.9)
    second.set_state_dict(average.state_dict())
    for either in (average, second):
        either.update(model)
    assert average.n_averaged == second.n_averaged == 3
    for a, b in zip(average.module.parameters(), second.module.parameters()):
        assert np.array_equal(a.numpy(), b.numpy())
    assert not np.array_equal(model.weight.numpy(), average.module.weight.numpy())
    with pytest.raises(ValueError, match=r"decay is 1\.5"):
        paddle_mv3.ExponentialMovingAverage(model, 1.5)


def test_adjusted_decay_of_the_published_recipe():
    # 8 GPUs x 128 images, every 32 steps, 600 epochs, --model-ema-decay 0.99998
    assert adjusted_decay(0.99998, 128, 8, 32, 600) == pytest.approx(1 - 2e-5 * 1024 * 32 / 600)
    assert adjusted_decay(0.5, 1024, 8, 32, 10) == 0.0


# --- initialisation --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", paddle_mv3.MODELS)
def test_initialisation_over_many_seeds(model, tmp_path):
    makers = paddle_mv3.MODELS[model], torch_ref.MODELS[model]
    compared = compare_initialisation(*makers, rules, tmp_path / "log", seeds=40)
    assert compared.agrees, compared.lines()


def test_initialisation_of_the_large_model(tmp_path):
    makers = paddle_mv3.mobilenet_v3_large, torch_ref.mobilenet_v3_large
    compared = compare_initialisation(*makers, rules, tmp_path / "log", seeds=4)
    assert compared.agrees, compared.lines()
    log = (tmp_path / "log").read_text().splitlines()
    names = {line.split()[0] for line in log[1:]}
    assert names == set(rules(paddle_mv3.mobilenet_v3_large()))


@pytest.mark.parametrize(
    ("change", "test"),
    [
        (lambda w: w * 1.02, "standard deviation"),
        (lambda w: w + 0.02 * w.std(), "mean"),
        (lambda w: paddle.uniform(w.shape, min=-1, max=1) * float(w.std()) * 3**0.5, "Kolmogorov"),
        (
            lambda w: paddle.to_tensor(np.random.RandomState(0).randn(*w.shape) / 100),
            "another seed",
        ),
    ],
)
def test_small_errors_of_initialisation_are_found(change, test, tmp_path):
    def make():
        port = paddle.nn.Sequential(paddle.nn.Linear(400, 400))
        paddle.nn.initializer.Normal(0, 0.01)(port[0].weight)
        port[0].weight.set_value(change(port[0].weight).astype("float32"))
        return port

    def make_reference():
        reference = torch.nn.Sequential(torch.nn.Linear(400, 400))
        torch.nn.init.normal_(reference[0].weight, 0, 0.01)
        torch.nn.init.zeros_(reference[0].bias)
        return reference

    compared = compare_initialisation(make, make_reference, rules, tmp_path / "log")
    assert not compared.agrees
    assert "0.weight" in compared.lines()[0] and test in compared.lines()[0]


def test_conversion_of_a_small_model_is_whole():
    """What compare_recipe rests on: both small models have the same parameters."""
    port, reference = small_models()
    port.set_state_dict(convert(reference.state_dict(), port))
    for name, (source, rule) in rules(port).items():
        expected = reference.state_dict()[source].numpy()
        got = port.state_dict()[name].numpy()
        assert np.array_equal(got, expected.T if rule == "transpose" else expected)
