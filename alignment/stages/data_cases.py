"""Does the port do as the reference where it is awkward?

Kinds of pictures, sizes of images, arguments, names of files, batches and counts. Where one side
raises an error the other has to: a port that goes on where the reference stops is no port.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from .. import environment
from ..files import place_of, reason_of, whole_file
from ..findings import Compared, Finding
from ..threads import one_torch_thread
from . import awkward
from .augmentation import chain_statistics, first_different_stage, mix_statistics, unlike
from .data import describe_difference, first_different
from .defaults import defaults_of_both
from .pictures import image_entry

if TYPE_CHECKING:
    from .augmentation import Statistics


__all__ = ["compare_cases"]

RESIZE, CROP = 29, 23  # of the pictures that come from files
# Of images for the presets: one pixel, narrow, smaller than a crop, as large as it, and such that
# the longer side and the offsets of the crop are rounded in each way.
SIZES = [
    (1, 1), (1, 300), (300, 1), (2, 3), (5, 3), (3, 40), (22, 40), (40, 22), (23, 23), (24, 23),
    (23, 26), (29, 29), (29, 30), (31, 29), (30, 47), (47, 30), (33, 50), (50, 33), (57, 43),
    (43, 57), (64, 64), (100, 75), (299, 301), (640, 480),
]  # fmt: skip
TRAIN_SIZES = [(1, 1), (1, 60), (60, 1), (3, 2), (23, 23), (50, 33)]
EVAL: list[dict[str, Any]] = [
    {"crop_size": 23, "resize_size": 29},
    {"crop_size": 22, "resize_size": 29, "interpolation": "BICUBIC"},
    {"crop_size": 20, "resize_size": 20, "interpolation": "NEAREST"},
    {"crop_size": 40, "resize_size": 29},  # the crop is larger than what it is cut from
    {"crop_size": 41, "resize_size": 28, "interpolation": "LANCZOS"},
    {"crop_size": 1, "resize_size": 2, "interpolation": "BOX"},
    {"crop_size": 9, "resize_size": 16, "interpolation": "HAMMING"},
]
TRAIN: list[dict[str, Any]] = [
    {"crop_size": 17, "hflip_prob": 1.0, "random_erase_prob": 1.0},
    {"crop_size": 16, "hflip_prob": 0.0, "random_erase_prob": 0.0, "interpolation": "BICUBIC"},
    {"crop_size": 1, "auto_augment_policy": "imagenet"},
    {"crop_size": 19, "auto_augment_policy": "ra", "ra_magnitude": 23, "hflip_prob": 1.0},
    {"crop_size": 24, "auto_augment_policy": "ta_wide", "interpolation": "NEAREST"},
    {"crop_size": 18, "auto_augment_policy": "augmix", "augmix_severity": 10, "hflip_prob": 0.0},
]
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("AutoAugment", {"interpolation": "BICUBIC", "fill": [1.0, 2.0, 250.0]}),
    ("RandAugment", {"num_ops": 3, "magnitude": 4, "num_magnitude_bins": 10, "fill": [128.0]}),
    ("RandAugment", {"num_ops": 1, "magnitude": 0, "interpolation": "BILINEAR"}),
    ("TrivialAugmentWide", {"num_magnitude_bins": 5, "interpolation": "BICUBIC", "fill": [7.0]}),
    ("AugMix", {"severity": 10, "mixture_width": 1, "chain_depth": 2, "alpha": 0.3}),
    ("AugMix", {"mixture_width": 2, "chain_depth": 0}),  # as below 0
    ("AugMix", {"all_ops": False, "interpolation": "NEAREST", "fill": [9.0], "severity": 1}),
]
DEFAULTS = (
    "AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix", "RandomErasing",
    "ClassificationPresetEval", "ClassificationPresetTrain", "RASampler",
)  # fmt: skip
# All operations of which these are, (policy, its arguments), at so many magnitudes each.
MAGNITUDES = 8
BINS = (2, 3, 4, 9, 10, 30, 31, 32)
LAST_PLACES = 3e-7  # relative: PyTorch's order of additions depends on the processor
SWEEPS: list[tuple[str, dict[str, Any]]] = [
    ("TrivialAugmentWide", {"interpolation": "BILINEAR"}),
    ("RandAugment", {"interpolation": "NEAREST", "fill": [200.0]}),
    ("AutoAugment", {"interpolation": "BICUBIC", "fill": [1.0, 2.0, 250.0]}),
    ("AugMix", {"interpolation": "BILINEAR"}),
    ("AugMix", {"interpolation": "BILINEAR", "fill": [30.0]}),
    ("AugMix", {"interpolation": "NEAREST", "fill": [1.0, 2.0, 250.0]}),
]
SWEPT = (23, 18)
# Of what moves pixels of tensors: around the 400 products below which PyTorch multiplies matrices
# itself, and longer than float16 counts.
MOVING = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
MOVED: list[tuple[int, int]] = [(6, 11), (67, 1), (9, 5), (2, 2100), (2100, 2)]
POLICY_SIZES = [(1, 1), (2, 3), (40, 31)]
IN_BYTES = {"normalize": False}  # of a preset of the port, which `normalize_batch` goes on with
CERTAIN_DRAWS = 20  # of what is to happen always or never
DRAWS = 150  # of each policy, of other arguments than the training's
ERASING: list[dict[str, Any]] = [
    {"p": 1.0, "value": 0.5},
    {"p": 1.0, "value": (1.0, 2.0, 3.0), "scale": (0.2, 0.5), "ratio": (0.5, 0.6)},
    {"p": 1.0, "value": "random", "scale": (0.1, 0.2), "ratio": (1.0, 1.0)},
    {"p": 0.0},
    {"p": 1.0, "scale": (0.5, 0.5), "ratio": (1.0, 1.0)},  # as high or as wide as some: given up
    {"p": 1.0, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)},  # never fits: given up
]
ERASING_DRAWS = 60
ERASED = [(3, 1, 1), (3, 2, 30), (3, 9, 7), (3, 8, 16), (3, 16, 8), (3, 20, 23)]
MIXES = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.1, 0.1)]  # (alpha of mixup, of CutMix)
MIXED = [(1, 3, 4, 5), (2, 3, 1, 1), (5, 3, 1, 8), (3, 3, 9, 9)]
MIX_DRAWS = 400
IMAGES = 7  # of the batches
BATCH_SIZES = (1, 2, 3, 6, 7, 8, 64)
WORLD_SIZES = (1, 2, 3, 9)
ERROR_RATE = 1e-7  # that any test of what is drawn calls a right port wrong
TESTS = 200  # at most
NO_ERROR = "no error"
TITLE = "First edge case that differs"


@one_torch_thread()
def compare_cases(port: Any, reference: Any, path: Path, seed: int = 0) -> Compared:
    """Compares both sides over cases that are chosen to be awkward.

    Args:
        port, reference: modules, or anything with ImageFolder, ClassificationPresetEval and Train,
            AutoAugment, RandAugment, TrivialAugmentWide, AugMix, RandomErasing, get_mixup_cutmix,
            DataLoader, DistributedSampler; the port's as in paddle_mv3, with `draw` and `steps`,
            BatchSampler, normalize_batch and normalize_in_paddle, the reference's as in torch_ref.
        path: of the log, one line for each case.
        seed: of what is random.

    Returns:
        Compared
    """
    folder = tempfile.mkdtemp()
    with (
        environment.ended_by_signals(),
        environment.cleaned_up(lambda: shutil.rmtree(folder, ignore_errors=True)),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of Pillow, on pictures that are none too well made
        torch.manual_seed(seed)
        cases = _Cases(port, reference, folder, np.random.default_rng(seed))
        for section in (
            cases.pictures,
            cases.broken,
            cases.folders,
            cases.eval_presets,
            cases.train_presets,
            cases.policies,
            cases.magnitudes,
            cases.defaults,
            cases.operations,
            cases.erasing,
            cases.mixes,
            cases.batches,
        ):
            section()
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in cases.log)
    return cases.compared(path)


@dataclass
class _Difference:
    """What differs in a case.

    Attributes:
        what: "stage decode".
        text: what comes out, in words; "" where the sides tell.
        port, reference: in words.
        arrays: the port's and the reference's, to be shown; or ().
    """

    what: str
    text: str = ""
    port: str = ""
    reference: str = ""
    arrays: Sequence[Any] = ()


# Of a case. None: nothing differs; "refused": both sides raise.
Found: TypeAlias = _Difference | str | None


def _tried(call: Callable[..., Any]) -> tuple[Any, str]:
    """(what it gives, ""), or (None, the error in words)."""
    try:
        return call(), ""
    except Exception as error:  # whatever a port or a library raises
        return None, f"{type(error).__name__}: {reason_of(error)}{place_of(error)}"


def _both(
    port: Callable[..., Any],
    reference: Callable[..., Any],
    compare: Callable[[Any, Any], _Difference | None],
    what: str = "result",
) -> Found:
    """_Difference of what two calls give, or None; "refused" if both raise.

    Args:
        compare: called with what they give.
    """
    (ours, our_error), (theirs, their_error) = _tried(port), _tried(reference)
    if bool(our_error) != bool(their_error):
        return _Difference(what, "", our_error or NO_ERROR, their_error or NO_ERROR)
    return "refused" if our_error else compare(ours, theirs)


def _arrays(what: str, ours: Any, theirs: Any) -> _Difference | None:
    """_Difference of two arrays, or None."""
    sides = np.asarray(ours), np.asarray(theirs)
    text = describe_difference(*sides)
    return _Difference(what, text, arrays=sides) if text else None


def _values(what: str, ours: object, theirs: object) -> _Difference | None:
    """_Difference of two plain values, or None."""
    return None if ours == theirs else _Difference(what, "", str(ours), str(theirs))


def _settings(port: Any, reference: Any) -> _Difference | None:
    """_Difference of the first setting that differs, or None."""
    pairs = ((name, port.settings.get(name), value) for name, value in reference.settings.items())
    return next((_values(name, a, b) for name, a, b in pairs if a != b), None)


def _staged(
    start: Any, stages: Sequence[tuple[str, Callable]], stages_ref: Sequence[tuple[str, Callable]]
) -> Found:
    """_Difference of the first stage that differs, or that one side alone cannot do; or None."""
    if len(stages) != len(stages_ref):
        return _values("stages", *([name for name, _ in each] for each in (stages, stages_ref)))
    ours = theirs = start
    for (name, stage), (_, stage_ref) in zip(stages, stages_ref):
        label = f"stage {name}"
        results = []  # of both sides

        def compare(
            a: Any, b: Any, label: str = label, results: list[Any] = results
        ) -> _Difference | None:
            results.extend((a, b))
            return _arrays(label, a, b)

        found = _both(partial(stage, ours), partial(stage_ref, theirs), compare, label)
        if found:
            return found
        ours, theirs = results
    return None


class _Cases:
    """Collects all sections of a comparison; arguments as for `compare_cases`."""

    def __init__(self, port: Any, reference: Any, folder: str, rng: np.random.Generator) -> None:
        self.port, self.reference, self.folder, self.rng = port, reference, folder, rng
        self.fused = reference.fused_multiply_add()
        self.log, self.different, self.not_compared = [], [], []
        self.counts, self.refused = Counter(), 0

    # --- what is collected ---

    def case(self, section: str, name: str, found: Any) -> None:
        """Adds a case; `found` is a _Difference, None or "refused"."""
        self.counts[section] += 1
        self.refused += found == "refused"
        differs = isinstance(found, _Difference)
        mark = "differs" if differs else found or "same   "
        line = f"{section:12} {mark}  {name}"
        if differs:
            for side in ("port", "reference"):  # an error names a file that is gone by then
                setattr(found, side, getattr(found, side).replace(self.folder, "…"))
            self.different.append((section, name, found))
            sides = f"{found.port} | {found.reference}" if found.port or found.reference else ""
            line += ": " + ", ".join(filter(None, [found.what, found.text, sides]))
        self.log.append(line)

    def compared(self, path: Path) -> Compared:
        """Compared, of all cases."""
        compared = Compared("the edge cases", "", log=path)
        compared.not_compared += self.not_compared
        images = []
        for section, name, found in self.different:
            where = f"{section}: {name}"
            finding = Finding("data", where, found.what, found.port, found.reference)
            if found.text:
                finding.detail.append(
                    f"The input is the same on both sides, the output differs: {found.text}"
                )
            if found.arrays and not images:
                entry = image_entry(where, found.what, *found.arrays)
                images += [entry] if entry else []
            compared.findings.append(finding)
        compared.data["images"] = images
        every = sum(self.counts.values())
        if compared.findings:
            different = Counter(section for section, *_ in self.different)
            told = ", ".join(f"{section} {count}" for section, count in different.items())
            first = compared.findings[0]
            first.title = TITLE
            first.detail.append(f"{len(self.different)} of {every} cases differ: {told}")
            return compared
        told = ", ".join(f"{section} {count}" for section, count in self.counts.items())
        compared.summary = (
            f"edge cases: {every} agree ({told}); in {self.refused} of them both sides raise an "
            "error"
        )
        return compared

    def arguments(self, side: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as this side takes them: its own enumeration of interpolations."""
        arguments = dict(arguments)
        if "interpolation" in arguments:
            ours = side is self.port
            kind = Image.Resampling if ours else self.reference.InterpolationMode
            arguments["interpolation"] = kind[arguments["interpolation"]]
        return arguments

    def sides(
        self, section: str, name: str, arguments: Mapping[str, Any], *variants: dict[str, Any]
    ) -> list[Any] | None:
        """[the port's, the reference's, …] of what is called `name`, made with `arguments`; or
        None, where a side cannot be made, which is then a case that differs.

        Args:
            variants: further arguments, of the port alone: each makes one more of the port's.
        """
        variants = [{}, *variants]  # type: ignore[assignment]  # no longer a tuple
        if name == "AugMix" or arguments.get("auto_augment_policy") == "augmix":
            variants = [  # type: ignore[assignment]
                {"fused": self.fused, **more} for more in variants
            ]
        sides = [(self.reference, {}), *((self.port, more) for more in variants)]
        made = [
            _tried(lambda s=s, a=a: getattr(s, name)(**self.arguments(s, {**arguments, **a})))
            for s, a in sides
        ]
        errors = [error for _, error in made]
        if any(errors):
            ours, theirs = next(filter(None, errors[1:]), NO_ERROR), errors[0] or NO_ERROR
            found = _Difference("whether it can be made", "", ours, theirs)
            self.case(section, f"{name}, {_told(arguments)}", found)
            return None
        reference, port, *more = (each for each, _ in made)
        return [port, reference, *more]

    def both_folders(self, section: str, root: str, *transforms: Any) -> list[Any] | None:
        """[the port's, the reference's] folder of images, or None, as in `sides`."""
        sides: Any = zip((self.port, self.reference), transforms or (None, None))
        made = [_tried(lambda s=s, t=t: s.ImageFolder(root, t)) for s, t in sides]
        errors = [error for _, error in made]
        if any(errors):
            sides = (error or NO_ERROR for error in errors)
            self.case(section, "their folder", _Difference("its listing", "", *sides))
            return None
        return [folder for folder, _ in made]

    # --- pictures ---

    def pictures(self) -> None:
        root = os.path.join(self.folder, "kinds")
        made, lacking = awkward.pictures(root)
        for what, why in lacking.items():
            self.not_compared.append(f"pictures: {what}: this Pillow cannot write it ({why})")
        preset = {"crop_size": CROP, "resize_size": RESIZE}
        presets = self.sides("pictures", "ClassificationPresetEval", preset)
        folders = presets and self.both_folders("pictures", root, *presets)
        if not folders:
            return
        places = [
            {os.path.basename(path): index for index, (path, _) in enumerate(side.samples)}
            for side in folders
        ]
        for what, name in made.items():
            indices = [place.get(name) for place in places]
            self.case("pictures", what, _picture(*folders, *indices))
        given = Image.fromarray(awkward.noise((40, 31)))
        for folder in folders:
            folder.loader = lambda path: given
        found = _both(lambda: folders[0][0], lambda: folders[1][0], _same_item)
        self.case("pictures", "a loader of one's own", found)

    def broken(self) -> None:
        root = os.path.join(self.folder, "broken")
        os.makedirs(root)
        folders = self.both_folders("broken files", os.path.join(self.folder, "kinds"))
        if not folders:
            return
        port, reference = (folder.loader for folder in folders)
        for what, path in awkward.broken_pictures(root).items():
            found = _both(
                partial(port, path),
                partial(reference, path),
                partial(_arrays, "stage decode"),
                "stage decode",
            )
            self.case("broken files", what, found)

    def folders(self) -> None:
        for number, (what, make) in enumerate(awkward.folders().items()):
            root = os.path.join(self.folder, f"tree {number}")
            try:
                make(root)
            except (OSError, ValueError) as error:  # a file system without links, or such names
                self.not_compared.append(f"folders: {what}: cannot be made here ({error})")
                continue
            self.case("folders", what, self._listed(root))
            cache = os.path.join(self.folder, "cache")
            changes: dict[str, Callable[[str], object]] = {
                "written": _age,
                "read": _age,
                "an image added": _add_image,
                "another, within one tick of the clock": _add_image_unseen,
            }
            for time, change in changes.items():
                change(root)
                found = self._listed(root, cache=cache)
                self.case("folders", f"{what}, listing remembered: {time}", found)
        kinds = os.path.join(self.folder, "kinds")
        _age(kinds)
        found = self._listed(kinds, cache=__file__)
        self.case("folders", "a listing that cannot be remembered", found)

    def _listed(self, root: str, **how: str) -> Found:
        """_Difference of what both sides find in a folder, or None; `how`: of the port alone."""
        return _both(
            partial(self.port.ImageFolder, root, **how),
            partial(self.reference.ImageFolder, root),
            partial(_same_listing, root),
        )

    # --- transforms ---

    def eval_presets(self) -> None:
        for arguments in EVAL:
            sides = self.sides("sizes", "ClassificationPresetEval", arguments, IN_BYTES)
            if not sides:
                continue
            port, reference, in_bytes = sides
            told = _told(arguments)
            self.case("sizes", told, _settings(port, reference))
            for size in SIZES:
                image = Image.fromarray(awkward.noise(size))
                found = _staged(image, port.stages, reference.stages)
                found = found or self._normalised(
                    lambda image=image, a=in_bytes: a(image),
                    lambda image=image, b=reference: b(image).numpy(),
                )
                self.case("sizes", f"{size[0]} x {size[1]}, {told}", found)

    def train_presets(self) -> None:
        for arguments in TRAIN:
            sides = self.sides("training", "ClassificationPresetTrain", arguments, IN_BYTES)
            if not sides:
                continue
            port, reference, in_bytes = sides
            told = _told(arguments)
            self.case("training", told, _settings(port, reference))
            pixel = Image.fromarray(awkward.noise((1, 1)))
            found = _both(
                lambda a=port: [a.draw(1, 1, self.rng) for _ in range(CERTAIN_DRAWS)],
                lambda a=reference, b=pixel: a.draws(b, CERTAIN_DRAWS),
                lambda *sides: _values("crops", *(sorted({d["crop"] for d in s}) for s in sides)),
                "what is sampled",
            )
            self.case("training", f"crops of 1 x 1, {told}", found)
            image = Image.fromarray(awkward.noise(TRAIN_SIZES[-1]))
            found = _both(
                lambda a=port, b=image: [a.draw(*b.size, self.rng) for _ in range(CERTAIN_DRAWS)],
                lambda a=reference, b=image: a.draws(b, CERTAIN_DRAWS),
                partial(_same_certainties, reference.settings),
                "what is sampled",
            )
            self.case("training", f"what is sampled, {told}", found)
            for size in TRAIN_SIZES:
                image = Image.fromarray(awkward.noise(size, seed=1))
                name = f"{size[0]} x {size[1]}, {told}"
                self.case("training", name, self._trained(image, port, reference, in_bytes))

    def _trained(self, image: Image.Image, port: Any, reference: Any, in_bytes: Any) -> Found:
        result, drawn, steps = reference.record(image)
        found = _both(lambda: _steps(port, image, drawn), lambda: steps, _same_steps)
        return found or self._normalised(
            lambda: _steps(in_bytes, image, drawn)[-1][1], result.numpy
        )

    def _normalised(self, in_bytes: Callable[..., Any], reference: Callable[..., Any]) -> Found:
        """_Difference of an image that is normalised in a batch, by NumPy and by Paddle; or None.

        Args:
            in_bytes, reference: functions () -> the port's image, the reference's normalised one.
        """
        ways = {
            "normalised last": lambda: self.port.normalize_batch(in_bytes()[None])[0],
            "normalised in Paddle": lambda: self.port.normalize_in_paddle(in_bytes()[None])[0],
        }
        for label, way in ways.items():
            found = _both(way, reference, partial(_arrays, label), label)
            if found:
                return found
        return None

    def policies(self) -> None:
        images = [Image.fromarray(awkward.noise(size, seed=2)) for size in POLICY_SIZES]
        images.append(images[-1].convert("L"))
        for name, arguments in POLICIES:
            sides = self.sides("policies", name, arguments)
            if not sides:
                continue
            port, reference = sides
            told = f"{name}, {_told(arguments)}"
            for image in images:
                if image.mode == "L" and len(arguments.get("fill", [0])) > 1:
                    continue
                _, drawn, steps = self.reference.record_policy(reference, image)
                found = _both(
                    lambda a=port, b=image, c=drawn: _steps(a, b, c),
                    lambda steps=steps: steps,
                    _same_steps,
                )
                where = f"{told}, {image.mode} of {image.width} x {image.height}"
                self.case("policies", where, found)
            size = images[-1].size
            found = _both(
                lambda a=port, size=size: [a.draw(*size, self.rng) for _ in range(DRAWS)],
                lambda b=reference, size=size: self.reference.policy_draws(b, size, DRAWS),
                partial(_alike, _policy_statistics),
                "what is sampled",
            )
            self.case("policies", f"{told}, what is sampled", found)

    def magnitudes(self) -> None:
        """How strong each operation of a policy is, for every number of steps of its strength."""
        for name, bins, arguments in [
            *(("RandAugment", n, {"num_magnitude_bins": n, "magnitude": 0}) for n in BINS),
            *(("TrivialAugmentWide", n, {"num_magnitude_bins": n}) for n in BINS),
            ("AutoAugment", 10, {}),
            ("AugMix", 10, {}),
        ]:
            sides = self.sides("magnitudes", name, arguments)
            if not sides:
                continue
            port, reference = sides
            found = _both(
                lambda a=port: {
                    operation: None if table is None else np.asarray(table)
                    for operation, (table, _) in a.augmentation_space(*SWEPT).items()
                },
                partial(self.reference.magnitudes, reference, bins, SWEPT),
                _same_magnitudes,
            )
            self.case("magnitudes", f"{name} of {bins}", found)

    def defaults(self) -> None:
        """What an argument is that is left out."""
        for name in DEFAULTS:
            for argument, *sides in defaults_of_both(
                getattr(self.port, name), getattr(self.reference, name)
            ):
                self.case("defaults", f"{name}, {argument}", _values("default", *sides))

    def operations(self) -> None:
        """Each operation by itself, at magnitudes from the weakest to the strongest."""
        usual = [Image.fromarray(awkward.noise(SWEPT, seed=3))]
        moved = [Image.fromarray(awkward.noise(size, seed=3)) for size in MOVED]
        greys = awkward.rounded_greys()
        coloured = [  # three and two pixels high, then as wide
            Image.fromarray(np.ascontiguousarray(each))
            for pixels in (greys, np.rot90(greys))
            for each in (pixels, pixels[:2, :], pixels[:, :2])
        ]
        for name, arguments in SWEEPS:
            sides = self.sides("operations", name, arguments)
            if not sides:
                continue
            port = sides[0]
            is_augmix = name == "AugMix"
            how = self.arguments(self.reference, arguments)
            differences = {}  # the first of each operation, or None
            for operation, magnitude, strongest in _operations(port.augmentation_space(*SWEPT)):
                drawn: Any = [(operation, magnitude)]
                images = usual
                if is_augmix:
                    drawn = {"blend": [0.0, 1.0], "weights": [1.0], "chains": [drawn]}
                if is_augmix and strongest:
                    images = usual + (moved if operation in MOVING else coloured)
                for image in images:
                    start = np.asarray(image) if is_augmix else image
                    found = _both(
                        lambda a=port, b=image, drawn=drawn: _steps(a, b, drawn)[0][1],
                        partial(self.reference.apply_op, start, operation, magnitude, **how),
                        partial(_arrays, f"stage {operation} {magnitude:.4g}"),
                    )
                    differences[operation] = differences.get(operation) or found
            for operation, found in differences.items():
                self.case("operations", f"{operation} of {name}, {_told(arguments)}", found)

    def erasing(self) -> None:
        for arguments in ERASING:
            sides = self.sides("erasing", "RandomErasing", arguments)
            if not sides:
                continue
            port, reference = sides
            for shape in ERASED:
                array = self.rng.standard_normal(shape, dtype=np.float32)
                result, drawn = self.reference.record_erasing(reference, array)
                found = _both(
                    lambda a=port, b=array, c=drawn: a.apply(b.copy(), c),
                    lambda result=result: result,
                    partial(_arrays, "stage erase"),
                    "stage erase",
                )
                _, height, width = shape
                if all(low == high for low, high in (port.scale, port.ratio)):
                    ours = port.draw(width, height, self.rng)
                    erases = ours is not None, drawn is not None
                    found = found or _values("whether it erases", *erases)
                self.case("erasing", f"{height} x {width}, {_told(arguments)}", found)
            found = _draws(
                _erasing_statistics,
                partial(port.draw, width, height, self.rng),
                lambda b=reference, c=array: self.reference.record_erasing(b, c)[1],
                ERASING_DRAWS,
            )
            self.case("erasing", f"what is sampled, {_told(arguments)}", found)

    def mixes(self) -> None:
        for alphas in MIXES:
            port, reference = (
                side.get_mixup_cutmix(*alphas, 11) for side in (self.port, self.reference)
            )
            told = f"alpha {alphas[0]:g} and {alphas[1]:g}"
            if port is None or reference is None:
                none = _values("whether it mixes", port is not None, reference is not None)
                self.case("mixup", told, none)
                continue
            images = self.rng.standard_normal(MIXED[-1], dtype=np.float32)
            for wrong in (-1, 11):
                labels = np.array([0, wrong, 10])
                found = _both(
                    partial(port, images, labels, self.rng),
                    partial(reference, torch.from_numpy(images), torch.from_numpy(labels)),
                    _same_batch,
                )
                self.case("mixup", f"label {wrong} of 11 classes, {told}", found)
            for shape in MIXED:
                images = self.rng.standard_normal(shape, dtype=np.float32)
                labels = self.rng.integers(0, 11, len(images))
                *expected, drawn = reference.record(
                    torch.from_numpy(images.copy()), torch.from_numpy(labels.copy())
                )
                found = _both(
                    partial(port.apply, images, labels, drawn),
                    lambda expected=expected: expected,
                    _same_batch,
                )
                self.case("mixup", f"{' x '.join(map(str, shape))}, {told}", found)
            if alphas != MIXES[-1]:
                continue
            zeros = torch.zeros(2, 1, 30, 40), torch.zeros(2, dtype=torch.int64)
            found = _draws(
                mix_statistics,
                partial(port.draw, zeros[0].shape, self.rng),
                lambda b=reference, zeros=zeros: b.record(*zeros)[2],
                MIX_DRAWS,
            )
            self.case("mixup", f"what is sampled, {told}", found)

    # --- batches ---

    def batches(self) -> None:
        root = os.path.join(self.folder, "batches")
        for number in range(IMAGES):
            place = os.path.join(root, f"class {number % 3}")
            os.makedirs(place, exist_ok=True)
            image = Image.fromarray(awkward.noise((9, 8), seed=number))
            image.save(os.path.join(place, f"{number}.png"))
        preset = {"crop_size": 7, "resize_size": 8}
        presets = self.sides("batches", "ClassificationPresetEval", preset)
        folders = presets and self.both_folders("batches", root, *presets)
        if not folders:
            return
        port, reference = folders
        found = _both(lambda: port[IMAGES], lambda: reference[IMAGES], _same_item)
        self.case("batches", f"item {IMAGES} of {IMAGES}", found)
        for drop_last in (False, True):
            for size in BATCH_SIZES:
                arguments = {"batch_size": size, "drop_last": drop_last}
                found = _both(
                    lambda more=arguments: _run(self.port.DataLoader(port, **more)),
                    lambda more=arguments: _run(self.reference.DataLoader(reference, **more)),
                    _same_batches,
                )
                self.case("batches", f"{IMAGES} images, {_told(arguments)}", found)
            arguments = {"batch_size": 2, "drop_last": drop_last}
            found = _both(
                lambda more=arguments: _run(self.port.DataLoader(port, num_workers=2, **more)),
                lambda more=arguments: _run(self.reference.DataLoader(reference, **more)),
                _same_batches,
            )
            self.case("batches", f"{IMAGES} images, two workers, {_told(arguments)}", found)
            for world_size in WORLD_SIZES:
                for rank in range(world_size):
                    found = _both(
                        partial(self._port_rank, port, rank, world_size, drop_last),
                        partial(self._reference_rank, reference, rank, world_size, drop_last),
                        _same_batches,
                    )
                    name = f"{IMAGES} images in pairs, rank {rank} of {world_size}"
                    self.case("batches", f"{name}, drop_last {drop_last}", found)

    def _port_rank(
        self, dataset: Any, rank: int, world_size: int, drop_last: bool
    ) -> tuple[int, list[Any]]:
        sampler = self.port.DistributedSampler(dataset, rank, world_size, shuffle=False)
        batches = self.port.BatchSampler(sampler, 2, drop_last)
        return _run(self.port.DataLoader(dataset, batch_sampler=batches))

    def _reference_rank(
        self, dataset: Any, rank: int, world_size: int, drop_last: bool
    ) -> tuple[int, list[Any]]:
        sampler = self.reference.DistributedSampler(dataset, world_size, rank, shuffle=False)
        return _run(self.reference.DataLoader(dataset, 2, sampler=sampler, drop_last=drop_last))


