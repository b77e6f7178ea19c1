"""What the value of a key may be: checks that a module's configuration is made of.

A check gets a value that is not None, and its key for the message. It returns the value to use, or raises
ParameterError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from maskline import catalog
from maskline.errors import ParameterError, UnknownNameError

#: Truth values that the reference takes besides true and false: YAML 1.1's, and those of its ``-o``.
_SWITCHES = {"on": True, "yes": True, "t": True, "off": False, "no": False, "f": False}


def as_text(value: object, key: str) -> str:
    """Text, or a whole number taken as such: a folder may be called 2024."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise wrong(value, key, "a text (quotes make one of anything)")
    return value


def as_switch(value: object, key: str) -> bool:
    """True or false, in any of the reference's spellings."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    raise wrong(value, key, "true or false")


def as_natural(value: object, key: str) -> int:
    """A whole number from 0, below 2 to the 32nd (what seeds may be)."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32:
        return value
    raise wrong(value, key, f"a whole number from 0 to {(1 << 32) - 1}")


def as_rate(value: object, key: str) -> float:
    """A finite number above 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise wrong(value, key, "a number above 0")


def as_percent(value: object, key: str) -> float:
    """A number from 0 to 100."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100:
        return float(value)
    raise wrong(value, key, "a number from 0 to 100")


def as_model(value: object, key: str) -> str:
    """The name of a model of the catalog, in its own spelling."""
    return catalog.get(as_text(value, key)).name


def as_devices(value: object, key: str) -> str:
    """Devices, with any count of numbers each. Which kinds there are, the runtime and training know."""
    text = as_text(value, key).replace(" ", "").lower()
    if not re.fullmatch(r"[a-z_]+(:[0-9]+)?(,([0-9]+|[a-z_]+(:[0-9]+)?))*", text):
        raise wrong(value, key, "cpu, gpu, gpu:0, gpu:0,1 or the like")
    return text


def as_precision(value: object, key: str) -> str:
    """OFF, O1 or O2. Reads false as OFF, which is what YAML 1.1 makes of it."""
    return one_of(("OFF", "O1", "O2"), "OFF" if value is False else str(value).upper(), key)


def as_inputs(value: object, key: str) -> str | list[str]:
    """A path or address, or a list of them."""
    return [as_text(part, key) for part in value] if isinstance(value, list) else as_text(value, key)


def as_mapping(value: object, key: str) -> Mapping[Any, Any]:
    """Keys and values, whatever they are."""
    if not isinstance(value, Mapping):
        raise wrong(value, key, "keys and values, such as {key: value}")
    return value


def one_of(known: Sequence[str], value: object, key: str) -> str:
    """One of ``known``."""
    text = as_text(value, key)
    if text not in known:
        raise UnknownNameError.of(key, text, known)
    return text


def wrong(value: object, key: str, expected: str) -> ParameterError:
    """The error of a value that is not what its key expects."""
    return ParameterError(f"{key} is {value!r}: expected {expected}")
