"""Where two data pipelines differ: the class, the image, the stage."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..files import CannotRun, reason_of, require_file, shown
from ..findings import Compared, Finding, settings_found
from ..power import WEAKEST
from ..settings import Setting
from .pictures import image_entry


def locate_image(port: Any, reference: Any) -> Compared:
    """Where two image folders differ: the class, the file, the stage of the transform.

    Args:
        port, reference: data sets with `classes`, `samples` [(path, class index)], `loader` and
            `transform`, which has `settings` {name: value} and `stages` [(name, function)].

    Returns:
        Compared; its first findings are settings that can be read off and differ.
    """
    settings = [
        Setting(name, str(value), str(reference.transform.settings.get(name)))
        for name, value in port.transform.settings.items()
        if value != reference.transform.settings.get(name)
    ]
    images = []
    first = _first_finding(port, reference, images)
    summary = ""
    if first is None:
        summary = "Each single image and label agrees: the mistake is in the loader (batches)"
    found = settings_found("data", "", settings)
    findings = [*found, *([first] if first else [])]
    return Compared("images", summary, findings, data={"images": images})


def _first_finding(port: Any, reference: Any, images: list[dict[str, Any]]) -> Finding | None:
    """Finding of the first class, file, label or image that differs, or None.

    Args:
        images: [entry of a report]: the image is put there.
    """
    if port.classes != reference.classes:
        sides: Any = map(str, first_different(port.classes, reference.classes))
        return Finding(  # type: ignore[misc]  # sides: two
            "data", "", "the order of classes, at", *sides, title="First difference"
        )
    files, files_ref = ([path for path, _ in side.samples] for side in (port, reference))
    if files != files_ref:
        sides = (str(path and shown(path)) for path in first_different(files, files_ref))
        return Finding(  # type: ignore[misc]  # sides: two
            "data", "", "the order of files, at", *sides, title="First difference"
        )
    image: Callable[..., Finding] = partial(Finding, "data", title="First image that differs")
    for path, target, target_ref in zip(files, targets(port), targets(reference)):
        if target != target_ref:
            finding = image(shown(path), "label", str(target), str(target_ref))
            finding.detail = [
                f"The order of files and of classes agrees ({target_ref} is "
                f"{reference.classes[target_ref]}): the mistake is in which index a class gets"
            ]
            return finding
    for index, (path, _) in enumerate(port.samples):
        stage = first_stage(path, port, reference)
        if stage:
            name, difference, *sides = stage
            finding = image(f"{shown(path)} (number {index})", f"stage {name}")
            entry = image_entry(shown(path), name, *sides)
            images += [entry] if entry else []
            finding.detail = [
                "The input of this stage is the same on both sides, the output differs: "
                f"{difference}. So the mistake is in this stage"
            ]
            return finding
        target, target_ref = port[index][1], reference[index][1]
        if (target, np.asarray(target).dtype) != (target_ref, np.asarray(target_ref).dtype):
            kinds = (f"{type(t).__name__} {t}" for t in (target, target_ref))
            return image(shown(path), "label", *kinds)
    return None


def first_different(port: Iterable[Any], reference: Iterable[Any]) -> tuple[Any, Any]:
    """The first pair of two lists that differs; None stands for the end of the shorter one."""
    pairs = itertools.zip_longest(port, reference)
    return next((a, b) for a, b in pairs if a != b)


def targets(dataset: Any) -> list[int]:
    return [target for _, target in dataset.samples]


def load_reference(dataset: Any, path: str) -> Any:
    """The image in the file `path`, as the reference's data set reads it.

    Raises:
        CannotRun: it cannot be read; names the file, which torchvision does not.
    """
    require_file(path)
    try:
        return dataset.loader(path)
    except Exception as error:  # as PIL has them
        raise CannotRun(f"cannot decode image {shown(path)}: {reason_of(error)}") from error


def first_stage(
    path: str, port: Any, reference: Any
) -> tuple[str, str, np.ndarray, np.ndarray] | None:
    """(name, what differs in words, port's array, reference's) of the first stage that differs.

    None if none does.
    """
    stages = zip(
        [("decode", port.loader), *port.transform.stages],
        [("decode", reference.loader), *reference.transform.stages],
    )
    a = b = path
    for (name, stage), (_, stage_ref) in stages:
        a, b = stage(a), stage_ref(b)
        sides = np.asarray(a), np.asarray(b)
        difference = describe_difference(*sides)
        if difference:
            return name, difference, *sides
    return None


def describe_difference(port: np.ndarray, reference: np.ndarray) -> str:
    """What differs between two arrays that should be the same, "port | reference"; "" if nothing.

    Of values it is the largest difference that tells: means may be the same.
    """
    if port.shape != reference.shape or port.dtype != reference.dtype:
        sides = (f"{array.dtype} {array.shape}" for array in (port, reference))
        return f"another shape or type, {' | '.join(sides)}"
    differ = port != reference
    if not differ.any():
        return ""
    distance = np.abs(port.astype(np.float64) - reference.astype(np.float64))
    distance[np.isnan(distance)] = np.inf
    at = tuple(map(int, np.unravel_index(distance.argmax(), distance.shape)))
    return (
        f"{differ.sum()} of {differ.size} values differ, most at {at}: "
        f"{port[at]:.6g} | {reference[at]:.6g}"
    )


@dataclass
class DataPower:
    """How small a mistake a comparison of two data pipelines would have seen.

    Attributes:
        exact, recorded: of how many recorded values one unit in the last place would have been
            seen, of how many in all.
        others: how many images are recorded as weighted means alone.
        change: of one pixel of these, in units of the normalised image, the smallest that would
            have been seen.
        probabilities: {what is sampled: the smallest change of a probability that would
            have been seen}; infinite where none would.
    """

    exact: int
    recorded: int
    others: int
    change: float
    probabilities: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """In one line."""
        whole = (
            f"{self.exact}" if self.exact == self.recorded else f"{self.exact} of {self.recorded}"
        )
        found = [f"in {whole} values of images, a change by one unit in the last place"]
        if self.others:
            found.append(
                f"in {self.others} more images, a change of one pixel by {self.change:.0e}"
            )
        seen: Any = {name: change for name, change in self.probabilities.items() if change < np.inf}
        if seen:
            weakest = sorted(seen, key=seen.get, reverse=True)[:WEAKEST]
            named = "; ".join(f"{name}: {seen[name]:.2g}" for name in weakest)
            found.append(
                f"in each of {len(seen)} statistics of random numbers, a probability that is off "
                f"by {seen[weakest[0]]:.2g} (the weakest: {named})"
            )
        return f"power: would have been seen: {'; '.join(found)}"

    def lines(self) -> list[str]:
        """All of it, for a log."""
        return [f"power  {name}  {change:.2g}" for name, change in self.probabilities.items()]

    def not_compared(self) -> list[str]:
        """[line] on statistics of which no change would have been seen."""
        unseen = [name for name, change in self.probabilities.items() if not change < np.inf]
        return [f"{', '.join(unseen)}: too few samples"] if unseen else []


def data_power(
    records: Mapping[str, np.ndarray], threshold: float, probabilities: dict[str, float]
) -> DataPower:
    """DataPower of a step whose records agree.

    Args:
        records: {key: array} of one side: "dataloader_…" (N, 3, H, W), "all_means" (images, …).
        threshold: the largest mean difference that passes.
        probabilities: as in DataPower.
    """
    whole = [array for key, array in records.items() if key.startswith("dataloader_")]
    # In float64, as they are compared.
    exact = sum(
        int((np.spacing(np.abs(array)).astype(np.float64) / array.size > threshold).sum())
        for array in whole
    )
    means, pixels = np.abs(records["all_means"]), whole[0][0, 0].size
    change = max(float(np.spacing(means).max()) / 2, threshold * means.size) * pixels
    others = len(means) - sum(map(len, whole))
    return DataPower(exact, sum(array.size for array in whole), others, change, probabilities)
