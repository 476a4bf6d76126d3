"""Mutants of Python source: one small mistake each.

Standard library only. A mutant is an edit of the text, not of the syntax tree: all other lines, and
the numbers of all lines, stay as they are.

Not mutated, as no check of numbers can tell: docstrings, annotations, imports, `__all__`,
f-strings; what is printed, warned of or logged; `raise`, `assert`, an `if` that only raises, what
an `except` does; decorators that only remember (functools); how an object is shown (`__repr__`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Mutant", "mutants_of"]

# {kind: what is done}, in the order of the tables.
KINDS = {
    "comparison": "< for <=, == for !=, is for is not, in for not in",
    "operator": "+ for -, * for /, and for or, a sign or a not left out",
    "number": "a number one larger, or 1 % larger where it has a point",
    "truth value": "True for False",
    "off by one": "the end of a range, a bound of a slice, an index",
    "default": "another default of an argument",
    "argument": "a keyword argument left out",
    "condition": "the branches of if, else and of conditional expressions swapped",
    "statement": "a call, an assignment, a `with` or a decorator left out; nothing returned",
    "function": "min for max, any for all, floor for ceil",
    "dtype": "float32 for float64 or float16, int64 for int32",
    "mode": "another name, where a text is compared or is a default",
}

COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "//",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.BitXor: "&",
    ast.LShift: ">>",
    ast.RShift: "<<",
}
FUNCTIONS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "argmin": "argmax",
    "argmax": "argmin",
    "minimum": "maximum",
    "maximum": "minimum",
    "zeros": "ones",
    "ones": "zeros",
}
DTYPES = {
    "float32": ("float64", "float16"),
    "float64": ("float32",),
    "float16": ("float32",),
    "bfloat16": ("float32",),
    "int64": ("int32",),
    "int32": ("int64",),
}
# A negation of these is the other comparison.
OPPOSITES = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
TELLING = ("print", "warn", "warning", "info", "debug", "error")  # names of functions
NOT_NUMBERS = ("__repr__", "__str__")
KEPT_DECORATORS = (
    "property",
    "staticmethod",
    "classmethod",
    "contextmanager",
    "setter",
    "dataclass",
)


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        file: name of the file, as it is shown.
        where: qualified name of the function or class; "<module>" outside of them.
        kind: one of KINDS.
        before, after: the lines that change, without their indentation, in one line.
        number: 0, or which of several that are the same in all of this.
        line: of the change, from 1.
        lines: (first, last) of the statement, or of the head of a compound one.
        start, end, text: the bytes from `start` to `end` of the file become `text`.
    """

    file: str
    where: str
    kind: str
    before: str
    after: str
    number: int
    line: int
    lines: tuple[int, int]
    start: int
    end: int
    text: bytes

    @property
    def name(self) -> str:
        """What stays the same when other lines of the file change."""
        again = f" #{self.number + 1}" if self.number else ""
        return f"{self.file} | {self.where} | {self.before} -> {self.after}{again}"

    def apply(self, source: bytes) -> bytes:
        """The bytes of the mutated file."""
        return source[: self.start] + self.text + source[self.end :]


def mutants_of(source: bytes, file: str) -> list[Mutant]:
    """[Mutant] of a file, in the order of its lines.

    Args:
        source: bytes.
        file: its name, for the mutants.

    Raises:
        SyntaxError, ValueError: it is not Python.
    """
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found, counts = [], {}
    seen = set()
    for edit in sorted(finder.edits, key=lambda edit: (edit.start, edit.end)):
        changed = edit.start, edit.end, edit.text
        before, after = finder.around(*changed)
        if before == after or changed in seen:
            continue
        seen.add(changed)
        key = edit.where, before, after
        number = counts[key] = counts.get(key, -1) + 1
        line = source.count(b"\n", 0, edit.start) + 1
        names = file, edit.where, edit.kind, before, after, number
        found.append(Mutant(*names, line, edit.lines, *changed))
    return found


