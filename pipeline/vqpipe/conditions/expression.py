"""What `--where` says, or a reader's `filter`: an expression in Python's own words, never run.

Its conditions are what `and` joins at the top; an image has to meet all of them. One is either of
the image's own size, which is looked at as soon as its header is read (`images.sizes`), or of
stored columns, which Arrow looks at before that (`conditions.judge`). They travel as text.

Both take arithmetic for that of float64. What is unknown is neither true nor false, as in SQL: what
is made of a null, or of a division by zero.
"""

import ast
import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from vqpipe.errors import ConfigError

SIZES = ("width", "height")
"""Names that are the image's own, in pixels, once it is upright."""
_COLUMN = "column"
"""What columns are named by whose names are no words of Python's: `column["a name"]`."""
_MOST_LETTERS, _MOST_DEPTH, _MOST_SHOWN = 10_000, 50, 200
_MOST_INTEGER = 2**63 - 1
_ALLOWED = (
    "It may have comparisons (< <= == != >= >), and, or, not, + - * /, in and not in a list of "
    "values, is None and is not None, parentheses, numbers, strings, True and False, width and "
    'height of the image, and stored columns: by name, or as column["a name"]'
)
_OPERATORS = (
    *(ast.And, ast.Or, ast.Not, ast.USub, ast.UAdd, ast.Add, ast.Sub, ast.Mult, ast.Div),
    *(ast.Lt, ast.LtE, ast.Eq, ast.NotEq, ast.GtE, ast.Gt, ast.In, ast.NotIn, ast.Is, ast.IsNot),
)
LISTS = (ast.List, ast.Tuple, ast.Set)
"""What may stand behind `in`."""

Literal = int | float | str


@dataclass(frozen=True)
class Where:
    """What an image has to meet."""

    text: str
    """All of it, however it was spaced."""
    sizes: tuple[str, ...]
    """Conditions of width and height, in order."""
    stored: tuple[str, ...]
    """Conditions of stored columns, in order."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names, each once."""
        return tuple(dict.fromkeys(name for text in self.stored for name in columns_of(text)))


NO_WHERE = Where("", (), ())
"""What every image meets."""


def parse(text: str | None) -> Where:
    """Returns what an expression says; None says nothing.

    Raises:
        ConfigError: If it has anything that is not allowed; says what, and where.
    """
    if text is None:
        return NO_WHERE
    said = _Said("--where", text)
    whole = _parsed(said)
    _check(said, whole)
    sizes, stored = list[str](), list[str]()
    for part in _conjuncts(whole):
        names, told = set(_names(part)), ast.unparse(part)
        columns = {name for is_size, name in names if not is_size}
        if not names:
            _refuse(said, part, "this is the same for all images; leave it out")
        if columns and len(columns) < len(names):
            _refuse(said, part, _MIXED)
        (stored if columns else sizes).append(told)
    return Where(ast.unparse(whole), tuple(sizes), tuple(stored))


_MIXED = (
    "this has both the image's own width or height and stored columns. Join them by and, each in a "
    'part of its own; where the source has the size stored, column["width"] is that'
)


def parse_stored(option: str, text: str) -> tuple[str, tuple[str, ...]]:
    """Returns an expression of which every name is a stored column, and these names.

    Args:
        option: What the operator calls it, for messages.
        text: What was said.

    Returns:
        All of it, however it was spaced; the names, each once.

    Raises:
        ConfigError: If it has anything that is not allowed; says what, and where.
    """
    said = _Said(option, text)
    whole = _parsed(said)
    _check(said, whole)
    names = tuple(dict.fromkeys(name for _, name in _names(whole)))
    if not names:
        _refuse(said, whole, "this is the same for all rows; leave it out")
    return ast.unparse(whole), names


def columns_of(condition: str) -> tuple[str, ...]:
    """Returns the stored columns that a condition names."""
    return tuple(name for is_size, name in _names(tree(condition)) if not is_size)


@functools.lru_cache(maxsize=1024)
def tree(condition: str) -> ast.expr:
    """Returns a condition of `Where` taken apart."""
    return ast.parse(condition, mode="eval").body


def name_of(node: ast.expr) -> tuple[bool, str] | None:
    """Returns whether a node is of the image's size, and the name; None of what is no name."""
    if isinstance(node, ast.Name):
        return node.id in SIZES, node.id
    if isinstance(node, ast.Subscript) and _fault_of_subscript(node) is None:
        assert isinstance(node.slice, ast.Constant)
        return False, str(node.slice.value)
    return None


def negative(node: ast.expr) -> Literal | None:
    """Returns the number that a node is with the sign before it; None if it is something else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = node.operand.value if isinstance(node.operand, ast.Constant) else None
        return -value if isinstance(value, int | float) and not isinstance(value, bool) else None
    return None


def _names(node: ast.expr) -> Iterator[tuple[bool, str]]:
    """Yields all names in a node (`name_of`)."""
    found = name_of(node)
    if found is not None:
        yield found
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _names(child)


def _conjuncts(node: ast.expr) -> Iterator[ast.expr]:
    """Yields what `and` joins at the top of a node."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for each in node.values:
            yield from _conjuncts(each)
    else:
        yield node


@dataclass(frozen=True)
class _Said:
    """An expression, and what it was said to."""

    option: str
    text: str

    def __str__(self) -> str:
        return f"{self.option} {_brief(self.text)}"


