"""Conditions on columns, judged by Arrow.

    check  a condition, types    ->  nothing, if they go with it
    judge  a condition, columns  ->  of each row whether it is met; null is unknown

A comparison with null is unknown. NaN is equal to nothing, and neither smaller nor larger, as in
Python. Arithmetic is that of float64; a division by zero is null.
"""

import ast
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.conditions.expression import LISTS, name_of, negative, tree
from vqpipe.errors import ConfigError
from vqpipe.texts import is_text

Value = Any
"""An array or a scalar of Arrow's."""
Columns = Mapping[str, pa.Array]


def check(text: str, kinds: pa.Schema) -> None:
    """Checks that the types of columns go with a condition.

    Args:
        text: The condition.
        kinds: What it names.

    Raises:
        ConfigError: If they do not; says which.
    """
    judge(text, {each.name: pa.nulls(0, each.type) for each in kinds})


def judge(text: str, columns: Columns, option: str = "--where") -> pa.Array:
    """Returns of each row whether it meets a condition, null where that is unknown.

    Args:
        text: The condition.
        columns: What it names, as many values of each.
        option: What the operator calls it, for messages.

    Raises:
        ConfigError: If the types of columns do not go with it.
    """
    return _Judge(f"{option} {text}", columns).truth(tree(text))


@dataclass(frozen=True)
class _Judge:
    """What becomes of one condition."""

    text: str
    columns: Columns

    def truth(self, node: ast.expr) -> Value:
        """Returns what a node is that has to be true or false."""
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            return functools.reduce(join, map(self.truth, node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self.truth(node.operand))
        if isinstance(node, ast.Compare):
            pairs = zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False)
            return functools.reduce(pc.and_kleene, [self._compare(*each) for each in pairs])
        value = self._value(node)
        if not pa.types.is_boolean(value.type):
            self._refuse(f"{_described(node, value)}, where true or false is wanted")
        return value

    def _value(self, node: ast.expr) -> Value:
        """Returns what a node is."""
        named, number = name_of(node), negative(node)
        if named is not None:
            return self.columns[named[1]]
        if number is not None or isinstance(node, ast.Constant):
            return pa.scalar(node.value if isinstance(node, ast.Constant) else number)
        if isinstance(node, ast.BinOp):
            return _CALCULATE[type(node.op)](self._number(node.left), self._number(node.right))
        if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
            operand = self._number(node.operand)
            return pc.negate(operand) if isinstance(node.op, ast.USub) else operand
        return self.truth(node)

    def _number(self, node: ast.expr) -> Value:
        """Returns what a node is, as float64."""
        value = self._value(node)
        if not _is_number(value.type):
            self._refuse(f"{_described(node, value)}, where a number is wanted")
        return _as_float(value)

    def _compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Value:
        if isinstance(op, ast.Is | ast.IsNot):
            is_null = pc.is_null(self._value(left))
            return is_null if isinstance(op, ast.Is) else pc.invert(is_null)
        if isinstance(right, LISTS):
            equal = [self._compare(ast.Eq(), left, each) for each in right.elts]
            is_among = functools.reduce(pc.or_kleene, equal)
            return is_among if isinstance(op, ast.In) else pc.invert(is_among)
        one, other = self._value(left), self._value(right)
        pair = _alike(one, other)
        if pair is None or (pa.types.is_boolean(pair[0].type) and type(op) not in _OF_TRUTHS):
            self._refuse(
                f"{_described(left, one)}, and {_described(right, other)}; these are not compared "
                "so"
            )
        return _COMPARE[type(op)](*pair)

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"{self.text}: {why}")


def _described(node: ast.expr, value: Value) -> str:
    """Returns what a node is, for a person."""
    return f"{ast.unparse(node)} is {value.type}"


def _alike(one: Value, other: Value) -> tuple[Value, Value] | None:
    """Returns two values in one type that holds both; None if there is none for what they are."""
    kinds = one.type, other.type
    if all(map(_is_number, kinds)):
        return _alike_numbers(one, other)
    if all(map(is_text, kinds)):
        return one.cast(pa.large_string()), other.cast(pa.large_string())
    if is_text(kinds[0]) and pa.types.is_temporal(kinds[1]):
        pair = _alike(other, one)
        return pair and pair[::-1]
    if pa.types.is_temporal(kinds[0]) and isinstance(other, pa.StringScalar):
        moment = _moment(other, kinds[0])
        return None if moment is None else (one, moment)
    is_plain = pa.types.is_boolean(kinds[0]) or pa.types.is_temporal(kinds[0])
    return (one, other) if is_plain and kinds[0] == kinds[1] else None


def _moment(text: pa.StringScalar, kind: pa.DataType) -> Value | None:
    """Returns a date or a time that is written as ISO 8601 has it; None if it is not."""
    try:
        return text.cast(kind)
    except pa.ArrowException:
        return None


def _alike_numbers(one: Value, other: Value) -> tuple[Value, Value]:
    kinds = {one.type, other.type}
    if not all(map(pa.types.is_integer, kinds)):
        return _as_float(one), _as_float(other)
    if kinds == {pa.uint64()}:
        return one, other
    wide = pa.decimal128(20, 0) if pa.uint64() in kinds else pa.int64()
    return one.cast(wide), other.cast(wide)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _as_float(value: Value) -> Value:
    """Returns numbers as float64: decimals by their digits, of which Arrow misses the last bit."""
    exact = value.cast(pa.string()) if pa.types.is_decimal(value.type) else value
    return exact.cast(pa.float64(), safe=False)


def _divide(one: Value, other: Value) -> Value:
    nothing = pa.scalar(None, pa.float64())
    return pc.if_else(pc.equal(other, 0.0), nothing, pc.divide(one, other))


_CALCULATE: dict[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: _divide,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.GtE: pc.greater_equal,
    ast.Gt: pc.greater,
}
_OF_TRUTHS = (ast.Eq, ast.NotEq)
