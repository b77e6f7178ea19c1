"""Settings that describe themselves: help, range and unit are said once, at the field that has type and default.

    epochs: Annotated[int, Option("Passes over the training images.", least=1)] = 40

Command line, configuration files and tables of options are made from these descriptions, and the base class `Checked`
refuses the same values with the same message wherever they come from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from inspect import get_annotations
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from maskline._checks import check_count, check_number, check_path, wrong
from maskline.errors import UnknownNameError

MAX_INTEGER = (1 << 32) - 1

#: Types of fields without a check of their own, in words.
_EXPECTED: Mapping[Any, str] = {
    bool: "True or False",
    str: "a string",
    Mapping: "a mapping, such as {key: value}",
}


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """Description of a field: ``Annotated[TYPE, Option(...)]``.

    Attributes:
        help: one sentence or two, with the unit; without default and range, which are added.
        unset: what None stands for, such as "the model's".
        least, most: range of a number, both included. Integers are from 1 to `MAX_INTEGER` unless these say otherwise.
            With a ``unit``, ``most`` is in that.
        above: lower bound of a number, excluded.
        listed: names to list in the help, from the table that has them; the user of the value checks it. (The values of
            a Literal are checked here.)
        flag: name on the command line; None: the field's; empty: not on the command line.
        metavar: placeholder of the value in the help.
        unit: on the command line, one is this many of the field's units.
        parse: makes the value from the text on the command line, and the flag for its errors.
        check: what is valid beyond type and range: from a value, and its name for errors, to the value of the field.
    """

    help: str
    unset: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    listed: Callable[[], Iterable[str]] | None = None
    flag: str | None = None
    metavar: str = ""
    unit: int = 1
    parse: Callable[[Any, str], Any] | None = None
    check: Callable[[Any, str], Any] | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """A described field of a dataclass.

    Attributes:
        kind: its type without None, or that of its elements if it ``repeats``.
        optional: whether it may be None.
    """

    name: str
    option: Option
    kind: Any
    choices: tuple[str, ...]
    repeats: bool
    optional: bool
    default: Any  # MISSING if the field has none

    def check(self, value: Any, name: str | None = None) -> Any:
        """Return a value for this field, a path instead of a text. Raises ParameterError, which calls it ``name``."""
        name = name or self.name
        if value is None and self.optional:
            return None
        if not self.repeats:
            return self._checked(value, name)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise wrong(value, name, "a list or tuple")
        return tuple(self._checked(element, name) for element in value)

    def _checked(self, value: Any, name: str) -> Any:
        option = self.option
        if self.choices:
            if str(value) not in self.choices:
                raise UnknownNameError.of(name, str(value), self.choices)
            value = str(value)
        elif self.kind is int:
            most = int((MAX_INTEGER if option.most is None else option.most) * option.unit)
            value = check_count(value, name, most, least=1 if option.least is None else int(option.least))
        elif self.kind is float:
            value = check_number(value, name, least=option.least, most=option.most, above=option.above)
        elif self.kind is Path:
            value = check_path(value, name)
        elif self.kind is str and isinstance(value, os.PathLike):  # where a name or a file is expected
            value = os.fspath(value)
        elif self.kind in _EXPECTED and not isinstance(value, self.kind):
            raise wrong(value, name, _EXPECTED[self.kind])
        return value if option.check is None else option.check(value, name)

    @property
    def default_text(self) -> str:
        """The default as written on the command line; in words if it is None; empty for an unset flag or list."""
        if self.default is None:
            return self.option.unset
        if self.default is MISSING or self.default is False or self.default == ():
            return ""
        if self.default is True:
            return "on"
        return f"{self.default / self.option.unit:g}" if isinstance(self.default, int | float) else f"{self.default}"

    @property
    def text(self) -> str:
        """Help with the names to choose from and the range, but without the default."""
        low = self.option.least if self.option.above is None else f"above {self.option.above:g}, up"
        listed = f"One of {', '.join(self.option.listed())}." if self.option.listed else ""
        limits = "" if low is None or self.option.most is None else f"Range: {low} to {self.option.most:.15g}."
        return " ".join(filter(None, (self.option.help, listed, limits)))


def settings_of(kind: Any) -> Mapping[str, Setting]:
    """The described fields of a dataclass, by name, in the order of `names_of`."""
    return _settings_of(kind)


@cache
def _settings_of(kind: Any) -> Mapping[str, Setting]:
    defaults = {field.name: field.default for field in fields(kind)}
    found = {}
    for name in names_of(kind):
        hint = hints_of(kind)[name]
        if get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], Option):
            found[name] = _setting(name, hint.__origin__, hint.__metadata__[0], defaults[name])
    return found


@cache
def hints_of(kind: Any) -> Mapping[str, Any]:
    """The annotations of a dataclass, evaluated."""
    return get_type_hints(kind, include_extras=True)


def names_of(kind: Any) -> list[str]:
    """Names of the fields of a dataclass: its own, then those that it inherits."""
    return list(dict.fromkeys(name for base in kind.__mro__ for name in get_annotations(base)))


def like(kind: type, name: str) -> Option:
    """The description of a field of another dataclass, for a field that means the same."""
    return settings_of(kind)[name].option


class Checked:
    """Base of dataclasses with described fields, which checks them. A subclass with more to check calls this first."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Raise ParameterError for the first value that is of the wrong type or out of range."""
        for name, setting in settings_of(type(self)).items():
            object.__setattr__(self, name, setting.check(getattr(self, name)))


def _setting(name: str, hint: Any, option: Option, default: Any) -> Setting:
    optional = get_origin(hint) in (Union, UnionType)
    if optional:
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    repeats = get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis
    if repeats:
        hint = get_args(hint)[0]
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return Setting(name, option, str if choices else get_origin(hint) or hint, choices, repeats, optional, default)
