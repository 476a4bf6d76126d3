"""Step 01, forward: the same weights and the same input give the same logits.

    python 01_test_forward.py
    python 01_test_forward.py --model mobilenet_v3_large

Freshly initialised, both models must be sampled from the same distributions. Then other arguments
of the network, other sizes of images and extreme weights. Writes
result/forward_paddle.npy, result/forward_torch.npy and, in result/log, forward_diff.log and
forward_initialisation.log; if the step is red, or with --layers, also forward_layers.log or
forward_variants.log.
"""

from alignment import cli  # isort: skip  (first: it says which package is missing)

from functools import partial

import paddle
import torch
from reprod_log import ReprodLogger

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.diff import DiffHelper, save
from alignment.locate import locate_forward
from alignment.power import forward_power
from alignment.precision import to_float64
from alignment.processes import beside
from alignment.stages.fake import load_fake_data
from alignment.stages.initialisation import compare_initialisation
from alignment.stages.variants import Variant, compare_variants, untried_arguments
from alignment.step import StepReport
from alignment.weights import load_paddle, load_torch
from torch2paddle import layers_of, prepare, rules

# Each argument of the network has a second value here, images have sizes that are not even. Of the
# width 10 / 9, rounding a number of channels loses a tenth, neither more nor less.
VARIANTS = [
    Variant("mobilenet_v3_large", {"num_classes": 10}),
    Variant(
        "mobilenet_v3_small",
        {"width_mult": 0.45, "num_classes": 3, "dropout": 0.5},
        (1, 3, 33, 47),
        initialised=True,
    ),
    Variant(
        "mobilenet_v3_large",
        {"width_mult": 0.35, "num_classes": 2, "dropout": 0.0},
        (1, 3, 1, 1),
        initialised=True,
    ),
    Variant(
        "mobilenet_v3_small",
        {"width_mult": 10 / 9, "num_classes": 10, "reduced_tail": True},
        (1, 3, 96, 5),
    ),
    Variant(
        "mobilenet_v3_large",
        {"width_mult": 0.25, "num_classes": 10, "dilated": True},
        (1, 3, 65, 80),
    ),
    Variant(
        "mobilenet_v3_small",
        {"width_mult": 0.25, "num_classes": 10, "reduced_tail": True, "dilated": True},
        (2, 3, 97, 64),
    ),
]
# Channels are rounded to multiples of 8: at 8 times the width no number is hidden by that.
WIDE = [Variant(f"mobilenet_v3_{size}", {"width_mult": 8}) for size in ("small", "large")]


def forward_paddle(model, inputs):
    log = ReprodLogger()
    with paddle.no_grad():
        log.add("logits", model(paddle.to_tensor(inputs)).numpy())
    return log


def forward_torch(model, inputs, device):
    log = ReprodLogger()
    with torch.no_grad():
        log.add("logits", model(torch.from_numpy(inputs).to(device)).cpu().numpy())
    return log


def compare_all_variants(args):
    """Other arguments, odd sizes of images, extreme weights: still the same?"""
    layers = layers_of(args)
    path = args.result_dir / "log" / "forward_variants.log"
    table = partial(rules, layer_map=layers)
    return compare_variants(paddle_mv3, torch_ref, VARIANTS, table, path, layers, WIDE)


def main(args):
    with beside(args.device, compare_all_variants, args) as variants:
        return compare(args, variants)


def compare(args, variants):
    """The step; `variants` gives what is found in these."""
    # The port and the reference, with the same weights. Eval mode: no dropout, batch norm with
    # its running statistics.
    paddle_model = paddle_mv3.MODELS[args.model]()
    torch_model = torch_ref.MODELS[args.model]()
    torch_file, paddle_file, pairing = prepare(args, paddle_model, torch_model)
    inputs, _ = load_fake_data(args.data_dir)
    load_paddle(paddle_model, paddle_file, pairing)
    paddle_model.eval()
    load_torch(torch_model, torch_file)
    torch_model.eval().to(args.torch_device)

    # Both sides are recorded under the same key.
    save(forward_paddle(paddle_model, inputs), args.result_dir / "forward_paddle.npy")
    save(
        forward_torch(torch_model, inputs, args.torch_device), args.result_dir / "forward_torch.npy"
    )

    # The same in float64, which tells a mistake from rounding.
    notes = to_float64(paddle_model, torch_model)
    inputs = inputs.astype("float64")
    paddle64 = forward_paddle(paddle_model, inputs)
    torch64 = forward_torch(torch_model, inputs, args.torch_device)

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "forward_torch.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "forward_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info, torch64.data, paddle64.data)

    log_dir = args.result_dir / "log"
    path = log_dir / "forward_diff.log"
    report = StepReport(diff_helper, path, thresholds.LOGITS, pairing=pairing)
    report.note(notes)
    if args.layers or not report.aligned:  # which layer is the first that differs?

        def run_paddle(model):
            forward_paddle(model, inputs)

        def run_torch(model):
            forward_torch(model, inputs, args.torch_device)

        models, runs = (paddle_model, torch_model), (run_paddle, run_torch)
        path = log_dir / "forward_layers.log"
        report.locate(locate_forward(*models, *runs, path, pairing.layers))
    if report.aligned:  # how small a mistake in a weight would have been seen?

        def logits(model):
            return [model(torch.from_numpy(inputs).to(args.torch_device))]

        bound = diff_helper.float64_bound("logits")
        report.measured(forward_power(torch_model, logits, bound))
    if report.aligned:  # fresh models: is each parameter sampled from the same distribution?
        factories = paddle_mv3.MODELS[args.model], torch_ref.MODELS[args.model]
        path = log_dir / "forward_initialisation.log"
        table = partial(rules, layer_map=pairing.layers)
        report.add(compare_initialisation(*factories, table, path))
    if report.aligned:
        report.add(variants())
    untried = ", ".join(untried_arguments(torch_model, VARIANTS))
    others = ", ".join(name for name in paddle_mv3.MODELS if name != args.model)
    report.leave_out(
        f"{others}, except for some variants (--model {others} compares all of it); the "
        f"reference's arguments {untried}"
    )
    return report.finish(
        "the layer named above, and the reference's; python torch2paddle.py shows how each weight "
        "was converted"
    )


if __name__ == "__main__":
    cli.run(main, cli.add_layers(cli.parser(__doc__, paddle_mv3.MODELS)), log="forward_diff")
