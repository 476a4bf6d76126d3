"""Small mistakes made by machine: which there are, and which of them a check does not see."""

import ast
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from alignment.files import CannotRun
from alignment.mutation.results import (
    FOUND,
    NOT_RUN,
    SURVIVED,
    Equivalents,
    Outcome,
    OutcomeLog,
    read_outcomes,
    report,
    sample_of,
)
from alignment.mutation.source import KINDS, mutants_of

LOOP = [ROOT / "Checkpoint6" / name for name in ("trainer.py", "train.py")]


def made(source, kind):
    """{changed line} of the mutants of a kind."""
    return {each.after for each in mutants_of(source.encode(), "x.py") if each.kind == kind}


@pytest.mark.parametrize(
    ("kind", "source", "changed"),
    [
        ("comparison", "y = a < b", {"y = a <= b"}),
        ("comparison", "y = a is not b", {"y = a is b"}),
        ("comparison", "y = (a) not in (b)", {"y = (a) in (b)"}),
        ("operator", "y = a + b // c", {"y = a - b // c", "y = a + b * c"}),
        ("operator", "y = a and -b", {"y = a or -b", "y = a and b"}),
        ("operator", "y *= 'β' in b", {"y /= 'β' in b"}),
        ("number", "y = f(3, 0.5, 0.0)", {"y = f(4, 0.5, 0.0)", "y = f(3, 0.505, 0.0)",
                                          "y = f(3, 0.5, 0.01)"}),
        ("truth value", "y = f(True)", {"y = f(False)"}),
        ("off by one", "y = x[a:]", {"y = x[a + 1:]"}),
        ("off by one", "y = x[-(a * b):]", {"y = x[(-(a * b)) + 1:]"}),
        ("off by one", "for i in range(n):\n    y = x[i]", {"for i in range(n + 1):",
                                                             "y = x[i + 1]"}),
        ("default", "def f(a, b=1, *, c=True): pass", {"def f(a, b=2, *, c=True): pass",
                                                        "def f(a, b=1, *, c=False): pass"}),
        ("argument", "y = f(a, b=1, c=2)", {"y = f(a, c=2)", "y = f(a, b=1)"}),
        ("argument", "y = f(b=g(1, 2))", {"y = f()"}),
        ("condition", "y = a if b < c else d", {"y = a if (not (b < c)) else d"}),
        ("condition", "if a:\n    b()", {"if (not (a)):"}),
        ("statement", "f.x = 1", {"pass"}),
        ("statement", "def f(a):\n    a = a + 1\n    b = 2\n    return a",
         {"pass", "return None"}),
        ("statement", "with f():\n    g()", {"if (True):", "pass"}),
        ("statement", "@f(1)\ndef g(): pass", {"#"}),
        ("function", "y = math.floor(max(a, b))", {"y = math.ceil(max(a, b))",
                                                   "y = math.floor(min(a, b))"}),
        ("dtype", "y = x.astype('int64')", {"y = x.astype('int32')"}),
        ("dtype", "y = np.float32", {"y = np.float64", "y = np.float16"}),
        ("mode", "y = a == 'mean'", {"y = a == 'mean_'"}),
        ("mode", "def f(a='mean'): pass", {"def f(a='mean_'): pass"}),
    ],
)  # fmt: skip
def test_a_kind_makes_these(kind, source, changed):
    assert kind in KINDS
    found = made(source, kind)
    assert changed <= found, found
    for mutant in mutants_of(source.encode(), "x.py"):
        ast.parse(mutant.apply(source.encode()))


@pytest.mark.parametrize(
    "source",
    [
        '"""Text of 3 words."""',
        "import a1 as b",
        "__all__ = ['a'] + b",
        "def f(a: int = None) -> Tensor[1, 2]: pass",
        "x: Literal[1]",
        "if n < 2:\n    raise ValueError(f'{n + 1} is not enough')",
        "assert a < 2, a + 1",
        "print('so', 1 + 2)",
        "warnings.warn('so', stacklevel=2)",
        "try:\n    pass\nexcept OSError:\n    a = 1 + 2",
        "class A:\n    def __repr__(self):\n        return 'A' * 2",
        "if __name__ == '__main__':\n    main(1)",
        "@functools.cache\ndef f(): pass",
    ],
)
def test_not_mutated(source):
    """What no comparison of numbers can see."""
    assert mutants_of(source.encode(), "x.py") == []


