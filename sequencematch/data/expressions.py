"""Arithmetic expressions that a model has written, worked out without running them."""

import ast
import operator
import re
from collections.abc import Iterable
from fractions import Fraction

# What is longer is none of ours, and could nest deeply.
_EXPRESSION = re.compile(r"[-+*/()0-9]{1,100}")
_SIGNS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def makes(text: str, numbers: Iterable[int], target: int) -> bool:
    """Whether a text of numbers, + - * / and parentheses makes a target of all numbers, each once.

    It is worked out in fractions. Any text is taken; what is no such expression, powers included, makes
    nothing.
    """
    if not _EXPRESSION.fullmatch(text):
        return False
    try:
        value, used = _work_out(ast.parse(text, mode="eval").body)  # reads it, and runs nothing
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return value == target and sorted(used) == sorted(numbers)


def _work_out(node: ast.expr) -> tuple[Fraction, list[int]]:
    """Returns the value of an expression, and the numbers in it."""
    match node:
        case ast.Constant(value=number):
            return Fraction(number), [number]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value, used = _work_out(operand)
            return -value, used
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
            (a, these), (b, those) = _work_out(left), _work_out(right)
            return _SIGNS[type(op)](a, b), these + those
    raise ValueError("a call, a power, or another sign")