def _picture(port: Any, reference: Any, index: int | None, index_ref: int | None) -> Found:
    """_Difference of a picture, of which both folders have the place, or None; or None."""
    if index is None or index_ref is None:
        sides = ("not listed" if each is None else "listed" for each in (index, index_ref))
        return _values("its listing", *sides)
    path = reference.samples[index_ref][0]
    stages = [[("decode", side.loader), *side.transform.stages] for side in (port, reference)]
    return _staged(path, *stages) or _both(
        lambda: port[index], lambda: reference[index_ref], _same_item, "item"
    )


def _draws(
    statistics: Callable[[list[Any]], Statistics],
    draw: Callable[..., Any],
    draw_ref: Callable[..., Any],
    count: int,
) -> Found:
    """_Difference of `count` draws of each side, or None."""
    return _both(
        lambda: [draw() for _ in range(count)],
        lambda: [draw_ref() for _ in range(count)],
        partial(_alike, statistics),
        "what is sampled",
    )


def _alike(
    statistics: Callable[[list[Any]], Statistics], ours: list[Any], theirs: list[Any]
) -> _Difference | None:
    """_Difference of the statistic of two samples of draws that is furthest off, or None."""
    found = unlike(statistics(ours), statistics(theirs), ERROR_RATE / TESTS)
    if not found:
        return None
    name, test = found
    return _Difference(f"{name}, {test.text} (p <= {test.p:.0e})")


