"""result/report.json: all that was found in one run, for a page, for other programs, to attach.

Of each step one part. docs/report.schema.json says what is in it. Standard library and NumPy: it is
read where no framework is.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import CannotRun, read_json, reason_of, shown, write_json
from .findings import plain
from .screen import tell
from .terminal import coloured, of_verdict

if TYPE_CHECKING:
    from .findings import Finding, Report
    from .pairing import Pairing


__all__ = [
    "ALIGNED",
    "COMPARE",
    "COULD_NOT_RUN",
    "LOGS",
    "NOT_ALIGNED",
    "TITLES",
    "add_part",
    "broken_part",
    "finding_entries",
    "finish",
    "first_difference",
    "make_report",
    "new_part",
    "part_of_comparison",
    "part_of_step",
    "read_report",
    "text",
    "write_page_of",
    "write_report",
]

VERSION = 1
TOOL = {"name": "paddle-alignment", "version": "0.1.0"}
ALIGNED, NOT_ALIGNED, COULD_NOT_RUN = "aligned", "not aligned", "could not run"
COMPARE = "compare"  # the part of any pair
STATUSES = (ALIGNED, NOT_ALIGNED, COULD_NOT_RUN)
# {log of a step: (its name, its title)}, in the order of the tutorial
LOGS = {
    "forward_diff": ("01_test_forward", "Forward"),
    "data_diff": ("02_test_data", "Data"),
    "metric_diff": ("03_test_metric", "Metric"),
    "loss_diff": ("04_test_loss", "Loss"),
    "backward_diff": ("05_test_backward", "Backward"),
    "train_align_steps": ("align_training", "Training"),
    "train_align_diff": ("align_learning", "Learning"),
}
TITLES = {**dict(LOGS.values()), COMPARE: "Any pair"}
ORDER = [name for name, _ in LOGS.values()]
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "torch", "torchvision", "numpy", "reprod-log")
LISTS = (
    "lines",
    "records",
    "checks",
    "findings",
    "layers",
    "images",
    "histograms",
    "rows",
    "weights",
    "not_compared",
    "known",
    "notes",
)
OF_TEXT = ("lines", "not_compared", "known", "notes")
LONGEST_SENTENCE = 400
MOST_FINDINGS = 200  # of a part: of a wrong loss, all that comes after it differs
MOST_BYTES = 64 * 2**20  # of a report that is read
PATH = re.compile(r"(?<![\w./~])/(?:[^\s/'\":,;()|<>]+/)+[^\s/'\":,;()|<>]+")


# --- parts ---------------------------------------------------------------------------------------


def new_part(name: str, title: str, status: str, verdict: str, **values: Any) -> dict[str, Any]:
    """A part of a report.

    Args:
        name: "01_test_forward", "compare", …
        status: one of STATUSES.
        verdict: the line on the screen.
        values: what else is known of it; the rest is there, and empty.
    """
    part: dict[str, Any] = {"name": name, "title": title, "status": status}
    part |= {"seconds": None, "verdict": verdict}
    part |= {"look_at": None, "power": None, "quantities": None, "curves": None}
    part |= {key: [] for key in LISTS}
    return plain({**part, **values})


def finding_entries(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """[Finding] as plain values, each with its text in one line; the first MOST_FINDINGS."""
    return [{**asdict(each), "text": each.text()} for each in findings[:MOST_FINDINGS]]


def misfits_summary(pairing: Pairing, part: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a step whose models are not built alike.

    Args:
        pairing: a Pairing that does not fit.
        part: what report.json has of the step.
    """
    return {
        "aligned": False,
        "records agree": False,
        "verdict": "misaligned",
        "compared": ["parameters"],
        "worst": pairing.verdict(),
        "difference": "inf",
        "threshold": 0.0,
        "part": part,
    }


def broken_part(name: str, message: str) -> dict[str, Any]:
    """The part of a step that could not run.

    Args:
        message: why, in one line.
    """
    title = TITLES.get(name, name)
    return new_part(name, title, COULD_NOT_RUN, message, lines=[f"could not run: {message}"])


def part_of_step(path: Path, seconds: float) -> dict[str, Any]:
    """The part that a step has left in its JSON file.

    Args:
        seconds: that the step took.

    Raises:
        CannotRun: the file cannot be read, or has none.
    """
    summary = read_json(path, MOST_BYTES)
    part = summary.get("part") if isinstance(summary, dict) else None
    if not isinstance(part, dict):
        raise CannotRun(f"{shown(path)} has no part of a report")
    return {**_checked_part(part, path), "seconds": round(seconds, 3)}


