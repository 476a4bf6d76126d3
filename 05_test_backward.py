"""Step 05, backward: the same loss gives the same gradients, and so the same losses to come.

    python 05_test_backward.py

Three iterations of training; then the parts of torchvision's recipes, each by itself: optimizers,
learning rates, weight decay, clipping, moving average. Writes result/losses_paddle.npy,
result/losses_ref.npy and, in result/log, backward_diff.log, backward_training.log and
backward_recipe.log; if the step is red, or with --layers, also backward_layers.log.
"""

from alignment import cli, arguments  # isort: skip  (first: it says which package is missing)

from dataclasses import replace
from functools import partial

import paddle
import torch

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.diff import DiffHelper, save
from alignment.files import shown
from alignment.precision import to_float64
from alignment.processes import beside
from alignment.stages.cases import compare_cases
from alignment.stages.fake import load_fake_data
from alignment.stages.norm import norm_cases
from alignment.stages.recipe import Optimizers, compare_recipe
from alignment.stages.variants import Variant, build_variant
from alignment.step import StepReport
from alignment.training.comparison import Comparison
from alignment.training.steps import Side, compare_training, locate_training, record_losses
from alignment.weights import load_paddle, load_torch
from torch2paddle import layers_of, prepare, rules

BATCH_SIZE, MAX_ITER = 4, 3
LR, MOMENTUM, GAMMA = 1e-3, 0.9, 0.5  # the learning rate is halved after every iteration
SMALL = {"width_mult": 0.25, "num_classes": 10}  # as many layers, fewer numbers
VARIANTS = [  # (Variant, iterations): a batch of one image, both models, odd sizes of images
    (Variant("mobilenet_v3_small", {"width_mult": 0.3, "num_classes": 3}, (1, 3, 65, 47)), 2),
    (Variant("mobilenet_v3_large", {**SMALL, "dropout": 0.5, "dilated": True}, (3, 3, 33, 64)), 1),
]


def optimizers():
    """Arguments that torchvision's recipes do not give, in Paddle's words and in PyTorch's."""
    both = paddle.optimizer.Momentum, torch.optim.SGD
    for momentum, nesterov, decay in ((0.5, False, 0.0), (0.99, True, 0.0), (0.9, True, 0.1)):
        arguments = {"momentum": momentum, "weight_decay": decay}
        port = {"learning_rate": 0.1, "use_nesterov": nesterov, **arguments}
        yield Optimizers(both[0], port, both[1], {"lr": 0.1, "nesterov": nesterov, **arguments})
    both = paddle_mv3.RMSProp, torch.optim.RMSprop
    for rho, epsilon, momentum, decay in ((0.99, 1e-8, 0.0, 0.0), (0.5, 1.0, 0.5, 0.1)):
        arguments = {"momentum": momentum, "weight_decay": decay}
        port = {"learning_rate": 0.01, "rho": rho, "epsilon": epsilon, **arguments}
        reference = {"lr": 0.01, "alpha": rho, "eps": epsilon, **arguments}
        yield Optimizers(both[0], port, both[1], reference)
    both = paddle.optimizer.AdamW, torch.optim.AdamW
    for beta1, beta2, epsilon, decay, amsgrad in (
        (0.9, 0.999, 1e-8, 0.0, False),
        (0.5, 0.9, 1e-3, 0.5, False),
        (0.8, 0.99, 1e-8, 0.01, True),
    ):
        arguments = {"weight_decay": decay, "amsgrad": amsgrad}
        port = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, **arguments}
        reference = {"lr": 0.01, "betas": (beta1, beta2), "eps": epsilon, **arguments}
        yield Optimizers(both[0], {"learning_rate": 0.01, **port}, both[1], reference)


def train_paddle(inputs, labels, model, criterion, optimizer, scheduler):
    """Trains on. Yields (loss, learning rate) when the gradients are there, then None."""
    model.train()
    while True:
        loss = criterion(model(inputs), labels)
        loss.backward()
        yield loss, optimizer.get_lr()
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()
        yield


