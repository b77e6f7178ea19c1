"""The public names: what ``__all__`` lists, what loads on first use and what type checkers see are the same."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import maskline

ROOT = Path(maskline.__file__).parent
HOMES = {name: f"maskline.{home}" for name, home in maskline._HOMES.items()}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def exports_of(path: Path) -> bool:
    """Whether a module has ``__all__``."""
    return any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree(path).body)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = [dotted(path) for path in sorted(ROOT.rglob("*.py")) if exports_of(path)]


def documented(name: str, value: object) -> bool:
    """Values need no docstring of their own; the one that a dataclass writes itself is none."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return True
    text = inspect.getdoc(value)
    return bool(text) and not str(text).startswith(f"{name}(")


def test_type_checkers_see_what_loads_on_first_use() -> None:
    (checked,) = (n for n in tree(ROOT / "__init__.py").body if isinstance(n, ast.If))
    assert ast.unparse(checked.test) == "TYPE_CHECKING"
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(checked.body)
    assert {alias.name: node.module for node in imports for alias in node.names} == HOMES
    assert {"__version__", *HOMES} == set(maskline.__all__)


def test_dir_lists_what_is_public() -> None:
    """Loaded or not."""
    assert dir(maskline) == sorted(maskline.__all__)
    assert maskline.Instances is maskline.instances.Instances
    assert dir(maskline) == sorted(maskline.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'maskline' has no attribute 'Mask'"):
        maskline.Mask  # noqa: B018


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_public_name_is_what_its_home_has(name: str) -> None:
    value = getattr(maskline, name)
    assert value is getattr(import_module(HOMES[name]), name)
    assert value.__module__.startswith("maskline.") and documented(name, value)


@pytest.mark.parametrize("name", MODULES)
def test_names_of_all_exist_once_and_are_documented(name: str) -> None:
    module = import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert not public.startswith("_") or public == "__version__"
        assert documented(public, getattr(module, public)), f"{name}.{public} has no docstring"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "maskline"])
def test_what_a_package_imports_only_to_hand_on_is_in_its_all(name: str) -> None:
    module = import_module(name)
    assert module.__file__ is not None
    body = tree(Path(module.__file__)).body
    imported = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("maskline")
        for alias in node.names
    }
    used = {node.id for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Name)}
    assert imported - used - set(module.__all__) == set()
