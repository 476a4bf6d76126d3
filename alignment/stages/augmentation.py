"""Is the training data the same? Equal draws must give equal images, and draws alike.

The reference runs and tells what it drew; the port does the same with it, and must give the same
bytes. What each side draws by itself is random, so these are compared as samples.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from ..files import shown, whole_file
from ..findings import SETTING, Compared, Finding
from ..statistics import chi_square_limit, chi_square_tail, same_distribution, smallest_distance
from ..threads import one_torch_thread
from .data import describe_difference, load_reference
from .pictures import histogram_entry, image_entry

# The chance that any of the comparisons of draws calls a right port wrong, over all seeds.
ERROR_RATE = 1e-6

IMAGES = 100  # of the folder, in turn through one of the policies each
SIZE = (500, 375)  # of the image that draws are for: ImageNet's most common
# No crop fits these: (width, height), and what they are called.
NARROW = {"a wide image": (600, 20), "a tall image": (20, 600)}
NARROW_DRAWS = 250
DRAWS = 2500  # of each policy; a wrong distribution of crops shows at 12500, of all policies
BATCHES = 30  # mixed
CROP_SIZE = 224  # of the images that are compared
# (width, height) of images where a box that is rounded otherwise, or ends a pixel earlier, shows.
TINY = [(5, 3), (2, 4), (1, 9)]
TINY_CROP = 5
TINY_DRAWS = 1200
TINY_MIXES = 400
FIRST = "First difference in training"
SETTINGS_SHOWN = 3
HISTOGRAMS = 6  # of a report
DRAW_SIZE = 64  # of those that draws are for: less work, and the same for what is drawn

# {name: array (continuous) or list (discrete), one value for each draw}
Statistics: TypeAlias = dict[str, Any]
# A stage, what differs, and both arrays where both sides have that stage.
Stage: TypeAlias = tuple[str, str] | tuple[str, str, np.ndarray, np.ndarray]


@one_torch_thread()
def compare_augmentation(
    port: Callable[..., Any],
    reference: Callable[..., Any],
    policies: Sequence[str | None],
    mixes: tuple[Any, Any],
    dataset: Any,
    path: Path,
    seed: int = 0,
    draws: Callable[[], Draws] | None = None,
) -> Compared:
    """Compares the training data of both sides.

    Args:
        port, reference: called with (crop size, auto_augment_policy=policy), give presets. The
            port's have `draw(width, height, rng)`, `steps(image, drawn)` and `settings`; the
            reference's `record(image)` -> (result, drawn, steps), `draws(image, count)` and
            `settings`.
        policies: what they are called with.
        mixes: (port's, reference's) mixing of batches: `draw(shape, rng)` and
            `apply(images, labels, drawn)`; `record(images, labels)`.
        dataset: an image folder of the reference; its images are what both sides start from.
        path: of the log, one line for each comparison.
        seed: of the draws of both sides.
        draws: gives what `compare_draws` does, where that has been begun already.

    Returns:
        Compared
    """
    comparison = _Comparison()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        presets = _presets(port, reference, policies, CROP_SIZE)
        for policy, sides in presets.items():
            comparison.settings(policy, *sides)
        comparison.images(presets, dataset, rng)
        comparison.batches(*mixes, rng)
    drawn = draws() if draws else compare_draws(port, reference, policies, mixes, seed)
    comparison.tests, comparison.samples = drawn.tests, drawn.samples
    comparison.write(path)
    return comparison.compared(path)


@one_torch_thread()
def compare_draws(
    port: Callable[..., Any],
    reference: Callable[..., Any],
    policies: Sequence[str | None],
    mixes: tuple[Any, Any],
    seed: int = 0,
) -> Draws:
    """What both sides draw by themselves, as samples; arguments as of `compare_augmentation`."""
    draws = Draws()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        draws.of_presets(_presets(port, reference, policies, DRAW_SIZE), rng)
        tiny = _presets(port, reference, policies[:1], TINY_CROP)[policies[0]]
        draws.of_tiny(tiny[0], tiny[1], rng)
        draws.of_mixes(*mixes, rng)
    return draws


def _presets(
    port: Callable[..., Any],
    reference: Callable[..., Any],
    policies: Sequence[str | None],
    crop_size: int,
) -> dict[str | None, list[Any]]:
    """{policy: [the port's preset, the reference's]}"""
    sides = port, reference
    return {p: [side(crop_size, auto_augment_policy=p) for side in sides] for p in policies}


class Draws:
    """Two samples of each statistic of what is drawn.

    Attributes:
        tests: [SampleTest]
        samples: {name of a test: the port's and the reference's}
    """

    def __init__(self) -> None:
        self.tests: list[SampleTest] = []
        self.samples: dict[str, tuple[Any, Any]] = {}

    def of_presets(
        self, presets: Mapping[str | None, Sequence[Any]], rng: np.random.Generator
    ) -> None:
        blank = Image.new("RGB", SIZE)
        everything = [], []
        for policy, (port, reference) in presets.items():
            theirs = reference.draws(blank, DRAWS)
            ours = [port.draw(*SIZE, rng) for _ in range(DRAWS)]
            for side, drawn in zip(everything, (ours, theirs)):
                side += drawn
            ours, theirs = ([d["augment"] for d in drawn] for drawn in (ours, theirs))
            if type(ours[0]) is not type(theirs[0]):
                text = " | ".join(type(drawn[0]).__name__ for drawn in (ours, theirs))
                self.tests.append(SampleTest(f"{_title(policy)}, what is sampled", 0.0, text))
            elif theirs[0] is not None:
                self._compare(_title(policy), _augment_statistics, ours, theirs)
        self._compare("crop, flip, erasing", _preset_statistics, *everything)
        port, reference = next(iter(presets.values()))
        for name, size in NARROW.items():
            theirs = reference.draws(Image.new("RGB", size), NARROW_DRAWS)
            ours = [port.draw(*size, rng) for _ in range(NARROW_DRAWS)]
            self._compare(f"crop of {name}", _box_statistics, ours, theirs)

    def of_tiny(self, port: Any, reference: Any, rng: np.random.Generator) -> None:
        everything = [], []
        for width, height in TINY:
            theirs = reference.draws(Image.new("RGB", (width, height)), TINY_DRAWS)
            ours = [port.draw(width, height, rng) for _ in range(TINY_DRAWS)]
            self._compare(f"crop of {width} x {height} pixels", _box_statistics, ours, theirs)
            for side, drawn in zip(everything, (ours, theirs)):
                side += drawn
        title = f"erasing of {TINY_CROP} x {TINY_CROP} pixels"
        self._compare(title, _erasing_statistics, *everything)

    def of_mixes(self, port: Any, reference: Any, rng: np.random.Generator) -> None:
        for title, shape, count, statistics in (
            ("mixup and CutMix", (2, 3, 30, 40), DRAWS, mix_statistics),
            ("mixup and CutMix of 5 x 4", (2, 1, 4, 5), TINY_MIXES, _cut_statistics),
        ):
            images, labels = torch.zeros(shape), torch.zeros(2, dtype=torch.int64)
            theirs = [reference.record(images, labels)[2] for _ in range(count)]
            ours = [port.draw(shape, rng) for _ in range(count)]
            self._compare(title, statistics, ours, theirs)

    def _compare(
        self, title: str, statistics: Callable[[list[Any]], Statistics], ours: Any, theirs: Any
    ) -> None:
        ours, theirs = statistics(ours), statistics(theirs)
        for name, test in compared_statistics(ours, theirs):
            test.name = f"{title}, {name}"
            self.tests.append(test)
            self.samples[test.name] = ours[name], theirs[name]


class _Comparison:
    def __init__(self) -> None:
        self.different_settings = {}  # {name: Finding}
        self.first: Finding | None = None  # Finding of the first image or batch that differs
        self.log = []
        self.tests: list[SampleTest] = []
        self.samples: dict[str, tuple[Any, Any]] = {}  # of a test's name
        self.pictures = []  # of a report

    def settings(self, policy: str | None, port: Any, reference: Any) -> None:
        for name, value in reference.settings.items():
            other = port.settings.get(name)
            where = f"{_title(policy)}, {name}"
            line = f"{where}: {other} | {value}"
            differs = other != value
            if differs:  # in several policies: one line on the screen
                sides = str(other), str(value)
                finding = Finding("augmentation", where, "", *sides, title=SETTING)
                self.different_settings.setdefault(name, finding)
            self.log.append(f"setting   {'differs' if differs else 'same   '}  {line}")

    def images(
        self, presets: Mapping[str | None, Sequence[Any]], dataset: Any, rng: np.random.Generator
    ) -> None:
        """Each image through one policy, both sides with what the reference drew."""
        policies = list(presets)
        paths = [path for path, _ in dataset.samples]
        self.count = max(min(len(paths), IMAGES), len(policies))
        for number in range(self.count):
            path = paths[number * len(paths) // self.count]
            policy = policies[number % len(policies)]
            port, reference = presets[policy]
            image = load_reference(dataset, path)
            _, drawn, steps = reference.record(image)
            forms = [type(d["augment"]) for d in (port.draw(*image.size, rng), drawn)]
            if forms[0] is forms[1]:
                different = first_different_stage(port.steps(image, drawn), steps)
            else:  # another policy, which cannot do what this one drew
                kinds = " | ".join(form.__name__ for form in forms)
                different = "of the policy", f"samples of another type, {kinds}"
            self.log.append(
                f"image     {_mark(different)}  {_title(policy)}, {shown(path)}: "
                + ", ".join(label for label, _ in steps)
            )
            if different and not self.first:
                label, difference, *sides = different
                where = f"{_title(policy)}, {shown(path)}"
                self._keep_image(where, label, sides)
                self.first = Finding("augmentation", where, f"stage {label}", title=FIRST)
                self.first.detail = [
                    "The input of this stage and its random numbers are the same on both sides, "
                    f"the output differs: {difference}. So the mistake is in this stage",
                ]

    def _keep_image(self, title: str, stage: str, sides: Sequence[Any]) -> None:
        entry = image_entry(title, stage, *sides) if sides else None
        self.pictures += [entry] if entry else []

    def batches(self, port: Any, reference: Any, rng: np.random.Generator) -> None:
        for number in range(BATCHES):
            images = rng.standard_normal((6, 3, 33, 40), dtype=np.float32)
            labels = rng.integers(0, 10, 6)
            *expected, drawn = reference.record(torch.from_numpy(images), torch.from_numpy(labels))
            names = ("images", "soft labels")
            steps = list(zip(names, expected))
            different = first_different_stage(zip(names, port.apply(images, labels, drawn)), steps)
            kind = "CutMix" if "box" in drawn else "mixup"
            self.log.append(f"batch     {_mark(different)}  {kind} {number}: {drawn}")
            if different and not self.first:
                label, difference, *_ = different
                self.first = Finding("augmentation", kind, f"its {label}", title=FIRST)
                self.first.detail = [
                    f"With the same random numbers, the output differs: {difference}"
                ]

    @property
    def bound(self) -> float:
        """Of p: below it a test says that the draws differ."""
        return ERROR_RATE / max(1, len(self.tests))

    def write(self, path: Path) -> None:
        bound = self.bound
        with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.log)
            file.write(
                f"# {len(self.tests)} statistics of random numbers; p below {bound:.1e} differs\n"
            )
            for test in self.tests:
                mark = "differs" if test.p < bound else "agrees "
                relation = "<=" if test.p < 1 else "="
                file.write(
                    f"samples   {mark}  {test.name}: {test.text}, p {relation} {test.p:.1e}\n"
                )

    def compared(self, path: Path) -> Compared:
        unlike = [test for test in self.tests if test.p < self.bound]
        compared = Compared("the training data", "", log=path)
        compared.findings += list(self.different_settings.values())[:SETTINGS_SHOWN]
        if self.first:
            compared.findings.append(self.first)
        if unlike:
            # The one that is named is the one that is furthest off; a pair only if each by itself
            # is right.
            unlike.sort(key=lambda test: (" with " in test.name, test.p))
            for test in unlike:
                text = f"{test.text} (p <= {test.p:.0e})"
                compared.findings.append(Finding("augmentation", test.name, text))
            worst = next(finding for finding in compared.findings if not finding.title)
            worst.title = "Distributed differently (port | reference)"
            if not self.first:
                same = f"With the same random numbers, all {self.count} images are identical"
                worst.detail.append(same)
            worst.detail.append(
                f"{len(unlike)} of {len(self.tests)} statistics of the random numbers differ"
            )
        compared.data["images"] = self.pictures
        compared.data["histograms"] = [
            histogram_entry(test.name, *self.samples[test.name])
            for test in unlike[:HISTOGRAMS]
            if test.name in self.samples
        ]
        if not compared.findings:
            compared.changes = {test.name: test.smallest_change(self.bound) for test in self.tests}
            compared.summary = (
                f"training data: with the same random numbers, {self.count} images and {BATCHES} "
                f"batches are identical; {len(self.tests)} statistics of the random numbers agree "
                f"(false alarm rate {ERROR_RATE})"
            )
        return compared


def _mark(different: object) -> str:
    return "differs" if different else "same   "


def _title(policy: str | None) -> str:
    return "no policy" if policy is None else f"policy {policy}"


def first_different_stage(
    steps: Iterable[tuple[str, Any]], expected: Iterable[tuple[str, Any]]
) -> Stage | None:
    """(label, what differs) of the first that differs in two rows of (label, array), or None.

    Where both have that stage, its two arrays follow.
    """
    steps = iter(steps)
    for label_ref, b in expected:
        label, a = next(steps, ("nothing", None))
        if label != label_ref:
            return label_ref, f"another stage, {label} | {label_ref}"
        sides = np.asarray(a), np.asarray(b)
        difference = describe_difference(*sides)
        if difference:
            return label, difference, *sides
    return next(((label, f"one stage more, {label} | nothing") for label, _ in steps), None)


# --- statistics of draws: {name: array (continuous) or list (discrete), one for each draw} -------


def _place(start: int, length: int, whole: int) -> float:
    """Where a piece begins, from 0 to 1."""
    return start / (whole - length) if whole > length else 0.5


def _preset_statistics(drawn: list[Any]) -> Statistics:
    width, height = SIZE
    boxes = [(left, top, right - left, bottom - top) for left, top, right, bottom in _boxes(drawn)]
    erased = [d["erase"] for d in drawn if d["erase"] is not None]
    return {
        "area of the crop": np.array([w * h for _, _, w, h in boxes]),
        "aspect ratio of the crop": np.array([w / h for _, _, w, h in boxes]),
        "place of the crop, x": np.array([_place(x, w, width) for x, _, w, _ in boxes]),
        "place of the crop, y": np.array([_place(y, h, height) for _, y, _, h in boxes]),
        "flip": [d["flip"] for d in drawn],
        "erasing at all": [d["erase"] is not None for d in drawn],
        "area erased": np.array([h * w for _, _, h, w, _ in erased]),
        "aspect ratio erased": np.array([h / w for _, _, h, w, _ in erased]),
        "place erased, x": np.array([_place(x, w, DRAW_SIZE) for _, x, _, w, _ in erased]),
        "place erased, y": np.array([_place(y, h, DRAW_SIZE) for y, _, h, _, _ in erased]),
        "value put there": np.array([float(value.mean()) for *_, value in erased]),
        **_pairs(
            {
                "area": [_bin(w * h / (width * height)) for _, _, w, h in boxes],
                "aspect ratio": [_bin(0.5 + math.log(w / h)) for _, _, w, h in boxes],
                "x": [_bin(_place(x, w, width)) for x, _, w, _ in boxes],
                "y": [_bin(_place(y, h, height)) for _, y, _, h in boxes],
                "parity of x": [x % 2 for x, *_ in boxes],
                "flip": [d["flip"] for d in drawn],
                "erasing": [d["erase"] is not None for d in drawn],
                "policy's first operation": [_first_operation(d["augment"]) for d in drawn],
            }
        ),
    }


def _bin(x: float) -> int:
    """Which quarter of [0, 1]."""
    return min(3, max(0, int(4 * x)))


def _first_operation(augment: Any) -> str | None:
    chain = augment["chains"][0] if isinstance(augment, dict) else augment
    return chain[0][0] if chain else None


def _pairs(columns: Mapping[str, Sequence[Any]]) -> Statistics:
    """What is drawn for one image has to be independent as it is in the reference: all pairs."""
    return {
        f"{a} with {b}": list(zip(columns[a], columns[b]))
        for a, b in itertools.combinations(columns, 2)
    }


def _boxes(drawn: list[Any]) -> list[Any]:
    return [d["crop"] for d in drawn]


def _box_statistics(drawn: list[Any]) -> Statistics:
    return {"box": [tuple(box) for box in _boxes(drawn)]}


def _erasing_statistics(drawn: list[Any]) -> Statistics:
    return {"box": [d["erase"] and tuple(d["erase"][:4]) for d in drawn]}


def _cut_statistics(drawn: list[Any]) -> Statistics:
    return {
        "box": [d.get("box") for d in drawn],
        "lambda of the box": [round(d["lam_adjusted"], 6) for d in drawn if "box" in d],
    }


def _augment_statistics(drawn: list[Any]) -> Statistics:
    if isinstance(drawn[0], list):
        return chain_statistics(drawn)
    statistics = {
        "share of the image": np.array([d["blend"][0] for d in drawn]),
        "share of all copies": np.array([d["blend"][1] for d in drawn]),
        "number of chains": [len(d["chains"]) for d in drawn],
    }
    for number in range(min(len(d["chains"]) for d in drawn)):
        weights = np.array([d["weights"][number] for d in drawn])
        statistics[f"weight of copy {number + 1}"] = weights
        chains = chain_statistics([d["chains"][number] for d in drawn])
        statistics |= {f"chain {number + 1}, {name}": v for name, v in chains.items()}
    columns = {
        f"first operation of chain {number + 1}": [d["chains"][number][0][0] for d in drawn]
        for number in range(min(len(d["chains"]) for d in drawn))
    }
    return statistics | _pairs(columns)


def chain_statistics(chains: Sequence[Sequence[tuple[str, float]]]) -> Statistics:
    """Of lists of (operation, signed magnitude)."""
    largest = {}
    for name, magnitude in (op for chain in chains for op in chain):
        largest[name] = max(largest.get(name, 0.0), abs(magnitude))
    statistics = {
        "number of operations": [len(chain) for chain in chains],
        "operations": [tuple(sorted(name for name, _ in chain)) for chain in chains],
    }
    for number in range(min(3, max(map(len, chains)))):
        ops = [chain[number] if number < len(chain) else ("none", 0.0) for chain in chains]
        which = f"operation {number + 1}"
        # Rounded: torch.linspace differs in the last digit between CPUs.
        statistics[which] = [name for name, _ in ops]
        statistics[f"{which}, sign"] = [(name, np.sign(magnitude)) for name, magnitude in ops]
        statistics[f"{which}, magnitude"] = [(name, round(m, 3) + 0.0) for name, m in ops]
        statistics[f"{which}, magnitude over the operation's largest"] = [
            round(abs(m) / largest.get(name, 1.0), 3) if largest.get(name) else None
            for name, m in ops
        ]
    signs = {
        f"sign of operation {number + 1}": [
            np.sign(chain[number][1]) if number < len(chain) else None for chain in chains
        ]
        for number in range(min(2, max(map(len, chains))))
    }
    return statistics | _pairs(signs)


def mix_statistics(drawn: list[Any]) -> Statistics:
    mixed = [d for d in drawn if "lam" in d]
    cut = [(*d["box"], d["lam_adjusted"]) for d in drawn if "box" in d]
    return {
        "which": ["CutMix" if "box" in d else "mixup" for d in drawn],
        "mixup, lambda": np.array([d["lam"] for d in mixed]),
        "CutMix, lambda": np.array([lam for *_, lam in cut]),
        "CutMix, lambda plus the box's share": np.round(
            [lam + (x2 - x1) * (y2 - y1) / (40 * 30) for x1, y1, x2, y2, lam in cut], 6
        ),
        "CutMix, width of the box": np.array([x2 - x1 for x1, _, x2, _, _ in cut]),
        "CutMix, height of the box": np.array([y2 - y1 for _, y1, _, y2, _ in cut]),
        "CutMix, x of the box": np.array([x1 + x2 for x1, _, x2, _, _ in cut]),
        "CutMix, y of the box": np.array([y1 + y2 for _, y1, _, y2, _ in cut]),
    }


# --- two samples ---------------------------------------------------------------------------------


def _none(bound: float) -> float:
    """No change would have been seen."""
    return math.inf


@dataclass
class SampleTest:
    """Of whether two samples are of one distribution.

    Attributes:
        name: of what.
        p: a bound on the chance of such a difference, or a larger one, where they are.
        text: both sides, in words.
        smallest_change: called with a bound of p; the smallest change of a probability, that of
            any value or of being below any value, that would have brought p below it in half of
            all runs or more; infinite where none would.
    """

    name: str
    p: float
    text: str
    smallest_change: Callable[[float], float] = _none


def compared_statistics(ours: Statistics, theirs: Statistics) -> Iterator[tuple[str, SampleTest]]:
    """Yields (name, SampleTest) of each statistic, {name: array or list}, that both sides have.

    Where only one side has, say, a third operation, the number of operations differs too.
    """
    for name in (name for name in ours if name in theirs):
        values = ours[name]
        yield name, (_discrete if isinstance(values, list) else _continuous)(values, theirs[name])


def unlike(ours: Statistics, theirs: Statistics, bound: float) -> tuple[str, SampleTest] | None:
    """(name, SampleTest) of the statistic that is furthest off, if its p is below `bound`."""
    name, worst = min(compared_statistics(ours, theirs), key=lambda each: each[1].p)
    return (name, worst) if worst.p < bound else None


def _continuous(ours: np.ndarray, theirs: np.ndarray) -> SampleTest:
    """Kolmogorov and Smirnov's, and for the tails chi-square of fiftieths of both together."""
    n, m = len(ours), len(theirs)
    if not (n and m):
        return SampleTest("", 1.0 if n == m else 0.0, f"{n} | {m} values")
    p, distance = same_distribution(ours, theirs)
    edges = np.quantile(np.concatenate([ours, theirs]), np.linspace(0, 1, 51)[1:-1])
    bins = (np.digitize(x[: min(n, m)], edges).tolist() for x in (ours, theirs))
    p = min(1.0, 2 * min(p, _discrete(*bins).p))  # the better of two
    means = f"mean {np.mean(ours):.4g} | {np.mean(theirs):.4g}"
    text = f"{means}, distribution functions differ by {distance:.2g}"
    return SampleTest("", p, text, partial(_smallest_of_two, n=n, m=m))


