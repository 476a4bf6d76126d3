"""Where two metrics part: in one batch, or in putting batches together."""

import numpy as np

from .thresholds import EVAL_LOSS, METRIC


def locate_metric(port_record, reference_record, port_batches, reference_batches):
    """Lines that say where two metrics part.

    Args:
        port_record, reference_record: {key: array of accuracies, in per cent, or mean losses};
            keys "acc_*" and "loss" are computed from the same logits, keys "model_*" from each
            side's own, keys "ranks_*" from the same logits on several ranks.
        port_batches, reference_batches: [[accuracy by k, …] of each batch alone].
    """
    lines = []
    for key, reference in reference_record.items():
        allowed = EVAL_LOSS if key.endswith("loss") else METRIC
        different = [(a, b) for a, b in zip(port_record[key], reference) if abs(a - b) > allowed]
        if different:
            a, b = map(float, different[0])
            lines.append(f"First to part: {key} {a:.6g} | {b:.6g}")
            if abs(100 * a - b) < 1e-9 * b:
                lines.append("The port's is a hundredth of it: a fraction, not per cent")
            break
    if not lines:
        return ["All accuracies agree"]
    if lines[0].split()[3].startswith("model_"):
        return [
            *lines,
            "The metric agrees on the same logits: the mistake is in the model, step 01",
        ]
    if lines[0].split()[3].startswith("ranks_"):
        return [
            *lines,
            "One process gets it right: the mistake is in how images are dealt out to ranks (some "
            "twice, or none), or in how ranks are added up",
        ]
    if np.allclose(port_batches, reference_batches, rtol=0, atol=EVAL_LOSS):
        lines.append(
            "On each batch alone both agree: the mistake is in putting batches together "
            "(the weight of the last one, or that it is left out)"
        )
    else:
        lines.append(
            "They differ on one batch already: the mistake is in the metric itself (k), or the "
            "model is not in eval mode"
        )
    return lines