@dataclass
class _Edit:
    where: str
    kind: str
    lines: tuple[int, int]
    start: int
    end: int
    text: bytes


class _Finder(ast.NodeVisitor):
    """Collects edits."""

    lines: tuple[int, Any]  # first and last; of the last, ast says that it may be None

    def __init__(self, source: bytes) -> None:
        self.source, self.edits = source, []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.names, self.lines = [], (1, 1)
        self.bound = [set()]  # names that the function around has, so far
        self.counters = [set()]  # those that count
        self.in_default = False

    # --- places -------------------------------------------------------------------------------

    def span(self, node: Any) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def segment(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def around(self, start: int, end: int, text: bytes) -> tuple[str, ...]:
        """(before, after) of the lines of an edit, each as one line."""
        first = self.source.rfind(b"\n", 0, start) + 1
        last = self.source.find(b"\n", end)
        last = len(self.source) if last < 0 else last
        before = self.source[first:last]
        after = self.source[first:start] + text + self.source[end:last]
        return tuple(" ".join(part.decode().split()) for part in (before, after))

    def edit(self, kind: str, start: int, end: int, text: str) -> None:
        where = ".".join(self.names) or "<module>"
        self.edits.append(_Edit(where, kind, self.lines, start, end, text.encode()))

    def replace(self, kind: str, node: ast.AST, text: str) -> None:
        self.edit(kind, *self.span(node), text)

    def between(
        self, kind: str, left: ast.expr, right: ast.expr, pattern: bytes, text: str
    ) -> None:
        """Replaces the first fit of `pattern` between two nodes: an operator."""
        start, end = self.span(left)[1], self.span(right)[0]
        found = re.search(pattern, self.source[start:end])
        if found:
            self.edit(kind, start + found.start(), start + found.end(), text)

    # --- statements ---------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            outer = self.lines
            last = node.end_lineno
            body = getattr(node, "body", None)
            if body:
                last = max(node.lineno, body[0].lineno - 1)
            self.lines = node.lineno, last
            super().visit(node)
            self.lines = outer
        else:
            super().visit(node)

    def visit_Import(self, node: ast.AST) -> None:
        pass

    visit_ImportFrom = visit_Import  # noqa: N815
    visit_Raise = visit_Assert = visit_Import  # noqa: N815
    visit_JoinedStr = visit_ExceptHandler = visit_Import  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        self._scope(node, ())

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in NOT_NUMBERS:
            return
        for decorator in node.decorator_list:
            self._decorator(decorator)
        self.names.append(node.name)
        self._defaults(node.args)
        self.names.pop()
        self._scope(node, _arguments(node.args))

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._defaults(node.args)
        self.visit(node.body)

    def _scope(
        self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, names: Iterable[str]
    ) -> None:
        self.names.append(node.name)
        self.bound.append(set(names))
        self.counters.append(set())
        for child in node.body:
            self.visit(child)
        for stack in (self.names, self.bound, self.counters):
            stack.pop()

    def _decorator(self, node: Any) -> None:
        name = _last_name(node.func if isinstance(node, ast.Call) else node)
        text = ast.unparse(node)
        if name in KEPT_DECORATORS or text.startswith("functools."):
            return
        start, end = self.span(node)
        at = self.source.rfind(b"@", 0, start)
        lines, self.lines = self.lines, (node.lineno, node.end_lineno)
        newline = self.source.find(b"\n", end)
        indent = self.source[:at].rpartition(b"\n")[2].decode()
        blank = "#" + "\n" * (node.end_lineno - node.lineno)
        self.edit("statement", at, newline, blank.replace("\n", f"\n{indent}"))
        self.visit(node)
        self.lines = lines

    def _defaults(self, args: ast.arguments) -> None:
        self.in_default, before = True, self.in_default
        for default in [*args.defaults, *args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self.in_default = before

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Constant) or self._tells(value):
            return
        if isinstance(value, ast.Call):
            self._drop(node)
        self.visit(value)

    def _tells(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Call):
            return False
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        is_log = owner is None or ast.unparse(owner) in ("warnings", "logging", "logger", "log")
        return is_log and _last_name(node.func) in TELLING

    def _drop(self, node: ast.stmt) -> None:
        self._replace_statement(node, "pass")

    def _replace_statement(self, node: ast.stmt, text: str) -> None:
        start, end = self.span(node)
        newlines = self.source.count(b"\n", start, end)
        self.edit("statement", start, end, text + "\n" * newlines)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return
        if all(self._is_there(target) for target in node.targets):
            self._drop(node)
        for target in node.targets:
            self.visit(target)
        self.visit(node.value)
        for target in node.targets:
            self._bind(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
        self._bind(node.target)

    def _is_there(self, target: ast.expr) -> bool:
        """Whether what is assigned has a value before, and so the program can go on without."""
        if isinstance(target, ast.Name):
            return target.id in self.bound[-1]
        if isinstance(target, (ast.Tuple, ast.List)):
            return all(self._is_there(each) for each in target.elts)
        return isinstance(target, (ast.Attribute, ast.Subscript))

    def _bind(self, target: ast.expr) -> None:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self.bound[-1].add(node.id)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._drop(node)
        new = OPERATORS.get(type(node.op))
        if new:
            self.between("operator", node.target, node.value, rb"[-+*/%&|^<>@]+=", f"{new}=")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._replace_statement(node, "return None")
        self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self.replace("statement", node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace("statement", node, "break")

    def visit_If(self, node: ast.If) -> None:
        if all(isinstance(child, ast.Raise) for child in node.body):
            for child in node.orelse:
                self.visit(child)
            return
        if ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING"):
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
            self.visit(node.test)
        for child in [*node.body, *node.orelse]:
            self.visit(child)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self._count(node.target, node.iter)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._bind(node.target)
        self._count(node.target, node.iter)
        self.generic_visit(node)

    def _count(self, target: ast.expr, iterated: ast.expr) -> None:
        """Remembers a name that counts."""
        if not isinstance(iterated, ast.Call):
            return
        if _last_name(iterated.func) == "range" and isinstance(target, ast.Name):
            self.counters[-1].add(target.id)
        if _last_name(iterated.func) == "enumerate" and isinstance(target, ast.Tuple):
            first = target.elts[0]
            if isinstance(first, ast.Name):
                self.counters[-1].add(first.id)

    def visit_With(self, node: ast.With) -> None:
        if all(item.optional_vars is None for item in node.items):
            start = self.span(node)[0]
            end = self.span(node.items[-1].context_expr)[1]
            colon = self.source.find(b":", end)
            newlines = self.source.count(b"\n", start, colon)
            self.edit("statement", start, colon, "if (" + "\n" * newlines + "True)")
        for item in node.items:
            if item.optional_vars is not None:
                self._bind(item.optional_vars)
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        for child in [*node.body, *node.orelse, *node.finalbody]:
            self.visit(child)

    def _negate(self, test: Any) -> None:
        is_not = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        is_one = isinstance(test, ast.Compare) and len(test.ops) == 1
        if is_not or (is_one and isinstance(test.ops[0], OPPOSITES)):
            return  # as that kind makes it already
        self.replace("condition", test, f"(not ({self.segment(test)}))")

    # --- expressions --------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:]):
            pattern = rb"is\s+not|not\s+in|is\b|in\b|[<>=!]=?"
            self.between("comparison", left, right, pattern, COMPARISONS[type(operator)])
        for side in sides:
            if not self._mode(side):
                self.visit(side)

    def _mode(self, node: ast.expr) -> bool:
        """Mutates a text that is a name; whether it is one."""
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            return False
        if node.value in DTYPES:
            return False
        if re.fullmatch(r"\w+", node.value):
            self.replace("mode", node, repr(f"{node.value}_"))
        return True

    def visit_BinOp(self, node: ast.BinOp) -> None:
        new = OPERATORS.get(type(node.op))
        if new and not any(_is_text(side) for side in (node.left, node.right)):
            self.between("operator", node.left, node.right, rb"\*\*|//|<<|>>|[-+*/%&|^@]", new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = (rb"and\b", "or") if isinstance(node.op, ast.And) else (rb"or\b", "and")
        for left, right in zip(node.values, node.values[1:]):
            self.between("operator", left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            start = self.span(node)[0]
            length = len("not") if isinstance(node.op, ast.Not) else len("-")
            self.edit("operator", start, start + length, " " if length > 1 else "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        kind = "default" if self.in_default else None
        if isinstance(value, bool):
            self.replace(kind or "truth value", node, str(not value))
        elif isinstance(value, int):
            self.replace(kind or "number", node, str(value + 1))
        elif isinstance(value, float):
            self.replace(kind or "number", node, repr(value * 1.01 if value else 0.01))
        elif isinstance(value, str) and value in DTYPES:
            for name in DTYPES[value]:
                self.replace("dtype", node, repr(name))
        elif self.in_default:
            self._mode(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._rename(node, node.attr)
        self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        self._rename(node, node.id)

    def _rename(self, node: ast.expr, name: str) -> None:
        end = self.span(node)[1]
        if isinstance(getattr(node, "ctx", None), ast.Load):
            for new in DTYPES.get(name, ()):
                self.edit("dtype", end - len(name), end, new)

    def visit_Call(self, node: ast.Call) -> None:
        name = _last_name(node.func)
        if name in FUNCTIONS:
            end = self.span(node.func)[1]
            self.edit("function", end - len(name), end, FUNCTIONS[name])
        if name == "range":
            for argument in node.args[:2]:
                self._off_by_one(argument)
        self._leave_out_keywords(node)
        self.generic_visit(node)

    def _leave_out_keywords(self, node: ast.Call) -> None:
        given = sorted([*node.args, *node.keywords], key=self.span)
        for position, argument in enumerate(given):
            if not isinstance(argument, ast.keyword) or argument.arg is None:
                continue
            start, end = self.span(argument)
            if position:
                start = self.source.rfind(b",", 0, start)
            elif len(given) > 1:
                end = self.span(given[1])[0]
            else:
                # Never None: an empty text fits as well.
                end += len(re.match(rb"\s*,?", self.source[end:]).group())  # type: ignore[union-attr]
            newlines = self.source.count(b"\n", start, end)
            self.edit("argument", start, end, "\n" * newlines)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        index = node.slice
        for part in index.elts if isinstance(index, ast.Tuple) else [index]:
            if isinstance(part, ast.Slice):
                for bound in (part.lower, part.upper):
                    self._off_by_one(bound)
            elif isinstance(part, ast.BinOp) or (
                isinstance(part, ast.Name) and part.id in self.counters[-1]
            ):
                self._off_by_one(part)
        self.generic_visit(node)

    def _off_by_one(self, node: ast.expr | None) -> None:
        """Adds one to what is no number; that is mutated as one."""
        operand = node.operand if isinstance(node, ast.UnaryOp) else node
        if node is None or isinstance(operand, ast.Constant) or isinstance(node, ast.Starred):
            return
        simple = isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
        text = self.segment(node)
        self.replace("off by one", node, f"{text} + 1" if simple else f"({text}) + 1")


def _last_name(node: ast.expr) -> str:
    """ "sum" of `x.sum`, of `sum`; "" of what has no name."""
    return getattr(node, "attr", getattr(node, "id", ""))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _arguments(args: ast.arguments) -> list[str]:
    given = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return [each.arg for each in given if each is not None]
