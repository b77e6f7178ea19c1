"""Checks of the values in a module's configuration.

A check takes a value other than None, and its key for the message. It returns the value to use, or raises
ParameterError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from maskline import catalog
from maskline._checks import wrong
from maskline._options import Setting
from maskline.errors import UnknownNameError

#: Booleans that PaddleX accepts besides true and false: YAML 1.1's, and those of its ``-o``.
_SWITCHES = {"on": True, "yes": True, "t": True, "off": False, "no": False, "f": False}


def as_text(value: object, key: str) -> str:
    """A string; an integer is read as one, because a folder may be called 2024."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise wrong(value, key, "a string (anything in quotes is one)")
    return value


def as_switch(value: object, key: str) -> bool:
    """A boolean, in any spelling that PaddleX accepts."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    raise wrong(value, key, "true or false")


def as_setting(setting: Setting, value: object, key: str) -> Any:
    """A value of a described field, with its type and range."""
    if setting.kind is bool:
        return as_switch(value, key)
    return setting.check(as_text(value, key) if setting.kind is str else value, key)


def as_model(value: object, key: str) -> str:
    """The name of a model, in the spelling of the catalog."""
    return catalog.get(as_text(value, key)).name


def as_devices(value: object, key: str) -> str:
    """A list of devices; the runtime and training check which kinds exist."""
    text = as_text(value, key).replace(" ", "").lower()
    if not re.fullmatch(r"[a-z_]+(:[0-9]+)?(,([0-9]+|[a-z_]+(:[0-9]+)?))*", text):
        raise wrong(value, key, "a device such as cpu, gpu, gpu:0 or gpu:0,1")
    return text


def as_precision(value: object, key: str) -> str:
    """OFF, O1 or O2. False is OFF, as YAML 1.1 reads it."""
    return one_of(("OFF", "O1", "O2"), "OFF" if value is False else str(value).upper(), key)


def as_inputs(value: object, key: str) -> str | list[str]:
    """A path or URL, or a list of them."""
    return [as_text(part, key) for part in value] if isinstance(value, list) else as_text(value, key)


def as_mapping(value: object, key: str) -> Mapping[Any, Any]:
    """Any mapping."""
    if not isinstance(value, Mapping):
        raise wrong(value, key, "a mapping, such as {key: value}")
    return value


def one_of(known: Sequence[str], value: object, key: str) -> str:
    """One of ``known``."""
    text = as_text(value, key)
    if text not in known:
        raise UnknownNameError.of(key, text, known)
    return text