def _smallest_of_two(bound: float, n: int, m: int) -> float:
    """The smallest distance of two distribution functions that the better of two tests sees."""
    return smallest_distance(bound / 2, n, m)


def _discrete(ours: list[Any], theirs: list[Any]) -> SampleTest:
    """Chi-square of the counts a and b of each value in two samples of one size.

    Where a right port is compared, each draw of a + b falls to either side by a coin, so the sum
    of (a - b)^2 / (a + b) over k values has tails no heavier than chi-square with k degrees of
    freedom, however small the counts (Hoeffding's lemma), and Chernoff's bound for it holds.
    Of two sizes the smaller one counts: what is over at the end of the other is left out.
    """
    n = min(len(ours), len(theirs))
    if not n:
        return SampleTest(
            "", 1.0 if len(ours) == len(theirs) else 0.0, f"{len(ours)} | {len(theirs)}"
        )
    a, b = Counter(ours[:n]), Counter(theirs[:n])
    values = list(a | b)
    terms: Any = {v: (a[v] - b[v]) ** 2 / (a[v] + b[v]) for v in values}
    x, k = sum(terms.values()), len(values)
    worst = max(values, key=terms.get)
    text = f"{_text(worst)} {a[worst]} | {b[worst]} times of {n}"
    shares = [(a[v] + b[v]) / (2 * n) for v in values]
    seen = partial(_smallest_share, x=x, shares=shares, n=n)
    return SampleTest("", chi_square_tail(x, k), text, seen)


def _smallest_share(bound: float, x: float, shares: list[float], n: int) -> float:
    """The smallest change of a value's probability that chi-square would have seen.

    A change d of a share q, which the others make good, adds n d^2 / (2q + d) to what there is, and
    n d^2 / (2(1 - q) - d) of the others. What there is, is x, or what is expected if that is less.
    Of a value that never came q is 0, and it is one more.
    """
    found = []
    for k, every in ((len(shares), shares), (len(shares) + 1, [0.0])):
        lacking = chi_square_limit(bound, k) - min(x, k - 1)
        for q in every:  # 2n d^2 = lacking (2q + d) (2 - 2q - d)
            b, c = lacking * (2 - 4 * q), 4 * lacking * q * (1 - q)
            a = 2 * n + lacking
            change = (b + math.sqrt(b * b + 4 * a * c)) / (2 * a)
            found.append(change if change < 1 - q else math.inf)
    return max(each for each in found if each < math.inf) if min(found) < math.inf else math.inf


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value) or "nothing"
    return str(value)
