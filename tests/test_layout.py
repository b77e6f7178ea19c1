"""Tests lie where the code lies: a module's are in the file of its name, or in files that begin with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src" / "maskline"
#: Folders of tests that go through many modules.
ACROSS = ("conformance", "e2e", "parity")
#: Files that do, or that test what is not a module: pages, documents, rules of the code base.
OTHERS = (
    "cli/test_cli.py",
    "models/test_every_model.py",
    "serve/test_endurance.py",
    "serve/test_extra.py",
    "serve/test_schema.py",
    "serve/test_serve_command.py",
    "test_before.py",
    "test_clients.py",
    "test_dependencies.py",
    "test_documents.py",
    "test_embedded.py",
    "test_extension_points.py",
    "test_layers.py",
    "test_layout.py",
    "test_listings.py",
    "test_public.py",
    "test_tables.py",
    "test_words.py",
)


def modules(folder: Path) -> Iterator[str]:
    """Names of modules, packages and pages without the mark of private ones."""
    yield from (path.stem.lstrip("_") for path in folder.glob("*.*"))
    yield from (path.name for path in folder.iterdir() if path.is_dir())


def test_every_file_of_tests_is_where_its_code_is() -> None:
    lost = []
    for path in TESTS.rglob("test_*.py"):
        name = path.relative_to(TESTS)
        if name.parts[0] in ACROSS or name.as_posix() in OTHERS:
            continue
        folder = SOURCES / name.parent
        about = path.stem.removeprefix("test_")
        names = modules(folder) if folder.is_dir() else ()
        if not any(about == one or about.startswith(f"{one}_") for one in names):
            lost.append(name.as_posix())
    assert sorted(lost) == []
    assert all((TESTS / name).is_file() for name in OTHERS)
