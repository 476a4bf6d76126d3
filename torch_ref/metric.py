"""Top-k accuracy in PyTorch, by torchvision's definition (it ships none in its package)."""

import torch


def topk_correct(output, target, topk=(1,)):
    """For each k, how many rows of `output` have their label among the k largest: [int].

    Args:
        output: logits, (N, num_classes).
        target: labels, (N,) int64, or shares of the classes, (N, num_classes): the largest counts.
    """
    if target.ndim == 2:
        target = target.max(dim=1).indices
    predicted = output.topk(max(topk), dim=1).indices
    hits = predicted.eq(target[:, None])
    return [int(hits[:, :k].sum()) for k in topk]


def accuracy(output, target, topk=(1,)):
    """Top-k accuracies in per cent, [float]. Arguments: `topk_correct`."""
    return [100 * hits / len(target) for hits in topk_correct(output, target, topk)]


@torch.no_grad()
def evaluate(model, batches, topk=(1, 5), criterion=None):
    """Top-k accuracies of `model` in per cent over all of `batches`, each image once, [float].

    Args:
        model: a Module; images -> logits (N, num_classes). Put in eval mode.
        batches: of (images, labels (N,) int64).
        criterion: (logits, labels) -> mean loss, which is then the last item.
    """
    model.eval()
    outputs, targets = zip(*((model(images), target) for images, target in batches))
    output, target = torch.cat(outputs), torch.cat(targets)
    loss = [float(criterion(output, target))] if criterion is not None else []
    return accuracy(output, target, topk) + loss
