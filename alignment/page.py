"""result/report.html: a report (docs/report.schema.json) as one page that needs nothing else.

What stands on the page is in templates/. Here are the numbers: where on a scale a value lies, and
how it is written.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from .files import whole_file
from .screen import printable

__all__ = ["anchor", "render_page", "write_page"]

TEMPLATES = Path(__file__).parent / "templates"
IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")
LISTS = (
    *("records", "checks", "findings", "layers", "images", "histograms", "rows", "weights"),
    *("lines", "not_compared", "known", "notes"),
)
SINGLE = ("title", "seconds", "look_at", "power", "quantities", "curves")
# Those of the tutorial: a run of one of them is a part of the whole.
TUTORIAL = (
    *("01_test_forward", "02_test_data", "03_test_metric", "04_test_loss", "05_test_backward"),
    "align_training",
)
FIRST_LAYER = "First layer that differs"  # title of a Finding
# Percent of a scale's width: what is 0 or infinite lies beside it, as it has no logarithm.
AT_ZERO, LEAST, MOST, AT_INFINITY = 2, 7, 94, 98
HEAT = (0.01, 0.1, 1, 10, 1000)  # shares of a bound at which the colour changes


def write_page(report: Mapping[str, Any], path: Path) -> None:
    """Writes `report`, a dictionary as in report.json, to `path`.

    Raises:
        CannotRun: the file cannot be written; what was there is then as it was.
    """
    page = render_page(report)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_page(report: Mapping[str, Any]) -> str:
    """The page as text.

    Every value of the report is escaped by the engine. The policy in its head lets nothing but the
    script and the style sheet of templates/ run, and lets nothing be fetched.
    """
    script, style = (_source(name) for name in ("page.js", "page.css"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(t=text, ts=svg_text, attribute=attribute)
    environment.filters.update(
        number=number, heat=heat, anchor=anchor, environment=_environment_rows, duration=duration
    )
    report = {**report, "parts": [_part(part) for part in report["parts"]]}
    _tell_weights_once(report["parts"])
    page = environment.get_template("report.html").render(
        report=report,
        points=_points_of(report["parts"]),
        first=_where_to_start(report["parts"]),
        script=script,
        style=style,
        policy=(
            f"default-src 'none'; img-src data:; script-src {_hash(script)}; "
            f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
        ),
    )
    return page


def _where_to_start(parts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first part that is not aligned, else the first that could not run, else None."""
    red = [part for part in parts if part["status"] == "not aligned"]
    return next((part for part in [*red, *parts] if part["status"] != "aligned"), None)


def _tell_weights_once(parts: Sequence[dict[str, Any]]) -> None:
    """Steps load the same weights: where they do, a part refers to the first of them."""
    for number, part in enumerate(parts):
        earlier = (each for each in parts[:number] if each["weights"] == part["weights"])
        part["same_weights"] = next(earlier, None) if part["weights"] else None