def files():
    return [*sorted((ROOT / "paddle_mv3").rglob("*.py")), *LOOP]


def test_mutants_of_the_port_are_python_and_keep_the_numbers_of_lines():
    path = ROOT / "paddle_mv3" / "norm.py"
    source = path.read_bytes()
    mutants, before = mutants_of(source, "norm.py"), ast.dump(ast.parse(source))
    assert len(mutants) > 80
    for mutant in mutants:
        mutated = mutant.apply(source)
        assert mutated.count(b"\n") == source.count(b"\n"), mutant.name
        assert ast.dump(ast.parse(mutated)) != before, mutant.name
        line = source.splitlines()[mutant.line - 1].decode()
        assert line.split()[0] in mutant.before, mutant.name


def test_a_name_outlives_changes_elsewhere():
    source = b"def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x + 1\n"
    later = b"import os\n\n\n# a comment\n" + source.replace(b"def g", b"def more(): pass\n\ndef g")
    names, names_later = ([m.name for m in mutants_of(s, "x.py")] for s in (source, later))
    assert len(set(names)) == len(names) == 6
    assert names_later == names


def test_two_of_one_line_have_two_names():
    names = [m.name for m in mutants_of(b"T = [\n    R(2),\n    R(2),\n]\n", "x.py")]
    assert names == ["x.py | <module> | R(2), -> R(3),", "x.py | <module> | R(2), -> R(3), #2"]


def test_a_sample_is_always_the_same_and_spread():
    source = "\n".join(f"y{n} = f({n})" for n in range(100)).encode()
    mutants = mutants_of(source, "x.py")
    chosen = sample_of(mutants, 10)
    assert chosen == sample_of(mutants, 10) and len(chosen) == 10
    assert set(chosen) < set(sample_of(mutants, 20))
    assert max(m.line for m in chosen) > 50 > min(m.line for m in chosen)
    assert sample_of(mutants, 1000) == mutants


def test_marks_have_a_reason_and_fit_a_mutant(tmp_path):
    path = tmp_path / "equivalent.txt"
    path.write_text("# a comment\n\nOnly faster:\n    a | f | x -> y\n    b\n")
    marks = Equivalents(path)
    assert marks.reasons == {"a | f | x -> y": "Only faster", "b": "Only faster"}
    assert marks.without_mutant(iter(["b"])) == ["a | f | x -> y"]
    assert marks.without_mutant(iter(["b", "a | f | x -> y"])) == []
    path.write_text("    a\n")
    with pytest.raises(CannotRun, match="line 1: a mutant before any reason"):
        Equivalents(path)


def test_every_mark_of_the_port_fits_a_mutant():
    names = [
        mutant.name
        for path in files()
        for mutant in mutants_of(path.read_bytes(), path.relative_to(ROOT).as_posix())
    ]
    assert len(names) > 2000
    marks = Equivalents(ROOT / "benchmarks" / "equivalent_mutants.txt")
    assert marks.without_mutant(names) == []


def test_the_table_counts_what_is_no_mistake_apart():
    mutants = mutants_of(b"y = a < 1\n", "x.py")
    outcomes = [Outcome.of(mutants[0], FOUND, "01"), Outcome.of(mutants[1], SURVIVED, "01, 02")]
    text = "\n".join(report(outcomes, Equivalents()))
    assert "x.py:1: y = a < 1 -> y = a < 2  (01, 02)" in text and " 50.0" in text
    marks = Equivalents()
    marks.reasons[mutants[1].name] = "so"
    text = "\n".join(report(outcomes, marks))
    assert "x.py:1" not in text and "100.0" in text


def test_results_are_there_also_of_a_run_that_was_killed(tmp_path):
    mutants = mutants_of(b"y = a < 1\n", "x.py")
    path = tmp_path / "log.jsonl"
    log = OutcomeLog(path, again=False)
    log.write(Outcome.of(mutants[0], NOT_RUN))
    log.write(Outcome.of(mutants[0], FOUND))
    with open(path, "a") as file:
        file.write('{"name": "cut sho')
    assert [each.outcome for each in read_outcomes(path).values()] == [FOUND]
    path.write_text('{"other": 1}\n\n')
    with pytest.raises(CannotRun, match="line 1: not a result"):
        read_outcomes(path)


