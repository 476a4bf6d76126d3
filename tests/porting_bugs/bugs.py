"""Bugs that people make when they port a PyTorch model to PaddlePaddle, of all stages.

python tests/porting_bugs/bugs.py > docs/porting_bugs.md
"""

import stages
from stages import backward, data, forward, loss, metric, ranks, training  # noqa: F401

BUGS = dict(
    sorted(stages.BUGS.items(), key=lambda item: (stages.TOPICS.index(item[1].topic), item[1].step))
)


def document():
    """docs/porting_bugs.md, from all bugs."""
    lines = [
        "# Porting bugs, and the step that finds each",
        "",
        "Made by `python tests/porting_bugs/bugs.py > docs/porting_bugs.md`. "
        "`make test` makes these",
        f"{len(BUGS)} bugs in the port, one at a time, and asserts that the step named turns red "
        "and says what is",
        "in the column *named*; those of 06, which is `Checkpoint6/align_training.py`, with",
        '`ARGS="-m slow"`. An unchanged port is green.',
        "",
        "| step | bug | symptom | reason | fix | named |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for b in BUGS.values():
        named = ", ".join(f"`{name}`" for name in b.names).replace("|", "\\|")
        name = f"[{b.name}]({b.source})" if b.source else b.name
        lines.append(f"| {b.step} | {name} | {b.symptom} | {b.reason} | {b.fix} | {named} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(document())
