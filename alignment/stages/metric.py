"""Two metrics: where they differ, and what they make of awkward batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..checks.base import counted
from ..findings import Compared, Finding
from ..thresholds import EVAL_LOSS, METRIC
from .cases import Case

ROWS = 20  # of a report
# (images, size of a batch, ranks): fewer images than ranks, than a batch, one in the last batch
DEALT_OUT = ((1, 4, 3), (2, 1, 5), (9, 4, 2), (8, 4, 2), (33, 32, 8))


def metric_cases(
    port: Callable[..., dict[str, Any]],
    reference: Callable[..., dict[str, Any]],
    on_ranks: Callable[..., dict[str, Any]],
    seed: int = 0,
) -> list[Case]:
    """[Case] of batches that are easily forgotten: of one image, of few classes, with ties, …

    Of equal logits neither framework says which comes first. On CPUs both take the same one, so
    ties are compared too. Where k is more than there are classes, both refuse.

    Args:
        port, reference: functions ([logits (N, C)], [labels (N,) or (N, C)], k) -> {name: number},
            arrays of NumPy; None is a batch of which no image could be read: it counts nothing.
        on_ranks: function ([logits], [labels], k, size of a batch, ranks) -> the same.
    """
    rng = np.random.default_rng(seed)

    def normal(*sizes: int, classes: int = 10) -> list[np.ndarray]:
        return [rng.standard_normal((size, classes)).astype(np.float32) for size in sizes]

    def integers(*sizes: int, classes: int = 10) -> list[np.ndarray]:
        return [rng.integers(0, classes, size) for size in sizes]

    ties = [np.round(x) for x in normal(32, 32, 7)]
    missing, huge, infinite = (normal(16, 3) for _ in range(3))
    missing[0][::3, 4] = np.nan
    huge = [10_000 * x for x in huge]
    infinite[0][::4, 2], infinite[1][0, 7] = np.inf, -np.inf
    # Of the classes with such logits some are the labels, and some are not.
    of_missing, of_infinite = integers(16, 3), integers(16, 3)
    of_missing[0][::3] = [4, 5, 4, 4, 5, 4]  # however two of them turn out, four differ
    of_infinite[0][::4], of_infinite[1][0] = [2, 3, 2, 3], 7
    shares = [rng.dirichlet(np.ones(10), len(x)).astype(np.float32) for x in normal(8, 3)]
    tied = [np.full((6, 10), 0.1, np.float32)]
    left = [*integers(4), None, *integers(3)]
    rows: list[tuple[str, list[Any], list[Any], tuple[int, ...]]] = [
        ("one image", normal(1), integers(1), (1, 5)),
        ("a last batch of one image", normal(4, 4, 1), integers(4, 4, 1), (1, 5)),
        ("batches of one image each", normal(1, 1, 1), integers(1, 1, 1), (1, 5)),
        ("batches of growing size", normal(1, 2, 5), integers(1, 2, 5), (1, 5)),
        ("no batch", [], [], (1, 5)),
        ("a batch of which nothing is left", [*normal(4), None, *normal(3)], left, (1, 5)),
        ("as many classes as k", normal(9, 2, classes=5), integers(9, 2, classes=5), (1, 5)),
        ("fewer classes than k", normal(9, classes=3), integers(9, classes=3), (1, 5)),
        ("two classes", normal(9, 2, classes=2), integers(9, 2, classes=2), (1, 2)),
        ("k in another order", normal(64, 5), integers(64, 5), (5, 1, 3)),
        ("one k", normal(64, 5), integers(64, 5), (2,)),
        ("the last class only", normal(32), [np.full(32, 9)], (1, 5)),
        ("ties in the logits", ties, integers(32, 32, 7), (1, 5)),
        ("all logits equal", [np.zeros((32, 10), np.float32)], integers(32), (1, 5)),
        ("logits of the order 10,000", huge, integers(16, 3), (1, 5)),
        ("NaN among the logits", missing, of_missing, (1, 5)),
        ("infinite logits", infinite, of_infinite, (1, 5)),
        ("logits in float64", [x.astype(np.float64) for x in normal(5, 2)], integers(5, 2), (1, 5)),
        ("labels that are shares of classes", normal(8, 3), shares, (1, 5)),
        ("shares that are all equal", normal(6), tied, (1, 5)),
    ]
    bounds = {"loss": EVAL_LOSS}

    def case(
        name: str, logits: list[np.ndarray], labels: list[np.ndarray], topk: tuple[int, ...]
    ) -> Case:
        calls: Any = [lambda f=f: f(logits, labels, topk) for f in (port, reference)]
        return Case(name, *calls, bounds)  # type: ignore[call-arg]  # calls: two

    def on_several(count: int, batch_size: int, ranks: int) -> Case:
        logits, labels = normal(count), integers(count)
        return Case(
            f"{counted(count, 'image')} on {ranks} ranks, a batch of {batch_size}",
            lambda: on_ranks(logits, labels, (1, 5), batch_size, ranks),
            lambda: reference(logits, labels, (1, 5)),
            bounds,
        )

    return [*(case(*row) for row in rows), *(on_several(*sizes) for sizes in DEALT_OUT)]


def locate_metric(
    port_record: Mapping[str, np.ndarray],
    reference_record: Mapping[str, np.ndarray],
    port_batches: Sequence[Any],
    reference_batches: Sequence[Any],
    rows: Iterable[tuple[Any, Any, Any]] = (),
) -> Compared:
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
    sides: list[Any]
    key, *sides = _first_different(port_record, reference_record)
    located = Compared("metric", "All accuracies agree")
    if key is None:
        return located
    finding = Finding(  # type: ignore[misc]  # sides: three
        "metric", key, *sides, title="First metric that differs"
    )
    located.findings.append(finding)
    located.data["rows"] = _different_rows(rows)
    located.summary = ""
    if key in port_record:
        a, b = (float(np.ravel(record[key])[0]) for record in (port_record, reference_record))
        if abs(100 * a - b) < 1e-9 * b:
            finding.detail.append(
                "The port's value is a hundredth of the reference's: a fraction, not per cent"
            )
        finding.detail.append(_why(key, port_batches, reference_batches))
    return located


def _different_rows(rows: Iterable[tuple[Any, Any, Any]]) -> list[dict[str, Any]]:
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


def _why(key: str, port_batches: Sequence[Any], reference_batches: Sequence[Any]) -> str:
    """In which part of the evaluation the mistake is."""
    if key.startswith("model_"):
        return "The metric agrees on the same logits: the mistake is in the model, step 01"
    if key.startswith("ranks_"):
        return (
            "One process gets it right: the mistake is in how images are distributed to the ranks "
            "(some twice, some not at all), or in how the results of the ranks are added up"
        )
    shapes = [
        [np.shape(value) for values in side for value in values]
        for side in (port_batches, reference_batches)
    ]
    if shapes[0] == shapes[1] and np.allclose(
        port_batches, reference_batches, rtol=0, atol=EVAL_LOSS
    ):
        return (
            "Each batch alone agrees: the mistake is in putting batches together (the weight of "
            "the last one, or that it is left out)"
        )
    return (
        "They differ on one batch already: the mistake is in the metric itself (k), or the model "
        "is not in eval mode"
    )


def _first_different(
    port_record: Mapping[str, np.ndarray], reference_record: Mapping[str, np.ndarray]
) -> tuple[str | None, str, str, str]:
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
