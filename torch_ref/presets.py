"""torchvision's transforms, put together as its references/classification/presets.py does.

Those that draw also tell what they drew, in the form in which the port's `draw` gives it: what
they call on the way is listened to, and nothing of them is written anew.
"""

import contextlib
import functools
from unittest import mock

import numpy as np
import torch
from torchvision import transforms
from torchvision.transforms import autoaugment, functional, v2


class ClassificationPresetEval:
    """RGB image -> (3, crop_size, crop_size) float32 tensor; `stages` are its steps, in order."""

    def __init__(
        self,
        crop_size=224,
        resize_size=256,
        interpolation=functional.InterpolationMode.BILINEAR,
    ):
        resize = transforms.Resize(resize_size, interpolation)
        to_tensor = transforms.ToTensor()
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.settings = {
            "resize_size": resize_size,
            "crop_size": crop_size,
            "interpolation": resize.interpolation.value,
        }
        self.stages = [
            ("resize", resize),
            ("center_crop", transforms.CenterCrop(crop_size)),
            ("normalize", lambda image: normalize(to_tensor(image))),
        ]

    def __call__(self, image):
        for _, stage in self.stages:
            image = stage(image)
        return image


class ClassificationPresetTrain:
    """RGB image -> (3, crop_size, crop_size) float32 tensor; references/classification/presets.py.

    Args: as there; `auto_augment_policy` is None, "imagenet", "ra", "ta_wide" or "augmix".
    """

    def __init__(
        self,
        crop_size=224,
        interpolation=functional.InterpolationMode.BILINEAR,
        hflip_prob=0.5,
        auto_augment_policy=None,
        ra_magnitude=9,
        augmix_severity=3,
        random_erase_prob=0.0,
    ):
        policies = {
            None: lambda: None,
            "ra": lambda: autoaugment.RandAugment(
                interpolation=interpolation, magnitude=ra_magnitude
            ),
            "ta_wide": lambda: autoaugment.TrivialAugmentWide(interpolation=interpolation),
            "augmix": lambda: autoaugment.AugMix(
                interpolation=interpolation, severity=augmix_severity
            ),
        }
        policy = autoaugment.AutoAugmentPolicy
        self.augment = policies.get(
            auto_augment_policy,
            lambda: autoaugment.AutoAugment(policy(auto_augment_policy), interpolation),
        )()
        self.crop_size = crop_size
        self.crop = transforms.RandomResizedCrop(crop_size, interpolation=interpolation)
        self.flip = transforms.RandomHorizontalFlip(hflip_prob)
        self.to_tensor = transforms.ToTensor()
        self.normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.erase = transforms.RandomErasing(p=random_erase_prob)
        self.settings = {
            "crop_size": self.crop.size[0],
            "scale of the crop": tuple(self.crop.scale),
            "ratio of the crop": tuple(self.crop.ratio),
            "interpolation": self.crop.interpolation.value,
            "hflip_prob": self.flip.p,
            "random_erase_prob": self.erase.p,
            **_policy_settings(self.augment, crop_size),
        }

    def __call__(self, image):
        for _, image in self._stages(image):  # noqa: B007, B020
            pass
        return image

    def _stages(self, image):
        image = self.crop(image)
        yield "crop", image
        image = self.flip(image)
        yield "flip", image
        if self.augment:
            image = self.augment(image)
            yield "blend", image
        image = self.normalize(self.to_tensor(image))
        yield "normalize", image
        yield "erase", self.erase(image)

    def record(self, image):
        """(result, what was drawn, [(label, image or tensor) after each stage and operation])

        What was drawn, and the labels, are as in the port's preset.
        """
        with _Recorder(self.augment) as recorder:
            steps = []
            for label, image in self._stages(image):  # noqa: B020
                steps += recorder.operations
                recorder.operations = []
                # Of the policies, only AugMix does something after its last operation.
                if label != "blend" or isinstance(self.augment, autoaugment.AugMix):
                    steps.append((label, image))
            return image, recorder.drawn, steps

    def replay(self, image, drawn):
        """The result for `image` with what was `drawn`, in the form that `record` gives.

        Raises:
            ValueError: the policy is AugMix, whose random weights torchvision does not take.
        """
        if isinstance(self.augment, autoaugment.AugMix):
            raise ValueError("draws of augmix cannot be given to torchvision")
        left, top, right, bottom = drawn["crop"]
        size, interpolation = list(self.crop.size), self.crop.interpolation
        box = top, left, bottom - top, right - left
        image = functional.resized_crop(image, *box, size, interpolation)
        if drawn["flip"]:
            image = functional.hflip(image)
        for name, magnitude in drawn["augment"] or ():
            how = {"interpolation": self.augment.interpolation, "fill": self.augment.fill}
            image = autoaugment._apply_op(image, name, magnitude, **how)
        image = self.normalize(self.to_tensor(image))
        if drawn["erase"] is not None:
            *box, value = drawn["erase"]
            image = functional.erase(image, *box, torch.from_numpy(value))
        return image

    def draws(self, image, count):
        """What is drawn for `image` in `count` runs, without the work on its pixels."""
        blank = transforms.functional.to_pil_image(
            torch.zeros(3, self.crop_size, self.crop_size, dtype=torch.uint8)
        )
        zeros = torch.zeros(1).expand(3, self.crop_size, self.crop_size)
        result = []
        with _Recorder(self.augment, blank) as recorder, _magnitudes_kept(self.augment):
            for _ in range(count):
                recorder.clear()
                self.flip(self.crop(image))
                if self.augment:
                    self.augment(blank)
                self.erase(zeros)
                result.append(recorder.drawn)
        return result


