"""Where two data pipelines part: the class, the image, the stage."""

import itertools

import numpy as np

from ..files import CannotRun, reason_of, require_file, shown


def locate_image(port, reference):
    """Lines that say where two image folders part.

    Args:
        port, reference: data sets with `classes`, `samples` [(path, class index)], `loader` and
            `transform`, which has `settings` {name: value} and `stages` [(name, function)].
    """
    lines = [
        f"Differs (port | reference): {name} {value} | {reference.transform.settings.get(name)}"
        for name, value in port.transform.settings.items()
        if value != reference.transform.settings.get(name)
    ]
    if port.classes != reference.classes:
        a, b = first_different(port.classes, reference.classes)
        lines.append(f"First to part: the order of classes, at {a} | {b}")
        return lines
    files, files_ref = ([path for path, _ in side.samples] for side in (port, reference))
    if files != files_ref:
        a, b = (p and shown(p) for p in first_different(files, files_ref))
        lines.append(f"First to part: the order of files, at {a} | {b}")
        return lines
    for path, target, target_ref in zip(files, targets(port), targets(reference)):
        if target != target_ref:
            lines.append(f"First image to part: {shown(path)}, its label: {target} | {target_ref}")
            lines.append(
                f"The order of files and of classes agrees ({target_ref} is "
                f"{reference.classes[target_ref]}): the mistake is in which index a class gets"
            )
            return lines
    for index, (path, _) in enumerate(port.samples):
        stage = first_stage(path, port, reference)
        if stage:
            name, difference = stage
            lines.append(f"First image to part: {shown(path)} (number {index}), stage {name}")
            lines.append(
                f"It goes into this stage the same on both sides and comes out with {difference}: "
                "the mistake is in this stage"
            )
            return lines
        target, target_ref = port[index][1], reference[index][1]
        if (target, np.asarray(target).dtype) != (target_ref, np.asarray(target_ref).dtype):
            kinds = (f"{type(t).__name__} {t}" for t in (target, target_ref))
            lines.append(f"First image to part: {shown(path)}, its label: {' | '.join(kinds)}")
            return lines
    lines.append("Every image and label agrees by itself: the mistake is in the loader (batches)")
    return lines


def first_different(port, reference):
    """The first pair of two lists that differs; None stands for the end of the shorter one."""
    pairs = itertools.zip_longest(port, reference)
    return next((a, b) for a, b in pairs if a != b)


def targets(dataset):
    return [target for _, target in dataset.samples]


def load_reference(dataset, path):
    """The image in the file `path`, as the reference's data set reads it.

    Raises:
        CannotRun: it cannot be read; names the file, which torchvision does not.
    """
    require_file(path)
    try:
        return dataset.loader(path)
    except Exception as error:  # as PIL has them
        raise CannotRun(f"cannot decode image {shown(path)}: {reason_of(error)}") from error


def first_stage(path, port, reference):
    """(name, what differs in words) of the first stage that differs, or None."""
    stages = zip(
        [("decode", port.loader), *port.transform.stages],
        [("decode", reference.loader), *reference.transform.stages],
    )
    a = b = path
    for (name, stage), (_, stage_ref) in stages:
        a, b = stage(a), stage_ref(b)
        difference = describe_difference(np.asarray(a), np.asarray(b))
        if difference:
            return name, difference
    return None


def describe_difference(port, reference):
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
        f"{differ.sum()} of {differ.size} values other, most at {at}: "
        f"{port[at]:.6g} | {reference[at]:.6g}"
    )
