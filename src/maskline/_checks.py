"""Checks of values that come from outside, each with one message wherever the value is from."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping

from maskline.errors import ParameterError, UnknownNameError


def check_score(value: object, name: str = "threshold") -> float:
    """A number from 0 to 1, not a bool. Raises ParameterError naming it."""
    return check_number(value, name, least=0, most=1)


def check_threshold(value: object, name: str = "threshold") -> float | dict[int | str, float]:
    """A score (see `check_score`), or a mapping from class index or name to one. Raises ParameterError naming it."""
    if not isinstance(value, Mapping):
        return check_score(value, name)
    for key in value:
        if isinstance(key, bool) or not isinstance(key, numbers.Integral | str):
            raise ParameterError(f"{name} has the class {reprlib.repr(key)}: expected indices or names of classes")
    return {key: check_score(score, f"{name} of {reprlib.repr(key)}") for key, score in value.items()}


def check_count(value: object, name: str, most: int = 1 << 20, *, least: int = 1) -> int:
    """An integer from ``least`` to ``most``, not a bool. Raises ParameterError naming it."""
    if not isinstance(value, bool) and isinstance(value, numbers.Integral) and least <= int(value) <= most:
        return int(value)
    raise ParameterError(f"{name} is {value!r}: expected an integer from {least} to {most}")


def check_number(
    value: object, name: str, *, least: float | None = None, most: float | None = None, above: float | None = None
) -> float:
    """A finite number, not a bool, within the limits given. Raises ParameterError naming it."""
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):  # of an integer with hundreds of digits
            number = float(value)
    low, high = (-math.inf if least is None else least), (math.inf if most is None else most)
    if math.isfinite(number) and low <= number <= high and (above is None or number > above):
        return number
    start = f" above {above:g}" if above is not None else f" from {least:g}" if least is not None else ""
    end = "" if most is None else f" and up to {most:g}" if least is None else f" to {most:g}"
    raise ParameterError(f"{name} is {reprlib.repr(value)}: expected a number{start}{end}")


def environment_switch(name: str) -> bool:
    """Whether a variable of the environment says yes; not set, or empty, is no. Raises ParameterError naming it."""
    given = os.environ.get(name, "").strip().lower()
    if given in ("1", "true", "yes", "on"):
        return True
    if given in ("", "0", "false", "no", "off"):
        return False
    raise ParameterError(f"{name} is {given!r}: expected 1, true, yes, on or 0, false, no, off")


def refuse_unknown(given: Iterable[object], known: Iterable[str], where: str) -> None:
    """Raise UnknownNameError for the first key that is not known."""
    names = list(known)
    for key in given:
        if key not in names:
            raise UnknownNameError.of(f"key in {where}", str(key), names)