@contextlib.contextmanager
def _magnitudes_kept(policy):
    """Within, a policy's table of magnitudes is made once, not for each image of one size."""
    if policy is None:
        yield
        return
    table = functools.cache(policy._augmentation_space)
    with mock.patch.object(policy, "_augmentation_space", table):
        yield


def record_policy(policy, image):
    """(result, what was drawn, [(label, image or tensor) after each operation]) of one of
    torchvision's policies; as by the port's."""
    with _Recorder(policy) as recorder:
        result = policy(image)
        steps = recorder.operations
        if isinstance(policy, autoaugment.AugMix):
            steps.append(("blend", result))
        return result, recorder.drawn["augment"], steps


def policy_draws(policy, size, count):
    """What a policy draws for an image of `size` in `count` runs, without the work on pixels."""
    blank = functional.to_pil_image(torch.zeros(3, *size[::-1], dtype=torch.uint8))
    result = []
    with _Recorder(policy, blank) as recorder, _magnitudes_kept(policy):
        for _ in range(count):
            recorder.clear()
            policy(blank)
            result.append(recorder.drawn["augment"])
    return result


def magnitudes(policy, bins, size):
    """{operation: (bins,) float32, or None where there are none} of a policy of torchvision.

    Args:
        size: of the image, (width, height).
    """
    wide = isinstance(policy, autoaugment.TrivialAugmentWide)
    space = policy._augmentation_space(bins, *([] if wide else [(size[1], size[0])]))
    return {name: table.numpy() if table.ndim else None for name, (table, _) in space.items()}


def apply_op(image, name, magnitude, interpolation, fill=None):
    """One operation of torchvision's policies, on a PIL image or as it treats tensors, on a
    (height, width, channels) uint8 array."""
    how = {"interpolation": interpolation, "fill": fill}
    if not isinstance(image, np.ndarray):
        return autoaugment._apply_op(image, name, magnitude, **how)
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    return autoaugment._apply_op(batch, name, magnitude, **how)[0].permute(1, 2, 0).numpy()


def record_erasing(erasing, array):
    """(result, what was drawn) of torchvision's RandomErasing on a (3, H, W) float32 array."""
    with _Recorder(None) as recorder:
        return erasing(torch.from_numpy(array.copy())).numpy(), recorder.drawn["erase"]


class _Recorder:
    """Listens to the functions of torchvision that are called with what was drawn.

    With `blank`, they are not called: a crop gives `blank`, all others what they were given.
    """

    def __init__(self, policy, blank=None):
        self.augment = policy
        self.is_augmix = isinstance(policy, autoaugment.AugMix)
        self.blank = blank
        self.clear()

    def clear(self):
        self.operations, self.samples, self.batch = [], [], None
        augment = None if self.augment is None else []
        self.drawn = {"crop": None, "flip": False, "augment": augment, "erase": None}

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        for target, name, listener in (
            (functional, "resized_crop", self.resized_crop),
            (functional, "hflip", self.hflip),
            (functional, "erase", self.erase),
            (autoaugment, "_apply_op", self.apply_op),
            (autoaugment.AugMix, "_sample_dirichlet", self.sample_dirichlet),
        ):
            original = getattr(target, name)
            self.stack.enter_context(
                mock.patch.object(target, name, self._listening(listener, original))
            )
        return self

    def __exit__(self, *exception):
        self.stack.close()

    def _listening(self, listener, original):
        return lambda *args, **kwargs: listener(original, *args, **kwargs)

    def resized_crop(self, original, image, top, left, height, width, *args, **kwargs):
        self.drawn["crop"] = (left, top, left + width, top + height)
        return self.blank or original(image, top, left, height, width, *args, **kwargs)

    def hflip(self, original, image):
        self.drawn["flip"] = True
        return image if self.blank else original(image)

    def erase(self, original, image, top, left, height, width, value, *args):
        if value is not image:  # given up after ten draws
            self.drawn["erase"] = (top, left, height, width, value.numpy())
        return image if self.blank else original(image, top, left, height, width, value, *args)

    def sample_dirichlet(self, original, augmix, parameters):
        sample = original(augmix, parameters)
        self.samples.append(sample[0].tolist())
        if len(self.samples) == 2:
            blend, weights = self.samples
            chains = [[] for _ in weights]
            self.drawn["augment"] = {"blend": blend, "weights": weights, "chains": chains}
            self.number = 0
        return sample

    def apply_op(self, original, image, name, magnitude, **kwargs):
        label = f"{name} {magnitude:.4g}"
        if self.is_augmix:
            # Each chain begins with the batch itself.
            self.batch = image if self.batch is None else self.batch
            self.number += image is self.batch
            self.drawn["augment"]["chains"][self.number - 1].append((name, magnitude))
            label = f"chain {self.number}, {label}"
        else:
            self.drawn["augment"].append((name, magnitude))
        out = image if self.blank else original(image, name, magnitude, **kwargs)
        if self.is_augmix:
            out = out.view_as(out)  # another object, also where the operation changes nothing
            self.operations.append((label, None if self.blank else out[0].permute(1, 2, 0)))
        else:
            self.operations.append((label, out))
        return out


