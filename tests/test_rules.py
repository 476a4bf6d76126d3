"""What the layout promises."""

import ast
import re
import sys

import pytest
from conftest import ROOT

FRAMEWORKS = {"paddle", "torch", "torchvision"}
OURS = {"alignment", "paddle_mv3", "torch_ref", "torch2paddle", "Checkpoint6", "pair"}


def running(path):
    """The nodes of a file, without what is imported for a type checker alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    return ast.walk(tree)


def imports(path):
    """Top-level packages that a file imports, at any place in it; "." for relative ones."""
    for node in running(path):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else node.module.split(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("paddle_mv3", {"torch", "torchvision"} | OURS),
        ("torch_ref", {"paddle"} | OURS - {"alignment"}),
        ("alignment", OURS),
    ],
)
def test_arrows_point_one_way(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not (forbidden - {package}) & set(imports(file)), file


FRONT_DOORS = ("align_training", "align_learning", "align_ranks", "compare_top1", "digits")


def test_the_pair_is_declared_in_one_file():
    """Which the front doors hand over: neither side knows with what it is compared."""
    assert {"paddle_mv3", "torch_ref", "Checkpoint6"} <= set(imports(ROOT / "pair.py"))
    doors = {f"{name}.py" for name in FRONT_DOORS}
    for folder in ("paddle_mv3", "torch_ref", "Checkpoint6"):
        for file in (ROOT / folder).rglob("*.py"):
            assert file.name in doors or "pair" not in set(imports(file)), file


@pytest.mark.parametrize("name", FRONT_DOORS)
def test_a_front_door_compares_nothing_itself(name):
    """It reads the command line and calls the engine, and needs nothing of the two sides."""
    file = ROOT / "Checkpoint6" / f"{name}.py"
    assert "alignment" in set(imports(file))
    assert not {"paddle_mv3", "torch_ref", "torch2paddle", "numpy"} & set(imports(file))


def test_what_paddle_does_not_promise_is_read_in_one_place():
    """alignment/paddle_internals.py."""
    files = set((ROOT / "alignment").rglob("*.py")) | set((ROOT / "Checkpoint6").glob("align_*.py"))
    files.add(ROOT / "torch2paddle.py")
    own = ("self", "os", "cls", "super()")  # os._exit
    for file in files - {ROOT / "alignment" / "paddle_internals.py"}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and re.fullmatch("_[A-Za-z].*", node.attr):
                owner = ast.unparse(node.value)
                is_torch = owner.startswith(("torch.", "nn.modules."))
                known = owner in own or is_torch or node.attr in ("_replace", "_fields")
                assert known, (file, ast.unparse(node))


def strings(tree):
    """String constants of a module, without those that stand by themselves: docstrings."""
    alone = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in alone:
            yield node.value


def test_the_engine_knows_no_network():
    """Names of models and of their layers are handed over."""
    for file in (ROOT / "alignment").rglob("*.py"):
        for text in strings(ast.parse(file.read_text())):
            assert not re.search(r"mobilenet|\bclassifier\b", text, re.IGNORECASE), (file, text)


def test_two_models_take_their_steps_in_one_place():
    """alignment/training/steps.py; who compares trainings hands over how a step is taken."""
    found = set()
    for file in (ROOT / "alignment").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".optimizer.step"):
                found.add(file.relative_to(ROOT).as_posix())
    assert found == {"alignment/training/steps.py"}


def test_the_reference_takes_from_alignment_what_is_free_of_paddle():
    taken = set()
    for file in (ROOT / "torch_ref").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "alignment":
                taken.update(f"alignment.{name.name}" for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("alignment."):
                taken.add(node.module)
    waiting = [f"{module.replace('.', '/')}.py" for module in taken]
    assert "alignment/files.py" in waiting
    for name in waiting:
        assert "paddle" not in set(imports(ROOT / name)), name
        for node in running(ROOT / name):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = [node.module] if node.module else [each.name for each in node.names]
                below = [f"alignment/{module}.py" for module in names]
                waiting += [path for path in below if path not in waiting]


@pytest.mark.parametrize("name", ["autoaugment", "listing", "mixup", "transforms"])
def test_transforms_are_free_of_frameworks(name):
    assert not FRAMEWORKS & set(imports(ROOT / "paddle_mv3" / "data" / f"{name}.py"))


def test_data_and_training_know_nothing_of_each_other():
    """Nor of the model: each of the three can be replaced by itself."""
    for folder in ("data", "training"):
        for file in (ROOT / "paddle_mv3" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                assert not (isinstance(node, ast.ImportFrom) and node.level > 1), file


@pytest.mark.parametrize(
    "name", ["arguments", "environment", "files", "origin", "pickles", "screen", "trainers"]
)
def test_what_both_trainers_share_is_free_of_frameworks(name):
    assert not FRAMEWORKS & set(imports(ROOT / "alignment" / f"{name}.py"))


def test_the_reference_shares_nothing_else():
    names = (
        "arguments",
        "environment",
        "files",
        "screen",
        "torch_files",
        "torch_import",
        "trainers",
    )
    shared = {f"alignment.{name}" for name in names}
    for file in (ROOT / "torch_ref").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            names = [name.name for name in node.names]
            if isinstance(node, ast.ImportFrom):
                if node.module == "alignment":
                    names = [f"alignment.{name}" for name in names]
                else:
                    names = [node.module or ""]
            assert {name for name in names if name.startswith("alignment")} <= shared, file


BLOCK = """
import sys
sys.path.insert(0, {root!r})
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import {package} as package
{use}
assert not {absent!r} & {{name.split(".")[0] for name in sys.modules}}
"""


@pytest.mark.parametrize(
    ("package", "absent", "use"),
    [
        (
            "paddle_mv3",
            {"torch", "torchvision", "reprod_log"},
            "import paddle; package.mobilenet_v3_small()(paddle.zeros([2, 3, 32, 32]))",
        ),
        (
            "torch_ref",
            {"paddle", "reprod_log"},
            "import torch, torch_ref.train\n"
            "package.mobilenet_v3_small().eval()(torch.zeros(2, 3, 32, 32))",
        ),
    ],
)
def test_each_side_runs_without_the_other_framework(package, absent, use, spawn):
    code = BLOCK.format(root=str(ROOT), package=package, absent=absent, use=use)
    result = spawn("-c", code)
    assert result.status == 0, result.err


def test_torchvision_is_left_whole_where_it_can_be(spawn):
    """The module of shape rules is replaced only if torchvision cannot be imported with it."""
    code = (
        f"import sys, types; sys.path.insert(0, {str(ROOT)!r})\n"
        "try:\n    import torchvision; whole = True\n"
        "except RuntimeError:\n    whole = False\n"
        "for name in [n for n in sys.modules if n.startswith('torchvision')]:\n"
        "    del sys.modules[name]\n"
        "if not whole:\n    import torch_ref\n"
        "    assert not hasattr(sys.modules['torchvision._meta_registrations'], 'torch')\n"
    )
    assert spawn("-c", code).status == 0


def headings(text):
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return [(len(h), anchor) for h, anchor in re.findall(r"^(#+) (\d[\d.]*)?", text, flags=re.M)]


def blocks(text):
    """Fenced code: commands and outputs, which both languages share."""
    return re.findall(r"```(\w*)\n(.*?)```", text, flags=re.S)


def test_both_readmes_say_the_same():
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README_cn.md"))
    assert headings(english) == headings(chinese) and len(headings(english)) > 10
    assert blocks(english) == blocks(chinese)
    links = [re.findall(r"[(\"]((?:images|docs)/[^)\"#]+)", text) for text in (english, chinese)]
    # The Chinese one leads to the Chinese pages.
    assert links[0] == [link.replace(".zh.md", ".md") for link in links[1]]
    for link in [*links[0], *links[1]]:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("*.zh.md")), ids=lambda page: page.name
)
def test_both_languages_show_the_same_code(page):
    english = page.with_name(page.name.replace(".zh.md", ".md"))
    assert blocks(page.read_text(encoding="utf-8")) == blocks(english.read_text(encoding="utf-8"))


def test_python_versions_agree():
    assert sys.version_info >= (3, 10)
