"""Step 04, loss: the same logits and the same labels give the same loss.

    python 04_test_loss.py

Then the loss and its gradient on awkward batches. Writes result/loss_paddle.npy,
result/loss_ref.npy and, in result/log, loss_diff.log and loss_cases.log.
"""

from alignment import cli  # isort: skip  (first: it says which package is missing)

import numpy as np
import paddle
import torch
from reprod_log import ReprodLogger

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.diff import DiffHelper, save
from alignment.locate import locate_loss
from alignment.power import forward_power
from alignment.precision import to_float64
from alignment.stages.cases import compare_cases
from alignment.stages.fake import load_fake_data
from alignment.stages.loss import loss_cases
from alignment.step import StepReport
from alignment.weights import load_paddle, load_torch
from torch2paddle import prepare

BATCH_SIZE = 4  # of one image, the sum of the losses is their mean


def loss_paddle(model, criterion, smoothed, inputs, labels):
    log = ReprodLogger()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(inputs))
        log.add("loss", criterion(logits, paddle.to_tensor(labels)).numpy())
        log.add("loss_label_smoothing", smoothed(logits, paddle.to_tensor(labels)).numpy())
        soft = paddle.to_tensor(soft_labels(labels, logits.shape[1]).astype(inputs.dtype))
        log.add("loss_soft_labels", smoothed(logits, soft).numpy())
    return log


def loss_torch(model, criterion, smoothed, inputs, labels, device):
    log = ReprodLogger()
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs).to(device))
        target = torch.from_numpy(labels).to(device)
        log.add("loss", criterion(logits, target).cpu().numpy())
        log.add("loss_label_smoothing", smoothed(logits, target).cpu().numpy())
        soft = torch.from_numpy(soft_labels(labels, logits.shape[1])).to(logits)
        log.add("loss_soft_labels", smoothed(logits, soft).cpu().numpy())
    return log


def soft_labels(labels, classes):
    """What mixup makes of labels: (N, classes) float64, 0.7 of an image's and 0.3 of another's."""
    one_hot = np.eye(classes)[labels]
    return 0.7 * one_hot + 0.3 * np.roll(one_hot, 1, axis=0)


def compare_awkward_batches(path):
    """Few classes, extreme logits, mixed labels; the log goes to `path`."""

    def port(smoothing, logits, labels):
        x = paddle.to_tensor(logits, stop_gradient=False)
        loss = paddle_mv3.CrossEntropyLoss(smoothing)(x, paddle.to_tensor(labels))
        (gradient,) = paddle.grad(loss, x)
        return {"loss": loss.numpy(), "gradient": gradient.numpy()}

    def reference(smoothing, logits, labels):
        x = torch.from_numpy(logits).requires_grad_()
        criterion = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
        loss = criterion(x, torch.from_numpy(labels))
        (gradient,) = torch.autograd.grad(loss, x)
        return {"loss": loss.detach().numpy(), "gradient": gradient.numpy()}

    return compare_cases("the loss", loss_cases(port, reference), path, "CrossEntropyLoss")


def main(args):
    paddle_criterion = paddle.nn.CrossEntropyLoss()
    torch_criterion = torch.nn.CrossEntropyLoss()
    # For training: label smoothing, and with mixup labels that are probabilities.
    paddle_smoothed = paddle_mv3.CrossEntropyLoss(label_smoothing=0.1)
    torch_smoothed = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    paddle_model = paddle_mv3.MODELS[args.model]()
    torch_model = torch_ref.MODELS[args.model]()
    torch_file, paddle_file, pairing = prepare(args, paddle_model, torch_model)
    inputs, labels = load_fake_data(args.data_dir, BATCH_SIZE)
    load_paddle(paddle_model, paddle_file, pairing)
    paddle_model.eval()
    load_torch(torch_model, torch_file)
    torch_model.eval().to(args.torch_device)

    def run_paddle(model):
        return loss_paddle(model, paddle_criterion, paddle_smoothed, inputs, labels)

    def run_torch(model):
        parts = torch_criterion, torch_smoothed, inputs, labels, args.torch_device
        return loss_torch(model, *parts)

    save(run_paddle(paddle_model), args.result_dir / "loss_paddle.npy")
    save(run_torch(torch_model), args.result_dir / "loss_ref.npy")

    # The same in float64, which tells a mistake from rounding.
    notes = to_float64(paddle_model, torch_model)
    inputs = inputs.astype("float64")
    paddle64, torch64 = run_paddle(paddle_model), run_torch(torch_model)

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "loss_ref.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "loss_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info, torch64.data, paddle64.data)

    log_dir = args.result_dir / "log"
    threshold = {"loss_soft_labels": thresholds.SOFT_LOSS, "loss*": thresholds.LOSS}
    report = StepReport(diff_helper, log_dir / "loss_diff.log", threshold, pairing=pairing)
    report.note(notes)
    if args.layers or not report.aligned:  # is it the model or the loss?
        port = paddle_model, paddle_criterion, run_paddle
        reference = torch_model, torch_criterion, run_torch
        path = log_dir / "loss_layers.log"
        report.locate(locate_loss(port, reference, path, pairing.layers))
    if report.aligned:  # how small a mistake in a weight would have been seen?
        x, y = (torch.from_numpy(array).to(args.torch_device) for array in (inputs, labels))

        def losses(model):
            logits = model(x)
            return [torch_criterion(logits, y), torch_smoothed(logits, y)]

        bound = max(diff_helper.float64_bound(key) for key in torch_info)
        report.measured(forward_power(torch_model, losses, bound))
    if report.aligned:
        report.add(compare_awkward_batches(log_dir / "loss_cases.log"))
    return report.finish(
        "the loss (mean or sum, label smoothing, softmax applied twice, class weights, ignored "
        "labels) if the layers agree, else step 01"
    )


if __name__ == "__main__":
    cli.run(main, cli.add_layers(cli.parser(__doc__, paddle_mv3.MODELS)), log="loss_diff")