def _policy_settings(policy, size):
    """{name: value} of a policy: its arguments, and its magnitudes for images of `size`."""
    if policy is None:
        return {"policy": None}
    names = ("num_ops", "magnitude", "num_magnitude_bins", "severity", "mixture_width")
    names = (*names, "chain_depth", "alpha", "all_ops", "fill")
    settings = {name: getattr(policy, name) for name in names if hasattr(policy, name)}
    settings["interpolation of the policy"] = policy.interpolation.value
    for number, (first, second) in enumerate(getattr(policy, "policies", ())):
        settings[f"sub-policy {number}"] = (*first, *second)
    if isinstance(policy, autoaugment.TrivialAugmentWide):
        space = policy._augmentation_space(policy.num_magnitude_bins)
    else:
        count = getattr(policy, "num_magnitude_bins", 10)
        space = policy._augmentation_space(count, (size, size))
    for name, (values, signed) in space.items():
        if values.ndim:
            text = f"{values[0].item():.4g} to {values[-1].item():.4g} in {len(values)} values"
            settings[f"magnitudes of {name}"] = text + ", either sign" * signed
    return {"policy": type(policy).__name__, **settings}


def fused_multiply_add():
    """(affine grid, grid_sample): whether PyTorch computes a * b + c there with one rounding.

    It depends on the CPU, and with it what AugMix gives: MKL's matrix product is fused on Intel
    with AVX-512 and not on AMD, grid_sample from AVX2 on.
    """
    # 1 + 2^-12 squared is 1 + 2^-11 + 2^-24, which float32 rounds to 1 + 2^-11.
    x = 1 + 2**-12
    left = torch.tensor([-(1 + 2**-11), x, 0.0]).expand(1, 224 * 224, 3).contiguous()
    right = torch.tensor([[1.0, 0.0], [x, 0.0], [0.0, 0.0]])[None]
    grid = bool((left.bmm(right)[..., 0] != 0).all())
    # Two pixels, -1 and x, half way and 2^-13 between them.
    image = torch.tensor([-1.0, x]).view(1, 1, 1, 2)
    where = torch.tensor([2**-13, 0.0]).view(1, 1, 1, 2)
    sample = torch.nn.functional.grid_sample(image, where, align_corners=False)
    return grid, sample.item() != 2**-12 + 2**-13


class _Drawing:
    """Keeps what was drawn; draws nothing where something was `given`."""

    given = None

    def make_params(self, flat_inputs):
        self.drawn = self.given or super().make_params(flat_inputs)
        return self.drawn


class _MixUp(_Drawing, v2.MixUp):
    pass


class _CutMix(_Drawing, v2.CutMix):
    pass


class MixUpCutMix(v2.RandomChoice):
    """Of mixup and CutMix one at random, as references/classification/train.py builds it.

    `record(images, labels)` gives (images, labels, what was drawn, as by the port), and
    `replay(images, labels, drawn)` (images, labels).
    """

    def replay(self, images, labels, drawn):
        transform = self.transforms[drawn["choice"]]
        transform.given = {name: value for name, value in drawn.items() if name != "choice"}
        try:
            return transform(images, labels)
        finally:
            transform.given = None

    def record(self, images, labels):
        for transform in self.transforms:
            transform.drawn = None
        images, labels = self(images, labels)
        drawn = [transform.drawn for transform in self.transforms]
        choice = next(i for i, params in enumerate(drawn) if params is not None)
        return images, labels, {"choice": choice, **drawn[choice]}


def get_mixup_cutmix(mixup_alpha, cutmix_alpha, num_classes):
    """MixUpCutMix of those whose alpha is not 0; None if both are."""
    mixes = []
    if mixup_alpha:
        mixes.append(_MixUp(alpha=mixup_alpha, num_classes=num_classes))
    if cutmix_alpha:
        mixes.append(_CutMix(alpha=cutmix_alpha, num_classes=num_classes))
    return MixUpCutMix(mixes) if mixes else None