PORT = '''"""A port."""


def scale(x, factor=2.0, centre=True):
    """x, scaled."""
    if centre:
        x = x - 1
    return x * factor


def forgotten(x):
    return x + 1
'''
CHECK = """
import sys
from port import scale
print("checked")
sys.exit(0 if scale(3) == 4.0 else 1)
"""


@pytest.fixture
def folder(tmp_path):
    """Of a user: a port and a check."""
    (tmp_path / "port.py").write_text(PORT)
    (tmp_path / "check.py").write_text(CHECK)
    return tmp_path


@pytest.fixture
def mutants(spawn, folder):
    """Runs the command in the user's folder."""

    def run(*arguments, check="python check.py", paddle="port.py"):
        given = "-m", "alignment", "mutants", "--paddle", paddle, "--run", check
        return spawn(*given, *arguments, env={"PYTHONPATH": str(ROOT)}, cwd=folder)

    return run


def test_what_a_check_would_have_missed(mutants, folder):
    result = mutants()
    assert result.status == 1, result.err
    lines = result.out.splitlines()
    assert lines[-1] == "MISSED: 3 of 11 mistakes would not have been seen"
    missed = lines[lines.index("Nothing runs these:") + 1 :][:3]
    assert missed[1].strip() == "port.py:12: return x + 1 -> return x - 1"
    assert "survived" not in result.out.replace("survived    not run", "")
    assert (folder / "port.py").read_text() == PORT
    assert sorted(path.name for path in folder.iterdir()) == ["check.py", "port.py"]


def test_all_found_is_green(mutants, folder):
    (folder / "port.py").write_text(PORT[: PORT.index("\n\ndef forgotten")])
    result = mutants(paddle="port.py:scale")
    assert result.status == 0, result.out + result.err
    assert result.out.splitlines()[-1] == "found: each of 8 mistakes would have been seen"


def test_what_survives_is_told_with_its_line(mutants, folder):
    (folder / "check.py").write_text(CHECK.replace("scale(3) == 4.0", "scale(3) > 0"))
    result = mutants()
    assert result.status == 1
    assert "port.py:4: def scale(x, factor=2.0, centre=True): -> def scale(x, factor=2.02" in (
        result.out
    )


def test_marked_and_remembered_ones_are_not_run_again(mutants, folder):
    marks, log = folder / "equivalent.txt", folder / "log.jsonl"
    names = [m.name for m in mutants_of(PORT.encode(), "port.py") if m.where == "forgotten"]
    marks.write_text("Nobody calls it:\n    " + "\n    ".join([*names, "port.py | f | a -> b"]))
    result = mutants("--equivalent", marks, "--log", log)
    assert result.status == 0, result.out
    assert "equivalent.txt: no such mutant: port.py | f | a -> b" in result.out
    lines = log.read_text().splitlines()
    assert len(lines) == 8 and {json.loads(line)["outcome"] for line in lines} == {"found"}
    log.write_text("\n".join(lines[:-1]) + "\n")
    assert mutants("--equivalent", marks, "--log", log, "--resume").status == 0
    assert sorted(log.read_text().splitlines())[0] == sorted(lines)[0]
    assert len(log.read_text().splitlines()) == 8


def test_again_runs_only_what_was_missed(mutants, folder):
    log = folder / "log.jsonl"
    assert mutants("--log", log).status == 1
    text = CHECK.replace("from port import scale", "from port import forgotten, scale")
    text = text.replace("scale(3) == 4.0", "forgotten(3) == 4")  # as good as nothing of the rest
    (folder / "check.py").write_text(text)
    assert mutants("--log", log, "--again").status == 0
    assert len(log.read_text().splitlines()) == 11 + 3
    assert "--log FILE" in mutants("--again").error_line


def test_a_module_in_a_package_from_any_folder(spawn, folder, tmp_path):
    package = folder / "my"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "port.py").write_text(PORT)
    (package / "check.py").write_text(CHECK.replace("from port", "from my.port"))
    check = f"{sys.executable} -m my.check"
    given = "--paddle", "my.port:scale", "--run", check, "--sample", "3"
    result = spawn("-m", "alignment", "mutants", *given, env={"PYTHONPATH": str(ROOT)}, cwd=folder)
    assert "3 of 11 mutants" in result.out, result.err


