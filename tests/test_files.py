"""Files that are there whole or not at all, and text in the encodings in use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fixtures.closed import close
from hypothesis import given
from hypothesis import strategies as st

from maskline._files import decode_text, read_json, replace_files, visible_files
from maskline.errors import OutputError

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "gb18030"]


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


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["names: [裂纹, café]\n", "a", "", '{"裂": "\\ud800"}'])
def test_text_is_read_in_each_encoding(encoding: str, text: str) -> None:
    assert decode_text(text.encode(encoding)) == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_utf_8_is_never_taken_for_something_else(text: str) -> None:
    assert decode_text(text.encode()) == text
    assert decode_text(text.encode("utf-8-sig")) == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_read_in_each_encoding(tmp_path: Path, encoding: str) -> None:
    content = {"shapes": [{"label": "裂纹"}], "imagePath": "图 1.jpg"}
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert read_json(path) == content
    assert read_json(path, object_hook=lambda found: found.get("label", found)) == content | {"shapes": ["裂纹"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": "\xff\xff"}', "neither UTF-8, UTF-16 nor GB 18030"),
        (b"\xff\xfe{", "neither UTF-8, UTF-16 nor GB 18030"),
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"[" * 10**6, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_reported_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_can_t_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.txt").touch()
    close(monkeypatch, "locked")
    assert list(visible_files(tmp_path)) == ["a.txt"]
    folder = str(tmp_path / "locked")
    assert caplog.messages == [f"folder {folder!r} can't be listed (Permission denied): its files are skipped"]