def train_torch(inputs, labels, model, criterion, optimizer, scheduler):
    model.train()
    while True:
        loss = criterion(model(inputs), labels)
        loss.backward()
        yield loss.detach().cpu(), optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        yield


def load_models(args, **arguments):
    paddle_model = paddle_mv3.MODELS[args.model](**arguments)
    torch_model = torch_ref.MODELS[args.model](**arguments)
    torch_file, paddle_file, pairing = prepare(args, paddle_model, torch_model)
    load_paddle(paddle_model, paddle_file, pairing)
    load_torch(torch_model, torch_file)
    return paddle_model, torch_model.to(args.torch_device)


def start(paddle_model, torch_model, inputs, labels):
    """Both sides, ready to train on one batch in the models' precision."""
    scheduler = paddle.optimizer.lr.StepDecay(LR, step_size=1, gamma=GAMMA)
    optimizer = paddle.optimizer.Momentum(scheduler, MOMENTUM, parameters=paddle_model.parameters())
    parts = paddle_model, paddle.nn.CrossEntropyLoss(), optimizer, scheduler
    x, y = paddle.to_tensor(inputs), paddle.to_tensor(labels)
    port = Side(*parts, train_paddle(x.astype(paddle_model.parameters()[0].dtype), y, *parts))

    optimizer = torch.optim.SGD(torch_model.parameters(), lr=LR, momentum=MOMENTUM)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=GAMMA)
    parts = torch_model, torch.nn.CrossEntropyLoss(), optimizer, scheduler
    x, y = (torch.from_numpy(a).to(next(torch_model.parameters()).device) for a in (inputs, labels))
    return port, Side(*parts, train_torch(x.to(next(torch_model.parameters())), y, *parts))


def record_three_losses(args, inputs, labels, in_float64=False):
    """(the reference's, the port's) losses and learning rates, each side on its own.

    Without dropout: each would sample its own mask.
    """
    models = load_models(args, dropout=0.0)
    if in_float64:
        to_float64(*models)
    port, reference = start(*models, inputs, labels)
    return record_losses(reference, MAX_ITER), record_losses(port, MAX_ITER)


def compare_recipes(args):
    """Optimizers, schedules, weight decay, clipping, moving average."""

    def make_models():
        return paddle_mv3.MODELS[args.model](**SMALL), torch_ref.MODELS[args.model](**SMALL)

    path = args.result_dir / "log" / "backward_recipe.log"
    table = partial(rules, layer_map=layers_of(args))
    recipe = compare_recipe(paddle_mv3, torch_ref, make_models, table, [*optimizers()])
    recipe.write(path)
    return recipe.compared(
        "the recipe", "optimizers, schedules and clipping of torchvision's recipes", log=path
    )


def compare_batch_norm(path):
    """By itself, on edge cases; as it is on one rank, and synchronised over one."""

    def port(kept, epsilon, trains, given, sync=False):
        layer = paddle_mv3.BatchNorm2D(len(given["mean"]), momentum=kept, epsilon=epsilon)
        layer.to(dtype="float64")
        layer.sync = sync
        layer.train() if trains else layer.eval()
        values = {name: paddle.to_tensor(array) for name, array in given.items()}
        state = {"weight": "weight", "bias": "bias", "_mean": "mean", "_variance": "variance"}
        layer.set_state_dict({name: values[source] for name, source in state.items()})
        x = values["x"]
        x.stop_gradient = False
        y = layer(x)
        gradients = paddle.grad(y, [x, layer.weight, layer.bias], values["gradient"])
        found = dict(zip(("output", "x", "weight", "bias"), (y, *gradients)))
        found |= {"mean": layer._mean, "variance": layer._variance}
        return {name: tensor.numpy() for name, tensor in found.items()}

    def reference(kept, epsilon, trains, given):
        layer = torch.nn.BatchNorm2d(len(given["mean"]), eps=epsilon, momentum=1 - kept).double()
        layer.train(trains)
        values = {name: torch.from_numpy(array.copy()) for name, array in given.items()}
        names = ("weight", "weight"), ("bias", "bias"), ("mean", "running_mean")
        names = (*names, ("variance", "running_var"))
        state = {name: values[source] for source, name in names}
        layer.load_state_dict(state, strict=False)
        x = values["x"].requires_grad_()
        y = layer(x)
        gradients = torch.autograd.grad(y, [x, layer.weight, layer.bias], values["gradient"])
        found = dict(zip(("output", "x", "weight", "bias"), (y, *gradients)))
        found |= {"mean": layer.running_mean, "variance": layer.running_var}
        return {name: tensor.detach().numpy() for name, tensor in found.items()}

    cases = norm_cases(port, reference)
    for case in norm_cases(partial(port, sync=True), reference):
        cases.append(replace(case, name=f"synchronised, {case.name}"))
    return compare_cases("batch norm", cases, path, "BatchNorm2D in the case named above")


