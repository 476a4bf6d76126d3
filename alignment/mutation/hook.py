"""In the process that is tested: one file is imported as another source, or its lines are watched.

Standard library only, and nothing of this package: a `sitecustomize` of the user's own process
loads this file by itself. Nothing on the disk is changed.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


PLAN = "ALIGNMENT_MUTANT"  # environment variable: path of the JSON that `from_environment` reads
PROBE = "__alignment_mutation_line__"  # a builtin


def install(
    path: str | os.PathLike[str], source: bytes, note: Callable[[str], None] | None = None
) -> None:
    """From now on the Python file `path` is compiled from `source`, where it is imported.

    Args:
        path: str or path-like; of the file.
        source: bytes.
        note: called with "imported", each time.
    """

    def code(path: str) -> bytes:
        if note is not None:
            note("imported")
        return source

    _compile_instead([path], code)


def watch(paths: Iterable[str], note: Callable[[str, int], None]) -> None:
    """From now on note(path, line) is called when a statement of these files is run first.

    The line is the first of the statement. What is imported has a probe before each statement: a
    trace would slow down the frameworks as well, and could be in the way of a debugger's.

    Args:
        paths: real paths.
    """
    seen = set()

    def run(*at: Any) -> None:
        if at not in seen:
            seen.add(at)
            note(*at)

    setattr(builtins, PROBE, run)

    def code(path: str) -> ast.AST:
        with open(path, "rb") as file:
            tree = _Probes(path).visit(ast.parse(file.read()))
        return ast.fix_missing_locations(tree)

    _compile_instead(paths, code)


def _compile_instead(paths: Iterable[str | os.PathLike[str]], code: Callable[[str], Any]) -> None:
    """Imports of these files compile what code(real path) gives."""
    targets = {os.path.realpath(path) for path in paths}
    loader: Any = importlib.machinery.SourceFileLoader
    original = loader.get_code

    def get_code(self: Any, fullname: str) -> Any:
        path = os.path.realpath(self.path)
        if path not in targets:
            return original(self, fullname)
        # Not from the byte code that may lie beside the file; and none is written.
        return compile(code(path), self.path, "exec", dont_inherit=True)

    loader.get_code = get_code


class _Probes(ast.NodeTransformer):
    """Puts a call before each statement that says that it is run."""

    def __init__(self, path: str) -> None:
        self.path = path

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):  # not that of a lambda
                setattr(node, field, [each for one in statements for each in self._probed(one)])
        return node

    def _probed(self, statement: Any) -> list[Any]:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        if is_docstring or is_future or not isinstance(statement, ast.stmt):
            return [statement]
        lines = [each.lineno for each in getattr(statement, "decorator_list", [])]
        calls = [
            ast.Expr(
                ast.Call(
                    ast.Name(PROBE, ast.Load()), [ast.Constant(self.path), ast.Constant(line)], []
                )
            )
            for line in (*lines, statement.lineno)
        ]
        return [*(ast.copy_location(call, statement) for call in calls), statement]


# In place of the sitecustomize of that Python, which is then imported as ever.
SITE = """import importlib.util, sys
spec = importlib.util.spec_from_file_location("alignment_mutation_hook", {hook!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.from_environment()
ours, place = sys.modules.pop("sitecustomize", None), {place!r}
sys.path[:] = [each for each in sys.path if each != place]
try:
    import sitecustomize
except ImportError:
    pass
if ours is not None:
    sys.modules["sitecustomize"] = ours
"""


def environment_of(
    folder: Path,
    path: str | os.PathLike[str],
    source: bytes | None = None,
    watched: Iterable[str] = (),
) -> dict[str, str]:
    """Environment variables with which every Python that is started has the file replaced.

    What is noted goes to `log` in the folder: "imported", or a path and a line.

    Args:
        folder: pathlib.Path, empty, for what is needed on the way.
        path, source: as of `install`.
        watched: real paths of files whose lines are noted.
    """
    place = str(folder)
    site = SITE.format(hook=os.path.realpath(__file__), place=place)
    (folder / "sitecustomize.py").write_text(site, encoding="utf-8")
    (folder / "log").write_bytes(b"")
    plan = {"file": str(path), "source": None, "watched": list(watched), "log": f"{place}/log"}
    if source is not None:
        plan["source"] = f"{place}/source"
        (folder / "source").write_bytes(source)
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    paths = [place, before] if before else [place]
    return {"PYTHONPATH": os.pathsep.join(paths), PLAN: f"{place}/plan.json"}


def read_notes(folder: Path) -> tuple[set[str], dict[str, set[int]]]:
    """({"imported"}, {path: {line}}) of the log in the folder."""
    notes, lines = set(), {}
    for line in (folder / "log").read_text(encoding="utf-8").splitlines():
        path, tab, number = line.rpartition("\t")
        if tab:
            lines.setdefault(path, set()).add(int(number))
        else:
            notes.add(line)
    return notes, lines


def from_environment() -> None:
    """In such a Python: does what the plan says."""
    name = os.environ.get(PLAN)
    if not name:
        return
    file: Any
    with open(name, encoding="utf-8") as file:
        plan = json.load(file)
    log = os.open(plan["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(*what: object) -> None:
        os.write(log, ("\t".join(map(str, what)) + "\n").encode())

    if plan["source"] is None:
        watch(plan["watched"], note)
        return
    with open(plan["source"], "rb") as file:
        install(plan["file"], file.read(), note)
