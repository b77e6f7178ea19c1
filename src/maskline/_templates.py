"""Pages to look at: Jinja templates with one style and one rule, that whatever is put into them is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


def template(package: str, name: str, filters: Mapping[str, Callable[..., str]]) -> Template:
    """A template that lies beside the modules of a package.

    Args:
        filters: beside ``number``, which groups digits. ``common_style`` is the CSS of all pages.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, **filters}
    environment.globals["common_style"] = Markup(files("maskline").joinpath("pages.css").read_text("utf-8"))
    return environment.from_string(files(package).joinpath(name).read_text("utf-8"))


def _number(value: Any) -> str:
    return f"{value:,}"
