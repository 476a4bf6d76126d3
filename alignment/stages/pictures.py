"""Images and distributions for a report: what goes into a page beside numbers."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["histogram_entry", "image_entry"]

MOST_PIXELS = 256  # of a side
BINS = 20
LABEL = 60  # characters


def image_entry(title: str, stage: str, port: Any, reference: Any) -> dict[str, Any] | None:
    """An entry of a report's `images`: both sides, and their difference, enlarged.

    Args:
        port, reference: (H, W, 3) or (H, W) uint8, or (3, H, W) floats, of which both are shown on
            one scale. Of another shape on each side there is no difference to show.

    Returns:
        None if these are no images.
    """
    port, reference = _channels_last(port), _channels_last(reference)
    if port is None or reference is None:
        return None
    finite = [x[np.isfinite(x)] for x in (port, reference)]
    low = float(min((x.min() for x in finite if x.size), default=0))
    high = float(max((x.max() for x in finite if x.size), default=1))
    if port.dtype == reference.dtype == np.uint8:
        low, high = 0, 255
    difference = None
    if port.shape == reference.shape:
        distance = np.abs(port.astype(np.float64) - reference.astype(np.float64))
        largest = np.nanmax(distance, initial=0.0, where=np.isfinite(distance))
        difference = _png(distance, 0.0, largest)
    return {
        "title": title,
        "stage": stage,
        "port": _png(port, low, high),
        "reference": _png(reference, low, high),
        "difference": difference,
    }


def _channels_last(array: Any) -> np.ndarray | None:
    """The array as (H, W, channels) or (H, W); None if it is no image."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    return array if is_image and array.size and array.dtype.kind in "buif" else None


def _png(array: np.ndarray, low: float, high: float) -> str:
    """A data URI; `low` is black, `high` white, and what is no number black."""
    scaled = (array.astype(np.float64) - low) / ((high - low) or 1.0) * 255
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255)
    pixels = scaled.round().astype(np.uint8)
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def histogram_entry(
    name: str, port: np.ndarray | list, reference: np.ndarray | list
) -> dict[str, Any]:
    """An entry of a report's `histograms`, of two samples.

    Args:
        port, reference: arrays, counted in BINS bins between BINS + 1 edges; or lists of anything,
            of which the BINS most frequent values are counted. The edges are then their names.
    """
    if not isinstance(port, list):
        both = np.concatenate([port, reference])
        both = both[np.isfinite(both)]
        edges: Any = (
            np.histogram_bin_edges(both, BINS) if both.size else np.linspace(0, 1, BINS + 1)
        )
        counts = [np.histogram(side, edges)[0].tolist() for side in (port, reference)]
        edges = [float(f"{edge:.6g}") for edge in edges]
    else:
        sides = Counter(port), Counter(reference)
        values = [value for value, _ in (sides[0] + sides[1]).most_common(BINS)]
        counts = [[side[value] for value in values] for side in sides]
        edges = [_label(value) for value in values]
    return {"name": name, "edges": edges, "port": counts[0], "reference": counts[1]}


def _label(value: Any) -> str:
    if isinstance(value, tuple):
        value = " ".join(map(str, value)) or "nothing"
    return str(value)[:LABEL]
