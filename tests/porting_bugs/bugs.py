"""Bugs that people make when they port a PyTorch model to PaddlePaddle, of all stages.

python tests/porting_bugs/bugs.py > docs/porting_bugs.md
python tests/porting_bugs/bugs.py --language zh > docs/porting_bugs.zh.md
"""

from pathlib import Path

import stages
from stages import backward, data, forward, loss, metric, ranks, training  # noqa: F401

from alignment.arguments import Formatter, Parser
from alignment.files import CannotRun, read_json
from alignment.screen import CANNOT_RUN, leave

BUGS = dict(
    sorted(stages.BUGS.items(), key=lambda item: (stages.TOPICS.index(item[1].topic), item[1].step))
)
CHINESE = Path(__file__).with_name("bugs.zh.json")  # the texts of each bug, by its name
TEXTS = ("name", "symptom", "reason", "fix")
HEADS = {
    "en": """\
# Porting bugs, and the step that finds each

Made by `python tests/porting_bugs/bugs.py > docs/porting_bugs.md`. `make test` makes these
{} bugs in the port, one at a time, and asserts that the step named turns red and says what is
in the column *named*; those of 06, which is `Checkpoint6/align_training.py`, with
`ARGS="-m slow"`. An unchanged port is green.

| step | bug | symptom | reason | fix | named |
""",
    "zh": """\
# 移植错误目录，以及查出每种错误的步骤

由 `python tests/porting_bugs/bugs.py --language zh > docs/porting_bugs.zh.md` 生成。\
`make test` 把下表中的 {} 种错误逐一制造在移植版中，并断言：所列的步骤会报告未对齐，\
并且输出最后一列中的文字。步骤 06 是 `Checkpoint6/align_training.py`，\
加上 `ARGS="-m slow"` 时运行。\
没有改动的移植版为对齐。

| 步骤 | 错误 | 症状 | 原因 | 修正 | 输出的文字 |
""",
}
STEPS = {
    "en": {},
    "zh": {"06, two processes": "06，双进程"},
}


def in_chinese():
    """The TEXTS of each bug in Chinese, by its English name. Raises: CannotRun, if they are not of
    these bugs.
    """
    file = "tests/porting_bugs/bugs.zh.json"
    chinese = read_json(CHINESE)
    for name in BUGS:
        texts = chinese.get(name, {})
        lacking = [text for text in TEXTS if not texts.get(text)]
        if lacking:
            raise CannotRun(
                f"the bug {name!r} has no {', '.join(lacking)} in Chinese: write it into {file}"
            )
    for name in chinese:
        if name not in BUGS:
            raise CannotRun(
                f"{file} has texts of {name!r}, and there is no such bug: rename or delete them"
            )
    return chinese


def document(language="en"):
    """docs/porting_bugs.md, or porting_bugs.zh.md, from all bugs. Raises: CannotRun."""
    chinese = in_chinese() if language == "zh" else {}
    lines = [HEADS[language].format(len(BUGS)) + "| --- | --- | --- | --- | --- | --- |"]
    for b in BUGS.values():
        texts = chinese.get(b.name) or {text: getattr(b, text) for text in TEXTS}
        cells = [
            STEPS[language].get(b.step, b.step),
            f"[{texts['name']}]({b.source})" if b.source else texts["name"],
            texts["symptom"],
            texts["reason"],
            texts["fix"],
            ", ".join(f"`{name}`" for name in b.names),
        ]
        cells = [cell.replace("|", "\\|") for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = Parser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--language", choices=tuple(HEADS), default="en")
    args = parser.parse_args()
    try:
        print(document(args.language))
    except CannotRun as error:
        leave(CANNOT_RUN, str(error))


if __name__ == "__main__":
    main()
