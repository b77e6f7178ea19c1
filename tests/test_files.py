"""Files that are there whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maskline.errors import OutputError
from maskline.files import replace_files


def test_all_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the second file leaves what was there before, and nothing else."""
    sources = [tmp_path / "made" / name for name in ("inference.yml", "inference.onnx")]
    sources[0].parent.mkdir()
    for source in sources:
        source.write_text("new")
    output = tmp_path / "output"
    replace_files(output, sources)
    assert sorted(path.name for path in output.iterdir()) == ["inference.onnx", "inference.yml"]

    for source in sources:
        source.write_text("newer")
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if source.suffix == ".onnx":
            target.write_text("ne")
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="can't be written to: No space left on device"):
        replace_files(output, sources)
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        "inference.onnx": "new",
        "inference.yml": "new",
    }
