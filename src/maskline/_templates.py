"""HTML pages: Jinja templates with common CSS, always autoescaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


def template(package: str, name: str, filters: Mapping[str, Callable[..., str]]) -> Template:
    """Load a template from a package's folder.

    Args:
        filters: in addition to ``number``, which groups digits. ``common_style`` is the CSS of all pages.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, **filters}
    environment.globals["common_style"] = Markup(files("maskline").joinpath("pages.css").read_text("utf-8"))
    return environment.from_string(files(package).joinpath(name).read_text("utf-8"))


def _number(value: Any) -> str:
    return f"{value:,}"
