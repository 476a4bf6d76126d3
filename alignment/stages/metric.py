"""Where two metrics differ: in one batch, or in putting batches together."""

import contextlib

import numpy as np

from ..findings import Compared, Finding
from ..thresholds import EVAL_LOSS, METRIC

ROWS = 20  # of a report


def locate_metric(port_record, reference_record, port_batches, reference_batches, rows=()):
    """Where two metrics differ.

    Args:
        port_record, reference_record: {key: array of accuracies, in per cent, or mean losses};
            keys "acc_*" and "loss" are computed from the same logits, keys "model_*" from each
            side's own, keys "ranks_*" from the same logits on several ranks.
        port_batches, reference_batches: [[accuracy by k, …] of each batch alone].
        rows: [(label, port's accuracies by k, reference's) of each image alone].

    Returns:
        Compared
    """
    key, *sides = _first_different(port_record, reference_record)
    located = Compared("metric", "All accuracies agree")
    if key is None:
        return located
    finding = Finding("metric", key, *sides, title="First metric that differs")
    located.findings.append(finding)
    located.data["rows"] = _different_rows(rows)
    located.summary = ""
    if key in port_record:
        a, b = (float(np.ravel(record[key])[0]) for record in (port_record, reference_record))
        if abs(100 * a - b) < 1e-9 * b:
            finding.detail.append("The port's is a hundredth of it: a fraction, not per cent")
        finding.detail.append(_why(key, port_batches, reference_batches))
    return located


def _different_rows(rows):
    """The first ROWS images that one side counts as right and the other does not."""
    found = []
    # A wrong metric may fail on a single image: then there is nothing to show.
    with contextlib.suppress(Exception):
        for number, (label, port, reference) in enumerate(rows):
            if not np.allclose(port, reference, rtol=0, atol=METRIC):
                told = (", ".join(f"{value:g}" for value in side) for side in (port, reference))
                entry = dict(zip(("port", "reference"), told), row=number, label=int(label))
                found.append(entry)
    return found[:ROWS]


def _why(key, port_batches, reference_batches):
    """In which part of the evaluation the mistake is."""
    if key.startswith("model_"):
        return "The metric agrees on the same logits: the mistake is in the model, step 01"
    if key.startswith("ranks_"):
        return (
            "One process gets it right: the mistake is in how images are dealt out to ranks (some "
            "twice, or none), or in how ranks are added up"
        )
    shapes = [
        [np.shape(value) for values in side for value in values]
        for side in (port_batches, reference_batches)
    ]
    if shapes[0] == shapes[1] and np.allclose(
        port_batches, reference_batches, rtol=0, atol=EVAL_LOSS
    ):
        return (
            "On each batch alone both agree: the mistake is in putting batches together (the "
            "weight of the last one, or that it is left out)"
        )
    return (
        "They differ on one batch already: the mistake is in the metric itself (k), or the model "
        "is not in eval mode"
    )


def _first_different(port_record, reference_record):
    """(key, quantity, port's value, reference's value) of the first that differs.

    The key is None if none does.
    """
    for key, reference in reference_record.items():
        port = port_record.get(key)
        if port is None:
            return key, "none in the port", "", ""
        if port.shape != reference.shape:
            return key, "shape", str(port.shape), str(reference.shape)
        allowed = EVAL_LOSS if key.endswith("loss") else METRIC
        different = ~(np.abs(port - reference) <= allowed)
        if different.any():
            a, b = (float(values[different][0]) for values in (port, reference))
            return key, "", f"{a:.6g}", f"{b:.6g}"
    return None, "", "", ""