def _told(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in arguments.items())


def _steps(transform: Any, image: Any, drawn: Any) -> list[tuple[str, np.ndarray]]:
    """[(label, array after each stage)], each as it is then: an array may change later."""
    return [(label, np.array(x)) for label, x in transform.steps(image, drawn)]


def _same_steps(ours: Any, theirs: Any) -> _Difference | None:
    found = first_different_stage(ours, theirs)
    return found and _Difference(f"stage {found[0]}", found[1], arrays=tuple(found[2:]))


def _same_item(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> _Difference | None:
    """Of (image, label)."""
    different = _arrays("image", ours[0], theirs[0])
    kinds = [(type(label).__name__, label) for _, label in (ours, theirs)]
    return different or _values("label", *kinds)


def _age(root: str) -> None:
    """Makes all folders look as if nothing had changed in them for a while."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1e9, 1e9))


def _add_image(root: str) -> Path | None:
    """Copies one of the images beside itself; its folder, if there is one."""
    for folder, _, files in os.walk(root):
        images = [Path(folder, name) for name in files if Path(name).suffix.lower() == ".png"]
        if images and folder != root:
            copy = images[0].with_name(f"added {len(files)}.png")
            copy.write_bytes(images[0].read_bytes())
            return copy.parent
    return None


def _add_image_unseen(root: str) -> None:
    """The same, and the folder keeps the time of its last change."""
    times = {folder: os.stat(folder) for folder, _, _ in os.walk(root)}
    folder = _add_image(root)
    if folder is not None:
        before = times[str(folder)]
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _same_listing(root: str, ours: Any, theirs: Any) -> _Difference | None:
    classes = ours.classes, theirs.classes
    if classes[0] != classes[1]:
        sides = map(repr, first_different(*classes))
        return _Difference("the order of classes, at", "", *sides)
    files = [[os.path.relpath(path, root) for path, _ in side.samples] for side in (ours, theirs)]
    if files[0] != files[1]:
        return _Difference("the order of files, at", "", *map(repr, first_different(*files)))
    return (
        _values("the indices of classes", ours.class_to_idx, theirs.class_to_idx)
        or _values("labels", *([target for _, target in s.samples] for s in (ours, theirs)))
        or _values("targets", list(ours.targets), list(theirs.targets))
        or _values("samples are the reference's list", ours.samples == theirs.samples, True)
        or _values("samples are another list", ours.samples == [*theirs.samples[:-1], ()], False)
    )


def _same_certainties(
    settings: Mapping[str, Any], ours: list[Any], theirs: list[Any]
) -> _Difference | None:
    """Of draws whose probability is 0 or 1."""
    found = None
    for name, drawn in (
        ("hflip_prob", lambda d: d["flip"]),
        ("random_erase_prob", lambda d: d["erase"] is not None),
    ):
        if settings[name] in (0.0, 1.0):
            sides = [sorted({drawn(d) for d in side}) for side in (ours, theirs)]
            found = found or _values(f"what is sampled with {name} {settings[name]:g}", *sides)
    return found


def _policy_statistics(drawn: list[Any]) -> Statistics:
    if isinstance(drawn[0], list):
        return chain_statistics(drawn)
    chains = [op for d in drawn for chain in d["chains"] for op in chain]
    return {
        "number of chains": [len(d["chains"]) for d in drawn],
        "lengths of chains": [tuple(len(chain) for chain in d["chains"]) for d in drawn],
        "share of the image": np.round([d["blend"][0] for d in drawn], 6),
        "weight of the first copy": np.round([d["weights"][0] for d in drawn], 6),
        "operations": [name for name, _ in chains],
        "magnitudes": [(name, round(magnitude, 3) + 0.0) for name, magnitude in chains],
    }


def _same_magnitudes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> _Difference | None:
    """_Difference of two {operation: its magnitudes, or None}, or None."""
    if ours.keys() != theirs.keys():
        return _values("operations", *(", ".join(sorted(side)) for side in (ours, theirs)))
    for operation, table in theirs.items():
        mine = ours[operation]
        if (mine is None) != (table is None):
            sides = ("none" if side is None else "some" for side in (mine, table))
            return _Difference(f"magnitudes of {operation}", "", *sides)
        if table is None:
            continue
        if len(mine) != len(table) or not np.allclose(mine, table, rtol=LAST_PLACES, atol=1e-7):
            sides = (", ".join(f"{x:.6g}" for x in side) for side in (mine, table))
            return _Difference(f"magnitudes of {operation}", "", *sides)
    return None


def _operations(space: Mapping[str, tuple[Any, bool]]) -> Iterator[tuple[str, float, bool]]:
    """(name, magnitude, whether it is the strongest) of all and MAGNITUDES magnitudes of each, with
    each sign that there is."""
    for name, (magnitudes, signed) in space.items():
        magnitudes = [0.0] if magnitudes is None else np.asarray(magnitudes).tolist()
        count = min(len(magnitudes), MAGNITUDES)
        for index in np.linspace(0, len(magnitudes) - 1, count).round().astype(int):
            magnitude = magnitudes[index]
            strongest = index == len(magnitudes) - 1
            yield name, magnitude, strongest
            if signed:
                yield name, -magnitude, strongest


def _erasing_statistics(drawn: list[Any]) -> Statistics:
    boxes = [d and d[:4] for d in drawn]
    sides = [box[2:] for box in boxes if box is not None]
    values = [d[4] for d in drawn if d is not None]
    constant = all(value.size <= 3 for value in values)
    return {
        "erasing at all": [box is not None for box in boxes],
        "height over width": np.round([h / max(1, w) for h, w in sides], 6),
        "area": np.array([h * w for h, w in sides]),
        "rows at the top": [box[0] // 3 for box in boxes if box is not None],
        "columns at the left": [box[1] // 3 for box in boxes if box is not None],
        "value": [tuple(value.ravel().tolist()) for value in values] if constant else [],
        "shape of the value": [value.shape if constant else len(value) for value in values],
    }


def _same_batch(ours: Sequence[Any], theirs: Sequence[Any]) -> _Difference | None:
    """Of (images, labels)."""
    arrays = zip(("images", "labels"), ours, theirs)
    return next(filter(None, (_arrays(f"its {name}", a, b) for name, a, b in arrays)), None)


def _run(loader: Any) -> tuple[int, list[Any]]:
    """(length, [(images, labels)]) of a loader."""
    return len(loader), [tuple(field.numpy() for field in batch) for batch in loader]


def _same_batches(ours: tuple[int, list[Any]], theirs: tuple[int, list[Any]]) -> _Difference | None:
    sizes = [[len(labels) for _, labels in batches] for _, batches in (ours, theirs)]
    found = _values("sizes of the batches", *sizes)
    found = found or _values("len() of the loader", ours[0], theirs[0])
    return found or next(filter(None, map(_same_batch, ours[1], theirs[1])), None)
