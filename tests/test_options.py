"""Every field with a description is checked, wherever its value comes from, and under the name that the user knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from maskline import cli
from maskline._options import Checked, Setting, settings_of
from maskline.cli.options import SettingOption
from maskline.errors import MasklineError, ParameterError
from maskline.exporting.options import ExportOptions
from maskline.serve.settings import ServiceSettings
from maskline.training.settings import TrainSettings

#: Fields without a default.
NEEDED: Mapping[str, Any] = {"model": "SOLOv2", "data": Path("data"), "to": "coco", "output": Path("output")}


def kinds(base: type[Checked] = Checked) -> Iterator[type[Checked]]:
    """All dataclasses of options; dataclasses with slots leave a shadow of the same name behind."""
    for kind in base.__subclasses__():
        yield from kinds(kind)
        if kind.__module__.startswith("maskline.") and "paddlex" not in kind.__module__:
            yield kind


KINDS = sorted({f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds()}.items())
FIELDS = [(kind, setting) for _, kind in KINDS for setting in settings_of(kind).values()]


def wrong_text(setting: Setting) -> str | None:
    """A text that no option of this type takes; None where any text is one."""
    by_kind: Mapping[Any, str] = {int: "99999999999999999999", float: "nan", Mapping: "5", tuple: "5"}
    return by_kind.get(setting.kind, "n o" if setting.choices else None)


def options() -> Iterator[tuple[str, SettingOption]]:
    """The options made from a field that refuse some text, with the command that has them."""
    for name, command in cli.cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, SettingOption) and wrong_text(parameter.setting) is not None:
                yield name, parameter


def name_of(value: Any) -> str:
    return str(getattr(value, "__name__", None) or getattr(value, "name", value))


def made(kind: type[Checked], **given: Any) -> Checked:
    return kind(**{name: value for name, value in NEEDED.items() if name in settings_of(kind)} | given)


def test_the_dataclasses_of_all_commands_are_found() -> None:
    """By what does not depend on the command."""
    found = {(setting.name, setting.option.help) for _, setting in FIELDS}
    assert all((option.setting.name, option.setting.option.help) in found for _, option in options())


@pytest.mark.parametrize(("kind", "setting"), FIELDS, ids=name_of)
def test_a_value_of_another_type_is_refused_at_once(kind: type[Checked], setting: Setting) -> None:
    for wrong in (object(), *(() if setting.optional else (None,))):
        with pytest.raises(ParameterError, match=f"^(unknown )?{setting.name} (is )?.*: (expected|known)") as caught:
            made(kind, **{setting.name: wrong})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"epochs": None}, "epochs is None: expected an integer from 1"),
        ({"workers": None}, "workers is None: expected an integer from 0 to 256"),
        ({"augment": 5}, "augment is 5: expected a mapping"),
        ({"export": "no"}, "export is 'no': expected True or False"),
        ({"precision": None}, "unknown precision 'None'"),
        ({"weights": None}, "weights is None: expected a string"),
        ({"data": None}, "data is None: expected a path"),
        ({"learning_rate": 1e300}, r"learning_rate is 1e\+300: expected a number above 0 and up to 1000"),
        ({"threads": 100_000}, "threads is 100000: expected an integer from 1 to 1024"),
        ({"processes": 4096}, "processes is 4096: expected an integer from 1 to 256"),
        ({"keep": 1 << 31}, "keep is .*: expected an integer from 1 to 100000"),
    ],
)
def test_what_training_can_t_use(given: dict[str, Any], reported: str) -> None:
    with pytest.raises(ParameterError, match=reported):
        made(TrainSettings, **given)


def test_texts_are_taken_where_the_field_has_another_type() -> None:
    settings = TrainSettings(model="SOLOv2", data="d", output="s9", resume="x", images="x", weights=Path("w"))  # type: ignore[arg-type]
    assert (settings.data, settings.output, settings.resume) == (Path("d"), Path("s9"), Path("x"))
    assert (settings.images, settings.weights) == (Path("x"), "w")
    target = ExportOptions("ORT", batch=1, size="640X480", int8="photos")  # type: ignore[arg-type]
    assert (target.format, target.batch, target.size, target.int8) == ("ort", "1", (640, 480), Path("photos"))


def test_a_text_is_refused_for_a_list() -> None:
    with pytest.raises(ParameterError, match="cors is 'https://a.org': expected a list or tuple"):
        ServiceSettings(cors="https://a.org")  # type: ignore[arg-type]
    assert ServiceSettings(cors=["https://a.org"]).cors == ("https://a.org",)  # type: ignore[arg-type]


@pytest.mark.parametrize(("command", "option"), list(options()), ids=name_of)
def test_the_command_line_names_the_option(command: str, option: SettingOption) -> None:
    wrong = str(wrong_text(option.setting))
    found = cli.cli.commands[command]
    needed = ["x" for parameter in found.params if isinstance(parameter, click.Argument)]
    required = [
        text for p in found.params if isinstance(p, click.Option) and p.required for text in (p.opts[0], "coco")
    ]
    error = CliRunner().invoke(found, [*needed, *required, option.opts[0], wrong]).exception
    assert isinstance(error, MasklineError) and error.exit_code == 2
    assert str(error).startswith((f"{option.opts[0]} is ", f"unknown {option.opts[0]} '")), error