def test_other_processes_of_the_check_have_the_mutant_too(mutants, folder):
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, 'check.py']))"
    (folder / "outer.py").write_text(code)
    result = mutants(check="python outer.py")
    assert result.out.splitlines()[-1] == "MISSED: 3 of 11 mistakes would not have been seen"


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("python -c 'import sys, port; sys.exit(3)'", "exit status 3 without any mutant"),
        ("python -c 'import port; 1 / 0'", "ZeroDivisionError"),
        (
            "python -c 'import port; print(\"forward NOT ALIGNED\\nNot compared: x\"); exit(1)'",
            "exit status 1 without any mutant: forward NOT ALIGNED. It must",
        ),
        ("python -c 1", "it does not import port.py"),
        ("nosuchcommand", "nosuchcommand: No such file"),
        ("python 'check.py", "No closing quotation"),
        (" ", "--run is empty"),
    ],
)
def test_a_command_that_cannot_tell_is_refused(mutants, check, told):
    assert told in mutants(check=check).error_line


@pytest.mark.parametrize(
    ("paddle", "told"),
    [
        ("nope.py", "nope.py does not exist"),
        ("nope", "there is no such Python file"),
        ("nope.sub:f", "No module named 'nope'"),
        ("json:loads.py", "does not exist"),
        ("broken.py", "is not Python"),
        ("empty.py", "nothing in it can be mutated"),
    ],
)
def test_a_port_that_cannot_be_mutated_is_refused(mutants, folder, paddle, told):
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "empty.py").write_text('"""Nothing."""\n')
    assert told in mutants(paddle=paddle).error_line


def test_one_that_hangs_is_found(mutants, folder):
    code = "import time\nfrom port import scale\n"
    code += "while scale(3) != 4.0:\n    time.sleep(0.1)\n"
    (folder / "check.py").write_text(code)
    (folder / "port.py").write_text("def scale(x):\n    return x + 1.0\n")
    started = time.monotonic()
    result = mutants("--timeout", "1.5")
    assert result.status == 0, result.out + result.err
    assert "refused" in result.out and time.monotonic() - started < 60
    assert "--timeout" in mutants("--timeout", "0.01").error_line


def test_an_interrupted_run_leaves_the_file_and_no_process(folder):
    slow = "import time, os, port\nopen('pid', 'w').write(str(os.getpid()))\n"
    slow += "if port.scale(3) != 4.0:\n    time.sleep(600)\n"
    (folder / "check.py").write_text(slow)
    command = [sys.executable, "-m", "alignment", "mutants", "--paddle", "port.py"]
    command += ["--run", "python check.py", "--log", "log.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment)
    deadline, pids = time.monotonic() + 60, set()
    while len(pids) < 2 and time.monotonic() < deadline:
        if (folder / "pid").exists() and (folder / "pid").read_text():
            pids.add(int((folder / "pid").read_text()))
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert (folder / "port.py").read_text() == PORT


@pytest.mark.slow
def test_a_pair_compared_by_this_very_tool(spawn, tmp_path):
    """--paddle port.py:Net, with alignment compare as the check."""
    (tmp_path / "ref.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.fc = torch.nn.Linear(6, 4)\n\n"
        "    def forward(self, x):\n        return torch.relu(self.fc(x)) * 0.5\n"
    )
    (tmp_path / "port.py").write_text(
        "import paddle\n\n\nclass Net(paddle.nn.Layer):\n    def __init__(self):\n"
        "        super().__init__()\n        self.fc = paddle.nn.Linear(6, 4)\n\n"
        "    def forward(self, x):\n"
        "        return paddle.nn.functional.relu(self.fc(x)) * 0.5\n"
    )
    check = "python -m alignment compare --torch ref.py:Net --paddle port.py:Net --input 3x6"
    given = "--paddle", "port.py:Net", "--run", check
    environment = {"PYTHONPATH": str(ROOT)}
    result = spawn("-m", "alignment", "mutants", *given, env=environment, timeout=600)
    assert result.status == 0, result.out + result.err
    assert "found: each of 8 mistakes" in result.out


@pytest.mark.slow
def test_the_steps_find_mistakes_in_the_port(spawn):
    """benchmarks/mutants.py, on the loss, which is the cheapest."""
    script = ROOT / "benchmarks" / "mutants.py"
    given = "--files", ROOT / "paddle_mv3/training/loss.py", "--runs", "04", "--sample", "5"
    result = spawn(script, *given, timeout=600)
    assert result.status in (0, 1), result.err
    rows = [line.split() for line in result.out.splitlines() if line.startswith("all ")]
    assert int(rows[0][2]) + int(rows[0][3]) >= 3
