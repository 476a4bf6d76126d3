"""Top-k accuracy, as in torchvision's references/classification/utils.py."""

import paddle

__all__ = ["accuracy", "evaluate"]


def topk_correct(output, target, topk=(1,)):
    """For each k, how many rows of `output` have their label among the k largest: [int].

    Args:
        output: logits, (N, num_classes).
        target: labels, (N,) int64.
        topk: several k, each at most num_classes.
    """
    _, predicted = paddle.topk(output, max(topk), axis=1)
    correct = predicted == target.reshape([-1, 1])
    return [int(correct[:, :k].sum()) for k in topk]


def accuracy(output, target, topk=(1,)):
    """Top-k accuracies in per cent, [float]. Arguments: `topk_correct`."""
    return [100 * correct / len(target) for correct in topk_correct(output, target, topk)]


@paddle.no_grad()
def evaluate(model, batches, topk=(1, 5)):
    """Top-k accuracies of `model` in per cent over all of `batches`, [float].

    Each image counts once, whatever the size of its batch. The model is put in eval mode.

    Args:
        model: a Layer; images -> logits (N, num_classes).
        batches: of (images, labels (N,) int64).
    """
    model.eval()
    correct, total = [0] * len(topk), 0
    for images, target in batches:
        counts = topk_correct(model(images), target, topk)
        correct = [a + b for a, b in zip(correct, counts)]
        total += len(target)
    return [100 * count / total for count in correct]
