"""Words that the glossary of docs/design.md has replaced do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = {
    r'(?i)picture(?!s")': "image",  # "pictures" is a key that older int8.json files have
    r"\bat_least_float\b": "to_fp32",
    r"\bRunningAverage\b": "ModelEma",
    r"\bPassingError|LastingError\b": "TransientError, PermanentError",
    r"(?m)^_?log = logging": "logger",
}


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_stay_away(word: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md")
        for match in re.finditer(word, path.read_text(encoding="utf-8"))
    }
    assert not found, f"use {RETIRED[word]}: {sorted(found)}"
