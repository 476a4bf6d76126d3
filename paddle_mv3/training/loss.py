"""Cross entropy with label smoothing and soft labels."""

import paddle
from paddle import nn
from paddle.nn import functional as F

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss(nn.Layer):
    """Mean over the batch; torch.nn.CrossEntropyLoss(label_smoothing=...).

    (logits (N, C), labels (N,) int64 in [0, C) or the probabilities of each class (N, C)) -> ()
    No label is ignored, as none of a data set is: PyTorch's ignore_index has no counterpart here.

    paddle.nn.CrossEntropyLoss holds `label_smoothing` as float32 (4e-8 off), and the logarithms of
    its CPU kernel, as those of paddle.nn.functional.log_softmax, end at -64.

    Args:
        label_smoothing: this share of each label goes to all classes alike; in [0, 1]
            (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567, section 7).

    Raises:
        ValueError: `label_smoothing` is not in [0, 1].
    """

    def __init__(self, label_smoothing=0.0):
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}: give a number in [0, 1]")
        self.label_smoothing = label_smoothing

    def forward(self, logits, labels):
        log_p = logits - paddle.logsumexp(logits, axis=-1, keepdim=True)
        kept, spread = 1 - self.label_smoothing, self.label_smoothing / logits.shape[-1]
        if labels.ndim == 2:
            return -(log_p * (labels * kept + spread)).sum(-1).mean()
        loss = F.nll_loss(log_p, labels)
        if not self.label_smoothing:
            return loss
        return loss * kept - log_p.sum(-1).mean() * spread
