"""Validation of user-supplied values, with the same message wherever they come from."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from maskline.errors import ParameterError, UnknownNameError

MOST = 1 << 20  # of a count, unless its check says otherwise


def check_score(value: object, name: str = "threshold") -> float:
    """Return a number from 0 to 1, not a bool. Raises ParameterError with its name."""
    return check_number(value, name, least=0, most=1)


def check_threshold(value: object, name: str = "threshold") -> float | dict[int | str, float]:
    """Return a score (see `check_score`), or a mapping from class index or name to score. Raises ParameterError."""
    if not isinstance(value, Mapping):
        return check_score(value, name)
    for key in value:
        if isinstance(key, bool) or not isinstance(key, numbers.Integral | str):
            raise ParameterError(f"{name} has the class {reprlib.repr(key)}: expected indices or names of classes")
    return {key: check_score(score, f"{name} of {reprlib.repr(key)}") for key, score in value.items()}


def check_count(value: object, name: str, most: int = MOST, *, least: int = 1) -> int:
    """Return an integer from ``least`` to ``most``, not a bool. Raises ParameterError with its name."""
    if not isinstance(value, bool) and isinstance(value, numbers.Integral) and least <= int(value) <= most:
        return int(value)
    raise ParameterError(f"{name} is {value!r}: expected an integer from {least} to {most}")


def check_number(
    value: object, name: str, *, least: float | None = None, most: float | None = None, above: float | None = None
) -> float:
    """Return a finite number within limits, not a bool. Raises ParameterError with its name."""
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):  # of an integer with hundreds of digits
            number = float(value)
    low, high = (-math.inf if least is None else least), (math.inf if most is None else most)
    if math.isfinite(number) and low <= number <= high and (above is None or number > above):
        return number
    kind = "a finite number" if most is None else "a number"
    start = f" above {above:.15g}" if above is not None else f" from {least:.15g}" if least is not None else ""
    end = "" if most is None else f" and up to {most:.15g}" if least is None else f" to {most:.15g}"
    given = f"{value:.15g}" if isinstance(value, float) else reprlib.repr(value)  # 2, as typed, rather than 2.0
    raise ParameterError(f"{name} is {given}: expected {kind}{start}{end}")


def check_path(value: object, name: str) -> Path:
    """Return a path from one or its text. Raises ParameterError with its name."""
    if isinstance(value, str | os.PathLike):
        return Path(value)
    raise wrong(value, name, "a path")


def wrong(value: object, name: str, expected: str) -> ParameterError:
    """The error for a value that is not as expected."""
    return ParameterError(f"{name} is {reprlib.repr(value)}: expected {expected}")


def environment_switch(name: str) -> bool:
    """Whether an environment variable is true; unset or empty is false. Raises ParameterError with its name."""
    given = os.environ.get(name, "").strip().lower()
    if given in ("1", "true", "yes", "on"):
        return True
    if given in ("", "0", "false", "no", "off"):
        return False
    raise ParameterError(f"{name} is {given!r}: expected 1, true, yes, on or 0, false, no, off")


def refuse_unknown(given: Iterable[object], known: Iterable[str], where: str) -> None:
    """Raise UnknownNameError for the first unknown key."""
    names = list(known)
    for key in given:
        if key not in names:
            raise UnknownNameError.of("key", str(key), names, f"in {where}")
