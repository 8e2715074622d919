"""Whether an image of a size is wanted: conditions on width and height, number by number.

The child that opens images does this, to which Arrow would be a second of start.
"""

import ast
import operator
from collections.abc import Callable

from vqpipe.conditions.expression import LISTS, SIZES, tree

_Value = float | bool | None
_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
}
_ADD: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def holds(condition: str, width: int, height: int) -> bool:
    """Tells whether an image of a size meets a condition of `Where.sizes`.

    Args:
        condition: Of which it has been checked that it compares numbers.
        width: Pixels of the upright image.
        height: Pixels of the upright image.
    """
    return _value(tree(condition), dict(zip(SIZES, (width, height), strict=True))) is True


def _value(node: ast.expr, sizes: dict[str, int]) -> _Value:
    """Returns what a node of a condition on sizes is; None is unknown."""
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float), "strings go with no size"
        return node.value
    if isinstance(node, ast.BoolOp):
        return _joined([_value(each, sizes) for each in node.values], node.op)
    if isinstance(node, ast.UnaryOp):
        return _turned(_value(node.operand, sizes), node.op)
    if isinstance(node, ast.BinOp):
        return _calculated(node, sizes)
    assert isinstance(node, ast.Compare), "as it was checked"
    return _compared(node, sizes)


def _joined(values: list[_Value], op: ast.boolop) -> _Value:
    """Returns what and or or makes of truths, as Kleene has it."""
    decisive = isinstance(op, ast.Or)
    if decisive in values:
        return decisive
    return None if None in values else not decisive


def _turned(value: _Value, op: ast.unaryop) -> _Value:
    if value is None:
        return None
    if isinstance(op, ast.Not):
        return not value
    return -value if isinstance(op, ast.USub) else value


def _calculated(node: ast.BinOp, sizes: dict[str, int]) -> _Value:
    left, right = _value(node.left, sizes), _value(node.right, sizes)
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Div):
        return float(left) / float(right) if right else None
    return _ADD[type(node.op)](float(left), float(right))


def _compared(node: ast.Compare, sizes: dict[str, int]) -> _Value:
    """Returns whether all comparisons of a chain hold."""
    found, left = list[_Value](), _value(node.left, sizes)
    for op, each in zip(node.ops, node.comparators, strict=True):
        if isinstance(each, LISTS):
            found.append(_is_among(left, [_value(item, sizes) for item in each.elts], op))
        else:
            right = _value(each, sizes)
            is_known = left is not None and right is not None
            found.append(_COMPARE[type(op)](left, right) if is_known else None)  # type: ignore[arg-type]
            left = right
    return _joined(found, ast.And())


def _is_among(value: _Value, items: list[_Value], op: ast.cmpop) -> _Value:
    return None if value is None else (value in items) == isinstance(op, ast.In)
