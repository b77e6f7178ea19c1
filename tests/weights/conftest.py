"""Fixtures of the tests of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.pdparams import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes) -> Path:
        path = tmp_path / "w.pdparams"
        path.write_bytes(data)
        return path

    return write
