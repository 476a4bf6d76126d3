"""Step 03, metric: the same logits and labels give the same accuracies, exactly, and mean loss.

On one process, and dealt out to several; then on awkward batches.

    python 03_test_metric.py

Writes result/metric_paddle.npy, result/metric_ref.npy and, in result/log, metric_diff.log and
metric_cases.log.
"""

from alignment import cli  # isort: skip  (first: it says which package is missing)

import math

import numpy as np
import paddle
import torch
from reprod_log import ReprodLogger

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.diff import DiffHelper, save
from alignment.power import Smallest
from alignment.stages.cases import compare_cases
from alignment.stages.fake import draw_labels
from alignment.stages.metric import locate_metric, metric_cases
from alignment.step import StepReport
from alignment.weights import load_paddle, load_torch
from torch2paddle import prepare

WORLD_SIZES = (2, 3, 8)  # of five batches, the last one small: not all ranks have as many


def compute_logits(args, image_dir):
    """(Paddle's, PyTorch's) logits over all images, two lists of a batch's arrays each.

    Small images, 96 px, as only the order of the logits counts here.
    """
    paddle_model = paddle_mv3.MODELS[args.model]()
    torch_model = torch_ref.MODELS[args.model]()
    torch_file, paddle_file, pairing = prepare(args, paddle_model, torch_model)
    load_paddle(paddle_model, paddle_file, pairing)
    load_torch(torch_model, torch_file)
    paddle_model.eval()
    torch_model.eval().to(args.torch_device)

    preset = paddle_mv3.ClassificationPresetEval(crop_size=96, resize_size=110)
    loader = paddle_mv3.DataLoader(paddle_mv3.ImageFolder(image_dir, preset), batch_size=32)
    paddle_logits, torch_logits = [], []
    with paddle.no_grad(), torch.no_grad():
        for images, _ in loader:
            paddle_logits.append(paddle_model(images).numpy())
            images = torch.from_numpy(images.numpy()).to(args.torch_device)
            torch_logits.append(torch_model(images).cpu().numpy())
    return paddle_logits, torch_logits


def evaluate(side, tensor, logits, labels, topk=(1, 5)):
    """[accuracy for each k, mean loss] of the package `side` over batches of logits.

    The model is dropout: in eval mode the identity.
    """
    is_port = side is paddle_mv3
    model = paddle.nn.Dropout(0.5) if is_port else torch.nn.Dropout(0.5)
    criterion = paddle_mv3.CrossEntropyLoss() if is_port else torch.nn.CrossEntropyLoss()
    batches = [x if x is None else (tensor(x), tensor(y)) for x, y in zip(logits, labels)]
    if not is_port:  # which knows of no such batch
        batches = [batch for batch in batches if batch is not None]
    values = side.evaluate(model, batches, topk, criterion)
    return [np.array([value]) for value in values]


def evaluate_on_ranks(logits, labels, world_size, topk=(1, 5), batch_size=32):
    """The same of batches that are dealt out to `world_size` ranks, then added up."""
    logits, labels = np.concatenate(logits), np.concatenate(labels)
    model, criterion = paddle.nn.Dropout(0.5), paddle_mv3.CrossEntropyLoss()
    sums = []
    for rank in range(world_size):
        sampler = paddle_mv3.EvalBatchSampler(len(labels), batch_size, rank, world_size)
        indices = [each for each, _ in zip(sampler, range(len(sampler)))]  # as a loader counts
        batches = [(paddle.to_tensor(logits[i]), paddle.to_tensor(labels[i])) for i in indices]
        sums.append(paddle_mv3.batch_sums(model, batches, topk, criterion))
    count = sum(map(len, sums))
    total = sum(paddle_mv3.place(s, count, rank, world_size) for rank, s in enumerate(sums))
    return [np.array([value]) for value in paddle_mv3.averages(total, topk)]