def _points_of(parts: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """[part] in the order of the tutorial; of a step that was not run its name and that status."""
    found = {part["name"]: part for part in parts}
    if not found.keys() & set(TUTORIAL):
        return parts
    absent = {"status": "not run", "title": "", "seconds": None}
    first = [found.pop(name, {**absent, "name": name}) for name in TUTORIAL]
    return [*first, *found.values()]


def _source(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _shown(value: Any) -> Any:
    """Names may hold what turns the direction of a line, or is no text."""
    if value is None:
        return ""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def text(english: str, chinese: str, /, **values: Any) -> Markup:
    """A fixed text in both languages, of which the style sheet shows one."""
    return _in_both(english, chinese, "span", values)


def svg_text(english: str, chinese: str, /, **values: Any) -> Markup:
    """The same within an SVG's text."""
    return _in_both(english, chinese, "tspan", values)


def _in_both(english: str, chinese: str, tag: str, values: Mapping[str, Any]) -> Markup:
    values = {name: _shown(value) for name, value in values.items()}
    found = [
        Markup('<{} class="l" lang="{}">{}</{}>').format(
            Markup(tag), language, Markup(words).format(**values), Markup(tag)
        )
        for language, words in (("en", english), ("zh-Hans", chinese))
    ]
    return Markup("").join(found)


def attribute(name: str, english: str, chinese: str, /, **values: Any) -> Markup:
    """An attribute in both languages, which the script exchanges."""
    values = {key: _shown(value) for key, value in values.items()}
    english, chinese = english.format(**values), chinese.format(**values)
    return Markup('{}="{}" data-attribute="{}" data-en="{}" data-zh="{}"').format(
        Markup(name), english, name, english, chinese
    )


def anchor(name: str) -> str:
    """`name` as an id that is the same in a link: what a link would encode becomes ~ and its bytes.

    Two names never give the same id.
    """

    def encoded(found: re.Match[str]) -> str:
        return "".join(f"~{byte:02x}" for byte in found[0].encode("utf-8", "surrogateescape"))

    return re.sub(r"[^A-Za-z0-9._-]", encoded, name)


def number(value: Any, digits: int = 4) -> str:
    """A number as a reader wants it: 0, 3.2e-15, 0.25; numbers that are not finite are text."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return {"inf": "∞", "-inf": "-∞", "nan": "NaN"}.get(value, value)
    if value == 0 or 1e-3 <= abs(value) < 10**digits:
        return f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes from 100 seconds on."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def heat(share: float) -> int:
    """0 to 5: how far a share of a bound is; from 3 on it is over."""
    share = _float(share)
    return len(HEAT) if math.isnan(share) else sum(share > limit for limit in HEAT)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


@dataclass
class Scale:
    """A logarithmic scale from 10**low to 10**high, in percent of its width."""

    low: int
    high: int

    @classmethod
    def of(cls, values: Iterable[Any]) -> Scale:
        """One that holds all `values` (numbers, text for those not finite, None)."""
        found = [_float(value) for value in values]
        exponents = [math.log10(x) for x in found if 0 < x < math.inf] or [-16, 0]
        low, high = math.floor(min(exponents)), math.ceil(max(exponents))
        return cls(min(low, high - 4), high)

    def at(self, value: Any) -> float:
        """Where `value` lies."""
        value = abs(_float(value))
        if not value < math.inf:
            return AT_INFINITY
        if value == 0:
            return AT_ZERO
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(LEAST + (MOST - LEAST) * min(max(share, 0), 1), 1)

    def ticks(self, most: int = 6) -> list[tuple[str, float]]:
        """[(label, where it lies)], at most so many."""
        step = math.ceil((self.high - self.low) / (most - 1))
        return [
            (number(10.0**exponent), self.at(10.0**exponent))
            for exponent in range(self.low, self.high + 1, step)
        ]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the report with all that may be missing, and what the charts need."""
    entries = {
        name: [dict(each) if isinstance(each, dict) else each for each in part.get(name) or []]
        for name in LISTS
    }
    part = {**dict.fromkeys(SINGLE), **part, **entries}
    part["id"] = anchor(part["name"])
    records = part["records"]
    part["scale"] = Scale.of(
        row.get(name)
        for row in records
        for name in ("difference", "threshold", "float64", "bound64")
    )
    part["has_float64"] = any(row.get("float64") is not None for row in records)
    for record in records:
        record["sides"] = [
            _against(part["scale"], record.get(value), record.get(bound))
            for value, bound in (("difference", "threshold"), ("float64", "bound64"))
        ]
    _layers(part)
    _findings(part)
    _curves(part)
    part["images"] = [image for image in part["images"] if _is_image(image)]
    for histogram in part["histograms"]:
        most = max([*histogram["port"], *histogram["reference"], 1e-300])
        for side in ("port", "reference"):
            histogram[f"{side}_path"] = _outline(histogram[side], most)
        edges = histogram["edges"]  # of numbers; of what is no number the name of each column
        is_named = any(isinstance(edge, str) for edge in edges)
        histogram["ends"] = edges if is_named else edges[:: max(len(edges) - 1, 1)]
    return part


def _findings(part: dict[str, Any]) -> None:
    """What several findings have in common is told once; each leads to its layer.

    A parameter leads to the layer that has it, "features.0.1 and 33 more" to the one it names.
    """
    ids, told = {layer["name"]: layer["id"] for layer in part["layers"]}, set()
    for finding in part["findings"]:
        where = finding["where"]
        named = where.split(" ")[0]
        candidates = (where, named, named.rpartition(".")[0] or None)
        finding["layer_id"] = next((ids[name] for name in candidates if name in ids), None)
        finding["news"] = [line for line in finding.get("detail") or [] if line not in told]
        finding["new_hint"] = finding.get("hint") not in told and finding.get("hint")
        told |= {*finding["news"], finding.get("hint")}


def _against(scale: Scale, value: Any, bound: Any) -> dict[str, Any] | None:
    """A value and its bound on a scale, and how many times it is below or above it."""
    if value is None:
        return None
    ratio = _float(value) / bound if bound else math.nan
    times = None
    if 0 < ratio < math.inf:
        times = ratio if ratio > 1 else 1 / ratio
    return {
        "value": value,
        "bound": bound,
        "at": scale.at(value),
        "bound_at": None if bound is None else scale.at(bound),
        "over": bound is not None and not _float(value) <= bound,
        "times": times and number(float(f"{times:.2g}")),
    }


def _layers(part: dict[str, Any]) -> None:
    layers = part["layers"]
    scale = Scale.of(
        layer.get(name)
        for layer in layers
        for name in ("output", "gradient", "bound", "gradient_bound")
    )
    part["layer_scale"] = scale
    for layer in layers:
        layer["id"] = f"{part['id']}.{anchor(layer['name'])}"
        layer["marks"] = [
            _against(scale, layer.get(value), layer.get(bound))
            for value, bound in (("output", "bound"), ("gradient", "gradient_bound"))
        ]
    part["details"] = [_detail(layer) for layer in layers]
    part["has_gradient"] = any(layer.get("gradient") is not None for layer in layers)
    red = [layer for layer in layers if not layer["agrees"]]
    part["first_layer"] = _first_layer(red, part["findings"])
    part["differing"] = len(red)
    part["kinds"] = sorted({layer["port_kind"] for layer in layers if layer.get("port_kind")})
    part["series"] = {
        name: _line([layer.get(name) for layer in layers], scale.at)
        for name in ("output", "gradient", "bound", "gradient_bound")
    }


def _first_layer(
    red: Sequence[dict[str, Any]], findings: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The layer that a finding names as the first; else the first in order of execution, where
    the backward pass comes after the forward pass and begins with the last layer."""
    names = [f["where"] for f in findings if f.get("title") == FIRST_LAYER]
    named = [layer for layer in red if layer["name"] in names]
    forward = [layer for layer in red if (layer["marks"][0] or {}).get("over")]
    return next(iter([*named, *forward, *reversed(red)]), None)


def _detail(layer: Mapping[str, Any]) -> dict[str, Any]:
    """What the script shows of a layer whose row is opened, as text: it is most of a large page."""
    statistics = layer.get("statistics") or {}
    return {
        "settings": [
            [
                *("–" if each is None else _shown(each) for each in setting),
                setting[0] in (layer.get("differs") or []),
            ]
            for setting in layer.get("settings") or []
        ],
        "statistics": [
            [which, side, *(number(value) for value in statistics[which][side])]
            for which in ("input", "output")
            for side in ("port", "reference")
            if (statistics.get(which) or {}).get(side)
        ],
    }


def _points(values: Sequence[Any], at: Callable[[Any], float]) -> list[tuple[float, float] | None]:
    """[(x, y)] of `values` from left to right, each from 0 to 1000; None where one is missing.

    Args:
        at: function (value) -> percent of the height, from below.
    """
    width = 1000 / max(len(values), 1)
    return [
        None if value is None else (width * (position + 0.5), 1000 - 10 * at(value))
        for position, value in enumerate(values)
    ]


def _path(points: Iterable[tuple[float, float] | None]) -> str:
    """SVG path through `points`, broken where one is missing."""
    path, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        path.append(f"{pen}{point[0]:.4g} {point[1]:.4g}")
        pen = "L"
    return "".join(path)


def _line(values: Sequence[Any], at: Callable[[Any], float]) -> str:
    return _path(_points(values, at))


def _outline(counts: Sequence[float], most: float) -> str:
    """SVG path around the columns of a histogram, x and y from 0 to 1000."""
    width = 1000 / max(len(counts), 1)
    columns = [
        f"V{1000 - 950 * count / most:.4g}H{width * (position + 1):.4g}"
        for position, count in enumerate(counts)
    ]
    return f"M0 1000{''.join(columns)}V1000"


def _curves(part: dict[str, Any]) -> None:
    """Paths of the losses, of the band that rounding makes, and of how far the two are apart."""
    curves = part.get("curves")
    part["charts"] = None
    if not curves or not curves["port"]:
        return
    port, reference = ([_float(x) for x in curves[side]] for side in ("port", "reference"))
    copies = [[_float(x) for x in copy] for copy in curves.get("copies") or []]
    steps = list(zip(reference, *copies))
    low, high = [min(values) for values in steps], [max(values) for values in steps]
    found = [x for x in [*port, *low, *high] if math.isfinite(x)] or [0.0, 1.0]
    bottom, top = min(found), max(found)
    span = (top - bottom) or abs(top) or 1.0

    def at(value: Any) -> float:
        share = (value - bottom) / span if math.isfinite(value) else 1.0
        return 5 + 90 * min(max(share, 0), 1)

    apart = _largest_so_far([abs(a - b) for a, b in zip(port, reference)])
    furthest = _largest_so_far(
        [max((abs(x - row[0]) for x in row[1:]), default=0.0) for row in steps]
    )
    bound = curves.get("bound") or []
    scale = Scale.of([*apart, *furthest, *bound])
    band = [*_points(high, at), *reversed(_points(low, at))]
    part["charts"] = {
        "steps": len(port),
        "ticks": [(number(bottom + span * share), 5 + 90 * share) for share in (0, 0.5, 1)],
        "port": _line(port, at),
        "reference": _line(reference, at),
        "band": copies and f"{_path(band)}Z",
        "scale": scale,
        "apart": _line(apart, scale.at),
        "furthest": copies and _line(furthest, scale.at),
        "bound": _line(bound, scale.at),
        "left": next((i for i, (x, b) in enumerate(zip(apart, bound)) if not x <= _float(b)), None),
    }


def _largest_so_far(values: Iterable[Any]) -> list[Any]:
    found, largest = [], 0.0
    for value in values:
        largest = value if math.isnan(value) or value > largest else largest
        found.append(largest)
    return found


def _is_image(image: Mapping[str, Any]) -> bool:
    sides = (image.get("port"), image.get("reference"), image.get("difference"))
    return all(side is None or IMAGE.fullmatch(side) for side in sides)


def _environment_rows(environment: Mapping[str, Any]) -> list[tuple[str | None, str, Any]]:
    """[(group or None, name, value)]."""
    rows: list[tuple[str | None, str, Any]] = []
    for name, value in environment.items():
        if isinstance(value, dict):
            rows += [(name, key, inner) for key, inner in value.items()]
        else:
            rows.append((None, name, value))
    return rows
