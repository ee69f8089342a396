"""Small changes of a source file, each of which should make a test fail."""

import ast
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
ARITHMETIC = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: (r"\*\*", "*"),
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil"}
# What a program prints or raises is read by people: its tests hold some of it, but not every number in it.
NOT_MUTATED = (ast.JoinedStr, ast.Raise, ast.Assert)
# Checks and looks that no result depends on.
SAME_RESULT = ("strict", "indent", "exist_ok")
HASH_CONSTANT = 1 << 32
"""From here on integers are a hash's: any other would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One file with one change."""

    path: str
    """Below the root of the repository."""
    function: str
    line: int
    old: str
    """The changed line or lines without indentation."""
    new: str
    source: str
    """The whole changed file."""
    tests: tuple[str, ...] = ()
    """Test files that come before those of the room, for one written by hand."""

    @property
    def key(self) -> str:
        """The same as long as the changed lines and their function are, wherever in the file they are."""
        return f"{self.path}::{self.function}: {self.old} -> {self.new}"

    def rank(self, seed: int) -> str:
        """A random place in the order of drawing; it stays when other code changes or a file is moved."""
        text = f"{seed} {self.function} {self.old} {self.new}"
        return hashlib.sha256(text.encode()).hexdigest()


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every mutant of a file that is a program and another one than before."""
    content = source.encode()
    starts = [0]
    for row in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found: dict[str, Mutant] = {}
    for function, (start, end), text in _edits(ast.parse(source), content, starts):
        mutant = change(path, content, start, end, text, function)
        if ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(source)):
            found.setdefault(mutant.key, mutant)
    return list(found.values())


def change(
    path: str,
    content: bytes,
    start: int,
    end: int,
    text: str,
    function: str,
    tests: tuple[str, ...] = (),
) -> Mutant:
    """The file with bytes start to end replaced."""
    after = content[:start] + text.encode() + content[end:]
    first, last = content.rfind(b"\n", 0, start) + 1, content.find(b"\n", end - 1)
    tail = len(content) - last
    return Mutant(
        path=path,
        function=function,
        line=content.count(b"\n", 0, start) + 1,
        old=_one_line(content[first:last]),
        new=_one_line(after[first : len(after) - tail]),
        source=after.decode(),
        tests=tests,
    )


def function_at(source: str, line: int) -> str:
    """Dotted name of the innermost function or class around a line; empty at the top of a file."""
    names = [
        (node.lineno, node.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.lineno <= line <= (node.end_lineno or line)
    ]
    return ".".join(name for _, name in sorted(names))


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split())


Edit = tuple[str, tuple[int, int], str]


def _edits(tree: ast.Module, content: bytes, starts: list[int]) -> Iterator[Edit]:
    """(function, bytes to replace, replacement) of every change."""

    def span(node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword), node
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def gap(left: ast.expr, right: ast.expr, pattern: str) -> tuple[int, int]:
        """Where an operator is between its operands, among brackets and comments."""
        start, end = span(left)[1], span(right)[0]
        found = re.search(pattern, re.sub(rb"#[^\n]*", _blank, content[start:end]).decode())
        assert found is not None, content[start:end]
        return start + found.start(), start + found.end()

    def visit(node: ast.AST, function: str) -> Iterator[Edit]:
        if isinstance(node, NOT_MUTATED) or (isinstance(node, ast.keyword) and node.arg in SAME_RESULT):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}".lstrip(".")
            children: list[ast.AST] = [*node.body]  # no defaults, decorators or annotations
        else:
            children = list(ast.iter_child_nodes(node))
        for place, text in _changes(node, span, gap):
            yield function, place, text
        for child in children:
            yield from visit(child, function)

    yield from visit(tree, "")


def _blank(comment: re.Match[bytes]) -> bytes:
    return b" " * len(comment.group())


def _changes(
    node: ast.AST,
    span: Callable[[ast.AST], tuple[int, int]],
    gap: Callable[[ast.expr, ast.expr, str], tuple[int, int]],
) -> Iterator[tuple[tuple[int, int], str]]:
    """Every change of one node itself."""
    match node:
        case ast.Compare():
            for left, op, right in zip(
                [node.left, *node.comparators], node.ops, node.comparators, strict=False
            ):
                pattern, text = COMPARISONS[type(op)]
                yield gap(left, right, pattern), text
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            pattern, text = ARITHMETIC[type(node.op)]
            yield gap(node.left, node.right, pattern), text
        case ast.BoolOp():
            pattern, text = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield gap(left, right, pattern), text
        case ast.UnaryOp(op=ast.Not()):
            start = span(node)[0]
            yield (start, start + len("not ")), ""
        case ast.Constant(value=bool()):
            yield span(node), str(not node.value)
        case ast.Constant(value=int()) if node.value < HASH_CONSTANT:
            yield span(node), str(node.value + 1)
        case ast.Call(func=ast.Name(id=name) as func) if name in SWAPPED:
            yield span(func), SWAPPED[name]
        case ast.keyword(arg="min" | "max" as name):
            start = span(node)[0]
            yield (start, start + len(name)), SWAPPED[name]
        case ast.Expr(value=ast.Call()):
            yield span(node), "pass"
