"""Checks of values that come from outside, each with one message wherever the value is from."""

from __future__ import annotations

import numbers

from maskline.errors import ParameterError


def check_score(value: object, name: str = "threshold") -> float:
    """A number from 0 to 1, not a bool. Raises ParameterError naming it."""
    if not isinstance(value, bool) and isinstance(value, numbers.Real) and 0 <= float(value) <= 1:
        return float(value)
    raise ParameterError(f"{name} is {value!r}: expected a number from 0 to 1")


def check_count(value: object, name: str, most: int = 1 << 20) -> int:
    """A whole number from 1 to ``most``, not a bool. Raises ParameterError naming it."""
    if not isinstance(value, bool) and isinstance(value, numbers.Integral) and 1 <= int(value) <= most:
        return int(value)
    raise ParameterError(f"{name} is {value!r}: expected a whole number from 1 to {most}")
