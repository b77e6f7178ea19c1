"""A machine on which the official default model has been fetched: a tiny network in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import maskline

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"


@pytest.fixture
def place(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with photo.jpg in it."""
    shutil.copytree(tiny_model_dir, tmp_path / "home" / "models" / "Mask-RT-DETR-S")
    shutil.copy(PHOTO, tmp_path / "photo.jpg")
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