def part_of_comparison(found: Report, seconds: float, lines: Sequence[str]) -> dict[str, Any]:
    """The part of `alignment.check`.

    Args:
        found: findings.Report in which something was compared.
        seconds: that it took.
        lines: that were printed.
    """
    bounds = [f["bound"] for f in found.data.get("layers", [])]
    power = found.power.removeprefix("power: ") or None
    if bounds:
        power = power or f"in float64, a difference above {max(bounds):.0e} of the largest value"
    return new_part(
        COMPARE,
        TITLES[COMPARE],
        ALIGNED if found.aligned else NOT_ALIGNED,
        found.verdict,
        seconds=round(seconds, 3),
        look_at=next(iter(found.hints), None),
        lines=lines,
        checks=[asdict(check) for check in found.checks],
        findings=finding_entries(found.differences),
        not_compared=found.not_compared,
        known=found.known,
        notes=found.notes,
        power=power,
        **found.data,
    )


def first_difference(part: Mapping[str, Any]) -> str:
    """What a part says first, in one line."""
    if part["findings"]:
        return part["findings"][0]["text"]
    return part["verdict"].removeprefix("NOT ALIGNED").lstrip(":, ") or part["status"]


# --- a report ------------------------------------------------------------------------------------


def make_report(parts: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """A report of parts, in the order of the tutorial.

    Args:
        parts: [as of `new_part`]; [] is not aligned.
        seed: of weights and inputs.
    """
    parts = sorted(parts, key=_place)
    report = {
        "version": VERSION,
        "tool": TOOL,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": _command(),
        "environment": _environment(seed),
        "aligned": bool(parts) and all(part["status"] == ALIGNED for part in parts),
        "verdict": sentence(parts),
        "parts": parts,
    }
    return _tidied(plain(report))


def _place(part: Mapping[str, Any]) -> int:
    return ORDER.index(part["name"]) if part["name"] in ORDER else len(ORDER)


def sentence(parts: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on all parts in one sentence."""
    red = [part for part in parts if part["status"] == NOT_ALIGNED]
    broken = [part for part in parts if part["status"] == COULD_NOT_RUN]
    if red:
        where = "" if red[0]["name"] == COMPARE else f"{red[0]['name']}, "
        told = f"Not aligned: start with {where}{first_difference(red[0])}"
    elif broken:
        told = f"Could not run: {broken[0]['name']}, {broken[0]['verdict']}"
    elif parts:
        return "Aligned: " + ", ".join(part["title"] for part in parts)
    else:
        return "Nothing was compared"
    return told if len(told) <= LONGEST_SENTENCE else f"{told[:LONGEST_SENTENCE]}…"


def _command() -> str:
    """As it was typed; paths relative to the working folder."""
    script = Path(sys.argv[0])
    name = "alignment" if script.stem == "alignment" else f"python {_relative(str(script))}"
    if script.name == "__main__.py":
        name = f"python -m {script.parent.name}"
    arguments = []
    for argument in sys.argv[1:]:
        flag, equals, value = argument.partition("=")
        if equals and flag.startswith("-") and os.path.isabs(value):
            argument = f"{flag}={_relative(value)}"
        arguments.append(_relative(argument))
    return " ".join([name, *map(shlex.quote, arguments)])


def _relative(text: str) -> str:
    if not os.path.isabs(text):
        return text
    try:
        return os.path.relpath(text)
    except (OSError, ValueError):  # the working folder is gone; another drive
        return Path(text).name


def _tidied(value: Any) -> Any:
    """`value` with paths of files that are there relative to the working folder.

    Bytes of a file's name that are no UTF-8 are escaped, as a page could not hold them.
    """
    if isinstance(value, dict):
        return {key: _tidied(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_tidied(child) for child in value]
    if not isinstance(value, str) or value.startswith("data:image/"):
        return value
    value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return PATH.sub(_relative_match, value) if "/" in value else value


def _relative_match(match: re.Match[str]) -> str:
    path = match.group().rstrip(".")
    if not os.path.lexists(path):
        return match.group()
    return _relative(path) + match.group()[len(path) :]


def _environment(seed: int) -> dict[str, Any]:
    torch = sys.modules.get("torch")
    paddle = sys.modules.get("paddle")
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability() if torch else None,
        "packages": packages,
        "device": str(paddle.get_device()) if paddle else None,
        "threads": {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "torch": torch.get_num_threads() if torch else None,
        },
        "seed": seed,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the working folder, "+" behind it if files have changed; None without git."""
    texts = []
    for command in (
        ("rev-parse", "--short", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no"),
    ):
        try:
            done = subprocess.run(
                ["git", "--no-optional-locks", *command],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=10,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        if done.returncode:
            return None
        texts.append(done.stdout.strip())
    return texts[0] + ("+" if texts[1] else "")


# --- files ---------------------------------------------------------------------------------------


def write_report(report: Mapping[str, Any], folder: Path) -> Path | None:
    """Writes report.json and report.html. A failure is one line on stderr, and no more.

    Returns:
        pathlib.Path of the one to open, or None.
    """
    path = Path(folder) / "report.json"
    try:
        write_json(report, path, indent=None)
    except CannotRun as error:
        tell(str(error))
        return None
    page = path.with_suffix(".html")
    return page if write_page_of(report, page) else path


def write_page_of(report: Mapping[str, Any], page: Path) -> bool:
    """Writes the page of a report. A failure is one line on stderr.

    Returns:
        whether it is there.
    """
    try:
        from .page import write_page

        write_page(report, page)
    except CannotRun as error:
        tell(str(error))
    except Exception as error:  # the verdict is told whatever happens to the page
        tell(f"cannot write {shown(page)}: {type(error).__name__}: {reason_of(error)}")
    else:
        return True
    return False


def finish(
    report: Mapping[str, Any], folder: Path | None = None, junit: Path | None = None
) -> None:
    """Writes what is asked for; prints the verdict in one sentence, and what to open next.

    Args:
        folder: for report.json and report.html, or None.
        junit: pathlib.Path of a file of JUnit XML, or None.
    """
    opened = write_report(report, folder) if folder else None
    if junit:
        from .junit import write_junit

        try:
            write_junit(report, junit)
        except CannotRun as error:
            tell(str(error))
    red = next((part for part in report["parts"] if part["status"] == NOT_ALIGNED), None)
    told = coloured(report["verdict"], of_verdict(report["verdict"]))
    if opened:
        told += f". Open {shown(opened)}"
    elif red is not None and red["look_at"]:
        told += f". Look at {red['look_at']}"
    print(told, flush=True)


def add_part(folder: Path, part: dict[str, Any]) -> Path | None:
    """Puts a part into the report of a folder, in place of the one of that name.

    The caller holds the folder (files.only_user).

    Returns: as `write_report`.
    """
    try:
        others = read_report(Path(folder) / "report.json")["parts"]
    except CannotRun:  # there is none yet, or one of another version
        others = []
    others = [each for each in others if each["name"] != part["name"]]
    return write_report(make_report([*others, part]), folder)


def read_report(path: Path) -> dict[str, Any]:
    """A report that was written here, or by somebody else.

    Raises:
        CannotRun: it cannot be read, is something else, or of another version.
    """
    report = read_json(path, MOST_BYTES)
    if not isinstance(report, dict) or "version" not in report or "parts" not in report:
        raise CannotRun(f"{shown(path)} is no report: give the report.json of a run")
    if report["version"] != VERSION:
        raise CannotRun(
            f"{shown(path)} is a report of version {report['version']!a:.20}, and this program "
            f"reads version {VERSION}: create it again"
        )
    if not isinstance(report["parts"], list) or not isinstance(report.get("verdict"), str):
        raise CannotRun(_damaged(path, "parts or verdict"))
    parts = [_checked_part(part, path) for part in report["parts"]]
    return {**report, "parts": parts, "aligned": report.get("aligned") is True}


def _checked_part(part: Any, path: Path) -> dict[str, Any]:
    """A part of which all that is read here has its type."""
    if not isinstance(part, dict):
        raise CannotRun(_damaged(path, "a part"))
    texts: list[Any] = [part.get(key) for key in ("name", "title", "verdict")]
    if not all(isinstance(each, str) for each in texts) or part.get("status") not in STATUSES:
        raise CannotRun(_damaged(path, "a part's name or status"))
    for key in LISTS:
        kind = str if key in OF_TEXT else dict
        entries = part.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(each, kind) for each in entries):
            raise CannotRun(_damaged(path, f"{key} of {texts[0]!a:.40}"))
    for key, names in (
        ("records", ("key", "verdict")),
        ("checks", ("name",)),
        ("findings", ("check", "where", "quantity", "text")),
    ):
        for entry in part.get(key, []):
            if not all(isinstance(entry.get(name), str) for name in names):
                raise CannotRun(_damaged(path, f"{key} of {texts[0]!a:.40}"))
    name, title, verdict = texts
    return {**new_part(name, title, part["status"], verdict), **part}


def _damaged(path: Path, what: str) -> str:
    return f"{shown(path)} is damaged, at {what}: create it again"


# --- text ----------------------------------------------------------------------------------------


def text(report: Mapping[str, Any], quiet: bool = False) -> list[str]:
    """Lines for a terminal: what each step said, and the verdict."""
    if quiet:
        return [report["verdict"]]
    lines = []
    for part in report["parts"]:
        told = part["lines"] or [part["verdict"]]
        lines += [f"{part['name']} ({part['title']})", *(f"  {line}" for line in told), ""]
    return [*lines, report["verdict"]]