def _parsed(said: _Said) -> ast.expr:
    """Returns an expression as Python takes it apart, whatever is in it."""
    text = said.text
    if len(text) > _MOST_LETTERS:
        raise ConfigError(
            f"{said.option} has {len(text):,} letters; at most {_MOST_LETTERS:,} are read"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings
            return ast.parse(_one_line(text), mode="eval").body
    except SyntaxError as error:
        at = f", at character {error.offset}" if error.offset else ""
        raise ConfigError(f"{said}{at}: {error.msg}. {_ALLOWED}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{said}: this cannot be read. {_ALLOWED}") from None


def _one_line(text: str) -> str:
    return text.strip().replace("\n", " ")


def _brief(text: str) -> str:
    """Returns the beginning of what was said, in quotes."""
    text = _one_line(text)
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")


def _check(said: _Said, whole: ast.expr) -> None:
    """Checks that an expression has nothing but what is allowed."""
    left: list[tuple[ast.AST, int]] = [(whole, 1)]
    while left:
        node, depth = left.pop()
        if depth > _MOST_DEPTH:
            _refuse(said, whole, "parts of it lie too deep in one another")
        fault = _fault(node)
        if fault:
            _refuse(said, node, fault)
        left += [(each, depth + 1) for each in _below(node)]


def _below(node: ast.AST) -> Iterator[ast.AST]:
    """Yields what is to be checked below a node that is allowed itself."""
    if isinstance(node, ast.Subscript):
        return
    pairs = zip(node.ops, node.comparators, strict=True) if isinstance(node, ast.Compare) else ()
    lists = [each for op, each in pairs if isinstance(op, ast.In | ast.NotIn)]
    yield from (each for each in ast.iter_child_nodes(node) if each not in lists)
    for each in lists:
        yield from ast.iter_child_nodes(each)


def _refuse(said: _Said, node: ast.AST, why: str) -> NoReturn:
    """Raises an error that names a place in an expression."""
    where = ""
    if isinstance(node, ast.expr):
        line = _one_line(said.text).encode()
        before, there = line[: node.col_offset], line[node.col_offset : node.end_col_offset]
        at = len(before.decode("utf-8", "replace")) + 1
        where = f", at character {at}, {_brief(there.decode('utf-8', 'replace'))}"
    raise ConfigError(f"{said}{where}: {why}. {_ALLOWED}")


def _fault(node: ast.AST) -> str | None:
    """Returns what is wrong with a node, whatever is below it."""
    check = _CHECKS.get(type(node))
    if check is not None:
        return check(node)
    if isinstance(node, (*_OPERATORS, ast.Load, ast.Name, ast.BoolOp)):
        return None
    return f"{_NOT_ALLOWED.get(type(node), 'this')} cannot be used"


def _fault_of_constant(node: ast.AST) -> str | None:
    assert isinstance(node, ast.Constant)
    value = node.value
    if isinstance(value, bool | float | str) or value is None:
        return None
    if isinstance(value, int):
        return None if value <= _MOST_INTEGER else "whole numbers have 64 bits at most"
    return f"{type(value).__name__} cannot be used"


def _fault_of_operation(node: ast.AST) -> str | None:
    assert isinstance(node, ast.BinOp | ast.UnaryOp)
    return None if isinstance(node.op, _OPERATORS) else "this operator cannot be used"


def _fault_of_subscript(node: ast.AST) -> str | None:
    assert isinstance(node, ast.Subscript)
    is_column = isinstance(node.value, ast.Name) and node.value.id == _COLUMN
    is_text = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    return None if is_column and is_text else 'only column["a name"] can have brackets'


def _fault_of_comparison(node: ast.AST) -> str | None:
    assert isinstance(node, ast.Compare)
    operands = [node.left, *node.comparators]
    for op, left, right in zip(node.ops, operands, operands[1:], strict=False):
        fault = _fault_of_pair(op, left, right)
        if fault:
            return fault
    return None


def _fault_of_pair(op: ast.cmpop, left: ast.expr, right: ast.expr) -> str | None:
    """Returns why two operands do not go with what is between them."""
    if isinstance(left, LISTS):
        return "nothing can follow a list of values; put what in makes in parentheses"
    if isinstance(op, ast.Is | ast.IsNot):
        is_size, name = name_of(left) or (False, None)
        is_stored = name is not None and not is_size
        return None if is_stored and _is_none(right) else "is goes with a stored column and None"
    if isinstance(op, ast.In | ast.NotIn):
        is_list = isinstance(right, LISTS) and right.elts and all(map(_is_value, right.elts))
        return None if is_list else "in wants a list of values, such as [1, 2] or ['a', 'b']"
    if _is_none(left) or _is_none(right):
        return "None is compared by is and is not"
    return None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_value(node: ast.expr) -> bool:
    """Tells whether a node is a number, a string, True or False."""
    is_constant = isinstance(node, ast.Constant) and node.value is not None
    return is_constant or negative(node) is not None


_CHECKS: dict[type[ast.AST], Callable[[ast.AST], str | None]] = {
    ast.Constant: _fault_of_constant,
    ast.BinOp: _fault_of_operation,
    ast.UnaryOp: _fault_of_operation,
    ast.Subscript: _fault_of_subscript,
    ast.Compare: _fault_of_comparison,
}
_NOT_ALLOWED: dict[type[ast.AST], str] = {
    ast.Call: "functions",
    ast.Attribute: "attributes",
    ast.JoinedStr: "f-strings",
    ast.Lambda: "functions",
    ast.IfExp: "if and else",
    ast.NamedExpr: "assignments",
}