def compare_awkward_batches(path):
    """Batches of one image, few classes, ties, ranks without images, …; the log goes to `path`."""

    def named(values, topk):
        return dict(zip([*(f"top-{k}" for k in topk), "loss"], np.concatenate(values)))

    def port(logits, labels, topk):
        return named(evaluate(paddle_mv3, paddle.to_tensor, logits, labels, topk), topk)

    def reference(logits, labels, topk):
        return named(evaluate(torch_ref, torch.from_numpy, logits, labels, topk), topk)

    def on_ranks(logits, labels, topk, batch_size, ranks):
        return named(evaluate_on_ranks(logits, labels, ranks, topk, batch_size), topk)

    hint = "topk_correct, batch_sums and averages, in the case named above"
    cases = metric_cases(port, reference, on_ranks)
    return compare_cases("the metric", cases, path, hint)


def compare_rows(paddle_logits, torch_logits, labels):
    """(label, the port's top-1 and top-5 of its own logits, the reference's) of each image."""
    for ours, theirs, batch in zip(paddle_logits, torch_logits, labels):
        for x, y, label in zip(ours, theirs, batch):
            port = evaluate(paddle_mv3, paddle.to_tensor, [x[None]], [label[None]])
            reference = evaluate(torch_ref, torch.from_numpy, [y[None]], [label[None]])
            yield label, *([float(value[0]) for value in side[:2]] for side in (port, reference))


def power(images):
    """Of accuracies that have to be equal, over so many images."""
    least = math.floor(thresholds.METRIC * images / 100) + 1  # images that an accuracy must lose
    smallest = {f"of {images} images counted differently": f"{least}"}
    return Smallest(smallest | {"in a mean loss": f"{thresholds.EVAL_LOSS:.0e}"})


def main(args):
    paddle_logits, torch_logits = compute_logits(args, cli.image_dir(args))
    labels = draw_labels(np.concatenate(torch_logits))
    labels = np.split(labels, np.cumsum([len(batch) for batch in torch_logits])[:-1])

    paddle_log, torch_log = ReprodLogger(), ReprodLogger()
    reference = evaluate(torch_ref, torch.from_numpy, torch_logits, labels)
    # acc: the port's metric on the reference's logits. model_acc: on the port's own.
    same_logits = evaluate(paddle_mv3, paddle.to_tensor, torch_logits, labels)
    own_logits = evaluate(paddle_mv3, paddle.to_tensor, paddle_logits, labels)
    # ranks_acc: the reference's logits on two, three and eight ranks.
    ranks = [evaluate_on_ranks(torch_logits, labels, size) for size in WORLD_SIZES]
    on_ranks = [np.concatenate(values) for values in zip(*ranks)]
    for kind, values in (("", same_logits), ("model_", own_logits[:2]), ("ranks_", on_ranks)):
        for name, a, b in zip(("acc_top1", "acc_top5", "loss"), values, reference):
            paddle_log.add(f"{kind}{name}", a)
            torch_log.add(f"{kind}{name}", np.repeat(b, len(a)))
    save(paddle_log, args.result_dir / "metric_paddle.npy")
    save(torch_log, args.result_dir / "metric_ref.npy")

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "metric_ref.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "metric_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info)

    path = args.result_dir / "log" / "metric_diff.log"
    threshold = {"*loss": thresholds.EVAL_LOSS, "*": thresholds.METRIC}
    report = StepReport(diff_helper, path, threshold, pairing=args.pairing)
    if not report.aligned:  # does one batch differ by itself?
        batches = list(zip(torch_logits, labels))
        port = [evaluate(paddle_mv3, paddle.to_tensor, [x], [y]) for x, y in batches]
        reference = [evaluate(torch_ref, torch.from_numpy, [x], [y]) for x, y in batches]
        rows = compare_rows(paddle_logits, torch_logits, labels)
        report.locate(locate_metric(paddle_info, torch_info, port, reference, rows))
    else:
        report.add(compare_awkward_batches(args.result_dir / "log" / "metric_cases.log"))
        report.measured(power(sum(map(len, labels))))
    return report.finish(
        "if acc_* or loss differs: k, per cent or fraction, the weight of the last batch, eval "
        "mode; if only model_acc_* differs: the model, step 01; if ranks_acc_* differs: how images "
        "are distributed to the ranks"
    )


if __name__ == "__main__":
    arguments = cli.parser(__doc__, paddle_mv3.MODELS)
    cli.add_image_dir(arguments)
    cli.run(main, arguments, log="metric_diff")
