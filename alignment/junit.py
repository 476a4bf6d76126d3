"""A report as JUnit XML, which GitHub, GitLab and Jenkins show: a suite for each part."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import whole_file
from .report import ALIGNED, COULD_NOT_RUN

__all__ = ["junit", "write_junit"]

# What XML 1.0 cannot hold, not even escaped; and the control characters that it can.
FORBIDDEN = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MOST_LINES = 40  # of one failure


def write_junit(report: Mapping[str, Any], path: Path) -> None:
    """Raises: CannotRun."""
    with whole_file(path) as temporary:
        junit(report).write(temporary, encoding="utf-8", xml_declaration=True)


def junit(report: Mapping[str, Any]) -> ET.ElementTree:
    """An xml.etree.ElementTree.ElementTree of a report."""
    root = ET.Element("testsuites", name="alignment")
    for part in report["parts"]:
        suite = ET.SubElement(root, "testsuite", name=_clean(part["name"]))
        for case in _cases(part):
            suite.append(case)
        _count(suite, suite, _seconds(part))
        suite.set("timestamp", _clean(str(report.get("created", ""))))
    _count(root, root, sum(_seconds(part) for part in report["parts"]))
    ET.indent(root)
    return ET.ElementTree(root)


def _cases(part: Mapping[str, Any]) -> list[ET.Element]:
    """The test cases of a part: its records, and each check."""
    if part["status"] == COULD_NOT_RUN:
        case = _case(part, "run", part)
        ET.SubElement(case, "error", message=_clean(part["verdict"]))
        return [case]
    checks = [{"name": "records", **_of_records(part["records"])}] if part["records"] else []
    checks += part["checks"]
    # Of a step, whose findings say how and not in which check they were found, the first red one.
    red = next((check for check in checks if not check.get("aligned")), None)
    if red is None and part["status"] != ALIGNED:
        red = {"name": "run", "summary": part["verdict"]}
        checks.append(red)
    names = {check["name"] for check in checks}
    cases = []
    for check in checks:
        case = _case(part, check["name"], check)
        cases.append(case)
        if check.get("aligned"):
            continue
        found = [each for each in part["findings"] if each["check"] == check["name"]]
        if check is red:
            found += [each for each in part["findings"] if each["check"] not in names]
        lines = [line for each in found for line in _lines(each)][:MOST_LINES]
        if check is red and part["look_at"]:
            lines.append(f"Look at: {part['look_at']}")
        message = found[0]["text"] if found else str(check.get("summary") or part["verdict"])
        failure = ET.SubElement(case, "failure", message=_clean(message))
        failure.text = _clean("\n".join(lines or [message]))
    return cases


def _of_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    differ = [each for each in records if each["verdict"] in ("imprecise", "misaligned")]
    summary = str(differ[0].get("text", differ[0]["key"])) if differ else f"{len(records)} arrays"
    return {"aligned": not differ, "summary": summary}


def _lines(finding: Mapping[str, Any]) -> list[str]:
    title, detail, hint = (finding.get(key) or "" for key in ("title", "detail", "hint"))
    lines = [f"{title}: {finding['text']}" if title else finding["text"]]
    lines += [f"  {line}" for line in detail] if isinstance(detail, list) else []
    return [*lines, *([f"  {hint}"] if hint else [])]


def _case(part: Mapping[str, Any], name: str, timed: Mapping[str, Any]) -> ET.Element:
    case = ET.Element("testcase", classname=_clean(part["name"]), name=_clean(name))
    case.set("time", f"{_seconds(timed):.3f}")
    return case


def _seconds(timed: Mapping[str, Any]) -> float:
    seconds = timed.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def _count(element: ET.Element, within: ET.Element, seconds: float) -> None:
    for name, what in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        element.set(name, str(len(list(within.iter(what)))))
    element.set("time", f"{seconds:.3f}")


def _clean(text: str) -> str:
    return FORBIDDEN.sub("", text)
