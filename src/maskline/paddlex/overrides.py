"""``-o Section.key=value``, and values in YAML 1.2, where everything that looks like a number is one.

PyYAML reads YAML 1.1, where ``1e-3`` is a string, ``on`` and ``yes`` are booleans, ``010`` is eight and ``2024-01-01``
is a date. In overrides and module files:

====================================== ========================================
written                                read as
====================================== ========================================
``None none NULL Null null ~``, nothing None
``true True TRUE false False FALSE``   a boolean
``5  -1  1e-3  .5  2.``                a number; with a leading zero, a string
``"5"``, ``'None'``                    a string: quotes keep anything as it is
``[1, a]``, ``{a: 1}``                 a list, a mapping of these
anything else                          a string
====================================== ========================================
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from maskline.errors import ParameterError

_NONE = frozenset(("", "~", "None", "none", "null", "Null", "NULL"))
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")  # longer ones are identifiers
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]{0,30})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")


def parse(text: str) -> tuple[tuple[str, ...], Any]:
    """``"Train.epochs_iters=10"`` as ``(("Train", "epochs_iters"), 10)``, split at the first ``=``.

    Raises:
        ParameterError: there is no ``=``, or a part of the key is empty.
    """
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise ParameterError(f"override {text!r}: expected Section.key=value, such as Global.mode=train")
    return parts, parse_value(value)


def parse_value(text: str) -> Any:
    """Parse a value, see the module's docstring. Nothing is evaluated, and nothing is an error.

    Unlike in a file, anything but a complete collection or quoted string is kept as it is: ``a #1.jpg``,
    ``[draft] a.jpg`` and ``*.jpg`` are strings. Empty quotes are None.
    """
    text = text.strip()
    if text[:1] not in ("[", "{", '"', "'"):
        return parse_scalar(text)
    try:
        value = read_yaml(text)
    except ParameterError:
        return text
    return None if value == "" else value


def parse_scalar(text: str) -> bool | int | float | str | None:
    """Parse a scalar without quotes."""
    if text in _NONE:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def read_yaml(text: str) -> Any:
    """Read a YAML document of None, booleans, numbers, strings, lists and dicts. Tags have no effect.

    Raises:
        ParameterError: it is not YAML, is nested too deeply, or has aliases (a kilobyte of them can stand for a
            billion values).
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # chr() of an escape; depth
        raise ParameterError(f"not readable YAML ({' '.join(str(error).split())})") from None


class _Loader(yaml.BaseLoader):
    """PyYAML's loader without types, with ours."""

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        return parse_scalar(text) if node.style is None else text

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [self.construct_object(key) for key, _ in node.value]
        twice = [str(name) for place, name in enumerate(names) if name in names[:place]]
        if twice:
            raise yaml.YAMLError(f"{twice[0]} is set twice: leave one out")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported: write the values out")
        return super().compose_node(parent, index)
