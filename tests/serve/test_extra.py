"""What the service imports is what the extra ``serve`` brings."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import maskline.serve

ROOM = Path(maskline.serve.__file__).parent
CLI = ROOM.parent / "cli" / "serving.py"


def required(extra: str) -> set[str]:
    """Names of the distributions that maskline needs with an extra."""
    lines = importlib.metadata.requires("maskline") or []
    wanted = [line for line in lines if "extra ==" not in line or f'extra == "{extra}"' in line.replace("'", '"')]
    return {re.split(r"[^\w-]", line)[0].lower() for line in wanted}


def imported(path: Path) -> set[str]:
    """Top-level modules, from anywhere in a file."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"maskline"}


def test_nothing_is_missing_from_the_extra() -> None:
    """B48: every library is declared; starlette is FastAPI's, yarl aiohttp's."""
    homes = importlib.metadata.packages_distributions()
    needed = {
        homes[name][0].lower().replace("_", "-") for path in [*ROOM.rglob("*.py"), CLI] for name in imported(path)
    }
    assert {"fastapi", "uvicorn", "aiohttp", "pydantic", "prometheus-client"} <= needed
    assert needed - {"starlette", "yarl", "pydantic-core"} <= required("serve")
