"""The tables in the documents that come from the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fixtures import scripts

from maskline.data.faults import KINDS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "tables"


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("tables")


def put(root: Path, script: ModuleType, between: str) -> None:
    for file, name, _ in script.TABLES:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        with (root / file).open("a", encoding="utf-8") as opened:
            opened.write(f"before\n<!-- {name}:begin -->\n{between}<!-- {name}:end -->\nafter\n")


def test_the_documents_hold_the_tables() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and os.access(SCRIPT, os.X_OK)


def test_writes_between_the_markers_only(script: ModuleType, tmp_path: Path) -> None:
    put(tmp_path, script, "old\n")
    assert script.main(["--check"], tmp_path) == 1
    assert "old" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert script.main([], tmp_path) == 0
    for file, name, table in script.TABLES:
        expected = f"before\n<!-- {name}:begin -->\n{table().rstrip()}\n<!-- {name}:end -->\nafter\n"
        assert expected in (tmp_path / file).read_text(encoding="utf-8")
    assert script.main(["--check"], tmp_path) == script.main([], tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "docs"]


@pytest.mark.parametrize("text", ["nothing", "<!-- models:begin -->", "<!-- models:end --><!-- models:begin -->"])
def test_wants_its_markers(script: ModuleType, tmp_path: Path, text: str) -> None:
    put(tmp_path, script, "")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert script.main([], tmp_path) == 1
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text


PAGE = """| x | `leak` | 泄漏 | 删除 |
<!-- faults:begin -->
| 错误 | `gone` | 没有了 |  |
| 警告 | `leak` | 同一张图片 |  |
<!-- faults:end -->
"""


def test_translations_stay_where_the_code_changes(script: ModuleType, tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    rows = [("警告 | `new`", "a new kind | left out"), ("错误 | `leak`", "one image in two splits | ")]
    table = script.translated("faults", "head\n", rows, page)
    assert table == "head\n| 警告 | `new` | a new kind | left out |\n| 错误 | `leak` | 同一张图片 |  |\n"


def test_every_fault_and_format_is_translated(script: ModuleType) -> None:
    rows = [line.split(" | ") for line in script.faults_in_chinese().splitlines()[2:]]
    assert [row[1] for row in rows] == [f"`{code}`" for code in KINDS]
    for row, kind in zip(rows, KINDS.values(), strict=True):
        fix = row[3].removesuffix("|").strip()
        assert re.search("[一-鿿]", row[2]) and bool(fix) == bool(kind.fix), row
    assert all(re.search("[一-鿿]", line) for line in script.foreign_in_chinese().splitlines()[2:])


def test_every_option_is_translated(script: ModuleType) -> None:
    tables = [(name, table()) for file, name, table in script.TABLES if "zh" in file and name.startswith("options")]
    assert len(tables) == 6
    for name, table in tables:
        for row in table.splitlines()[2:]:
            assert re.search("[一-鿿]", row.split(" | ")[-1]), f"{name}: {row}"
            assert not re.search("(?i)[a-z]{3,} [a-z]{3,} [a-z]{3,}", row.split(" | ")[1]), f"{name}: {row}"


def test_options_without_a_command_are_those_of_no_command(script: ModuleType) -> None:
    flags = [row.flags for row in script.option_rows(script.cli)]
    assert "`--pipeline NAME\\|YAML`" in flags and "`--serve`" in flags
    assert not any("--device" in flag or "--port" in flag for flag in flags)


@pytest.mark.parametrize(
    ("command", "model", "batch"),
    [
        ("predict", "the embedded model", "1"),
        ("evaluate", "the embedded model", "1"),
        ("serve", "the pipeline's, or the embedded model", "the pipeline's, or 1 on the CPU, else 8"),
    ],
)
def test_defaults_are_those_of_the_command(script: ModuleType, command: str, model: str, batch: str) -> None:
    rows = {row.flags: row.default for row in script.options.rows(getattr(script, command))}
    assert rows["`--model NAME`"] == model and rows["`--batch-size N`"] == batch