def compare_variants(inputs, labels, layer_map, path):
    """Iterations of other models, arguments and batches, from extreme weights."""
    training = Comparison()
    for variant, steps in VARIANTS:
        models = build_variant(variant, paddle_mv3, torch_ref, layer_map)
        count, _, height, width = variant.image
        crop, targets = inputs[:count, :, :height, :width], labels[:count]
        sides = start(*models, crop, targets % variant.arguments["num_classes"])
        table = rules(models[0], layer_map)
        training.add(compare_training(*sides, table, steps), str(variant))
        if not training.agrees:
            break
    training.write(path)
    what = f"{len(VARIANTS)} variants of the models with extreme weights"
    return training.compared("the training of another variant", what, log=path)


def main(args):
    with beside(args.device, compare_recipes, args) as recipes:
        return compare(args, recipes)


def compare(args, recipes):
    """The step; `recipes` gives what is found in these."""
    inputs, labels = load_fake_data(args.data_dir, BATCH_SIZE)
    log_dir = args.result_dir / "log"

    # Float32, each side on its own.
    torch_log, paddle_log = record_three_losses(args, inputs, labels)
    save(paddle_log, args.result_dir / "losses_paddle.npy")
    save(torch_log, args.result_dir / "losses_ref.npy")

    # Float64, every iteration of both sides from one state, the port's dropout masks for both: each
    # gradient, update, statistic. A part of the images will do.
    crop = inputs[:, :, :96, :96]
    models = load_models(args)
    notes = to_float64(*models)
    pairing = args.pairing
    training = compare_training(
        *start(*models, crop, labels), pairing.table, max(args.steps, MAX_ITER)
    )
    training_log = log_dir / "backward_training.log"
    training.write(training_log)

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "losses_ref.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "losses_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info)

    report = StepReport(
        diff_helper,
        log_dir / "backward_diff.log",
        {"loss_*": thresholds.TRAIN_LOSS, "lr_*": thresholds.LEARNING_RATE},
        bound={"loss_*": thresholds.GRADIENT_FLOAT64, "lr_*": thresholds.LEARNING_RATE},
        pairing=pairing,
    )
    report.note(notes)
    if not report.within_thresholds:  # is that rounding?
        torch64, paddle64 = record_three_losses(args, inputs, labels, in_float64=True)
        report.judge_in_float64(torch64.data, paddle64.data)
    report.add(training.compared("a training step", advise=pairing.fits, log=training_log))
    if args.layers or not report.aligned:  # which layer is the first that differs?
        sides = start(*models, crop, labels)
        path = log_dir / "backward_layers.log"
        report.locate(locate_training(*sides, path, pairing.layers))
    if report.aligned:
        path = log_dir / "backward_variants.log"
        report.add(compare_variants(inputs, labels, pairing.layers, path))
    if report.aligned:
        report.add(compare_batch_norm(log_dir / "backward_batch_norm.log"))
    if report.aligned:
        report.add(recipes())
        report.measured(training.power())
    return report.finish(f"{shown(training_log)}, every quantity of every iteration")


if __name__ == "__main__":
    flags = cli.add_layers(cli.parser(__doc__, paddle_mv3.MODELS))
    flags.add_argument(
        "--steps",
        type=arguments.steps,
        default=MAX_ITER,
        help="iterations that are compared in float64",
    )
    cli.run(main, flags, log="backward_diff")
