"""Command-line options from the fields of dataclasses that `maskline._options` describes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, replace
from functools import partial, wraps
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import click

from maskline._checks import check_number
from maskline._options import Checked, Setting, settings_of
from maskline.errors import ParameterError

Function = Callable[..., Any]

_METAVARS = {int: "N", float: "X", Path: "PATH"}


class SettingOption(click.Option):
    """The option of one field. Its value is None unless it is given, so that only the dataclass has a default."""

    def __init__(self, param_decls: Sequence[str], setting: Setting, **attributes: Any) -> None:
        self.setting = setting
        super().__init__(param_decls, **attributes)


def option(kind: type[Checked], name: str, *, unset: str | None = None) -> Callable[[Function], Function]:
    """Add the option of one field to a command, which gets its value under the field's name.

    ``unset`` says what no value stands for in this command, if the field's own description does not.
    """
    setting = settings_of(kind)[name]
    if unset is not None:
        setting = replace(setting, option=replace(setting.option, unset=unset))
    described, default = setting.option, setting.default_text
    flag = described.flag or f"--{name.replace('_', '-')}"
    attributes: dict[str, Any] = {"help": f"{setting.text} Default: {default}." if default else setting.text}
    if setting.kind is bool:
        flag = f"{flag}/--no-{flag[2:]}" if setting.default is True else flag
        attributes |= {"is_flag": True}
    else:
        attributes |= {
            "type": _type(setting),
            "metavar": described.metavar or "|".join(setting.choices) or _METAVARS.get(setting.kind, name.upper()),
            "multiple": setting.repeats or setting.kind is Mapping,
            "callback": partial(_value, setting),
        }
    attributes |= {"required": True} if setting.default is MISSING else {"default": None}
    return click.option(flag, name, cls=SettingOption, setting=setting, **attributes)


def options(
    kind: type[Checked], parameter: str, make: Function | None = None, *, unset: Mapping[str, str] | None = None
) -> Callable[[Function], Function]:
    """Add the options of all described fields to a command, which gets them as one argument.

    Args:
        parameter: name of that argument.
        make: called with the values of the options that are given; None: ``kind``, the dataclass itself.
        unset: by field, what no value stands for in this command.
    """
    names = [name for name, setting in settings_of(kind).items() if setting.option.flag != ""]

    def decorate(function: Function) -> Function:
        def command(**values: Any) -> Any:
            given = {name: value for name in names if (value := values.pop(name)) is not None and value != ()}
            return function(**{parameter: (make or kind)(**given)}, **values)

        decorated: Function = wraps(function)(command)
        for name in reversed(names):
            decorated = option(kind, name, unset=(unset or {}).get(name))(decorated)
        return decorated

    return decorate


def _type(setting: Setting) -> Any:
    if setting.option.parse is not None or setting.kind in (Mapping, tuple):
        return str
    if setting.kind is Path:
        return click.Path(path_type=Path)
    return float if setting.option.unit != 1 else setting.kind


def _value(setting: Setting, context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """The value of the field from what click has read, checked as what the user has typed."""
    if value is None or value == ():
        return None
    flag, described = parameter.opts[0], setting.option
    if described.unit != 1:
        return ceil(check_number(value, flag, above=0, most=described.most) * described.unit)
    if setting.kind is Mapping:
        value = _mapping(value, flag)
    elif described.parse is not None:
        value = described.parse(value, flag)
    return setting.check(value, flag)


def _mapping(texts: Sequence[str], flag: str) -> Mapping[str, Any]:
    """A mapping written as ``NAME=VALUE`` or ``{NAME: VALUE}``, in parts."""
    from maskline.paddlex.overrides import parse_value

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        part = {name.strip(): parse_value(value)} if equals and text.lstrip()[:1] != "{" else parse_value(text)
        if not isinstance(part, Mapping):
            raise ParameterError(f'{flag} is {text}: expected a mapping such as {{"name": value}}, or name=value')
        found |= part
    return found


class Row(NamedTuple):
    """An option of a command in a table of the documents."""

    flags: str  # as code in Markdown, with the placeholder of the value
    default: str
    meaning: str


def rows(command: click.Command) -> Iterator[Row]:
    """The visible options of a command, in the order of its help."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            flags = "`, `".join((*parameter.opts, *parameter.secondary_opts))
            metavar = "" if parameter.is_flag else f" {parameter.metavar}".replace("|", "\\|")
            setting = parameter.setting if isinstance(parameter, SettingOption) else None
            default, meaning = ("", parameter.help or "") if setting is None else (setting.default_text, setting.text)
            yield Row(f"`{flags}{metavar}`", "required" if parameter.required else default, meaning)


def table(rows: Iterable[Row]) -> str:
    """A table of options in Markdown."""
    lines = [f"| {row.flags} | {row.default} | {row.meaning} |" for row in rows]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *lines])
