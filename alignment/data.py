"""Where two data pipelines part: the class, the image, the stage."""

import numpy as np

from .files import CannotRun, first_line, require_file, shown


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
        a, b = next((a, b) for a, b in zip(port.classes, reference.classes) if a != b)
        lines.append(f"First to part: the order of classes, at {a} | {b}")
        return lines
    if list(port.samples) != list(reference.samples):
        pairs = zip(port.samples, reference.samples)
        a, b = next(((a, b) for a, b in pairs if a != b), ("the end of one", "the other goes on"))
        lines.append(f"First to part: the order of files, at {a} | {b}")
        return lines
    for index, (path, _) in enumerate(port.samples):
        stage = first_stage(path, port, reference)
        if stage:
            name, a, b = stage
            lines.append(f"First image to part: {shown(path)} (number {index}), stage {name}")
            lines.append(
                f"It goes into this stage the same on both sides and comes out as {a} | {b}: "
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


def load_reference(dataset, path):
    """The image in the file `path`, as the reference's data set reads it.

    Raises:
        CannotRun: it cannot be read; names the file, which torchvision does not.
    """
    require_file(path)
    try:
        return dataset.loader(path)
    except Exception as error:  # as PIL has them
        raise CannotRun(f"cannot decode image {shown(path)}: {first_line(error)}") from error


def first_stage(path, port, reference):
    """(name, port's output, reference's output) of the first stage that differs, or None."""
    stages = zip(
        [("decode", port.loader), *port.transform.stages],
        [("decode", reference.loader), *reference.transform.stages],
    )
    a = b = path
    for (name, stage), (_, stage_ref) in stages:
        a, b = stage(a), stage_ref(b)
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape or x.dtype != y.dtype or not np.array_equal(x, y):
            return name, describe(x), describe(y)
    return None


def describe(array):
    return f"{array.dtype} {array.shape} of mean {array.mean():.4g}"
