"""Small pairs of models of many kinds: right ports are aligned, mistakes are found and located."""

import importlib
from pathlib import Path

import pytest

NAMES = sorted({path.stem for path in Path(__file__).parent.glob("[!_]*.py")} - {"test_pairs"})
PAIRS = {name: importlib.import_module(f"pairs.{name}") for name in NAMES}
BROKEN = {
    f"{name}: {broken.name}": (pair, broken)
    for name, pair in PAIRS.items()
    for broken in pair.BROKEN
}


ACCEPTING = [name for name, pair in PAIRS.items() if hasattr(pair, "ACCEPT")]


def check(pair, port, accepts=True):
    import alignment

    accept = {"accept": pair.ACCEPT} if accepts and hasattr(pair, "ACCEPT") else {}
    return alignment.check(
        port,
        pair.Reference,
        pair.INPUTS,
        loss=getattr(pair, "LOSS", None),
        targets=getattr(pair, "TARGETS", ()),
        map=getattr(pair, "MAP", None),
        rules=getattr(pair, "rules", list)(),
        checks=getattr(pair, "CHECKS", ("forward", "backward", "training")),
        **accept,
    )


def listed(texts):
    return [texts] if isinstance(texts, str) else list(texts)


@pytest.mark.parametrize("name", PAIRS)
def test_right_port_is_aligned(name):
    pair = PAIRS[name]
    report = check(pair, pair.Port)
    assert report.aligned and not report.differences, report.text()
    wanted = getattr(pair, "NOT_COMPARED", [])
    always = ["not asked for", "without a counterpart", "padding other than 0 and 1"]
    allowed = [*always, *wanted, *getattr(pair, "MAY_NOT_COMPARE", [])]
    lines = [line.lower() for line in report.not_compared]
    for text in wanted:
        assert any(text.lower() in line for line in lines), (text, lines)
        assert text.lower() in report.text().lower(), report.text()
    surplus = [line for line in lines if not any(text.lower() in line for text in allowed)]
    assert not surplus, report.text()


@pytest.mark.parametrize("name", ACCEPTING)
def test_difference_of_the_frameworks_is_told_with_its_cure(name):
    pair = PAIRS[name]
    report = check(pair, pair.Port, accepts=False)
    assert not report.aligned, report.text()
    for known in pair.ACCEPT:
        assert any(known in hint for hint in report.hints), (report.hints, report.text())


@pytest.mark.parametrize("name", BROKEN)
def test_mistake_is_located_and_named(name):
    pair, broken = BROKEN[name]
    report = check(pair, broken.port)
    assert not report.aligned and report.differences, report.text()
    first = report.differences[0]
    places = listed(broken.where)
    assert first.check in places or any(lies_in(first.where, place) for place in places), (
        first,
        report.text(),
    )
    for text in listed(broken.words):
        assert text.lower() in report.text().lower(), (text, report.text())


def lies_in(where, place):
    """Whether a layer, parameter or output is `place` or lies in it."""
    where = where.partition(" (call ")[0]
    return where == place or where.startswith((f"{place}.", f"{place}["))


def test_every_pair_is_broken_in_three_ways():
    assert all(len(pair.BROKEN) >= 3 for pair in PAIRS.values())
