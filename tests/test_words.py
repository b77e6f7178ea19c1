"""Retired words do not come back: names that the glossary of docs/design.md replaces, and phrases to avoid in prose."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".md", ".py", ".html", ".js", ".mjs", ".css", ".cpp", ".cs", ".go", ".java", ".php"}

#: Anywhere in a file, with what to use instead.
NAMES = {
    r'(?i)picture(?!s")': "image",  # "pictures" is a key that older int8.json files have
    r"\bat_least_float\b": "to_fp32",
    r"\bRunningAverage\b": "ModelEma",
    r"\bPassingError|LastingError\b": "TransientError, PermanentError",
    r"(?m)^_?log = logging": "logger",
}
NAME_ROOTS = ("README.md", "CHANGELOG.md", "benchmarks", "docs", "examples", "src")

#: In prose: Markdown without code, strings, comments and names of tests of Python, and whole files of other kinds.
PHRASES = {
    r"(?i)(?<!\.)\b(told|tells?|telling)\b": "say, show, report, log",
    r"(?<!here )\b(is|are|was|were) no (?!longer\b)": "is not a",
    r"(?i)\banew\b": "again",
    r"(?i)\bbeside\b": "next to, besides",
    r"(?i)\b(nobody|whoever)\b": "no one, anyone who, or the thing itself as the subject",
    r"(?i)\bso many\b": "the number, at most this many",
    r"(?m)(?:^\W*|[.:|] )Of\b": "another beginning of the sentence",
    r"(?i)\bthe reference\b(?! (to|for|count))|\breference(?:'s| s)\b": "PaddleX, PaddleDetection",
    r"(?i)\bmakes? no sense\b|\bcan't be had\b": "is invalid, is unavailable",
    "原系统": "PaddleX",
    "游程": "RLE",
    "图像(?!数据|描述)": "图片",
}
PROSE_ROOTS = (
    "README.md",
    "README.zh-CN.md",
    "CHANGELOG.md",
    "benchmarks",
    "docs",
    "examples",
    "src",
    "tests",
)


def files(*roots: str) -> Iterator[Path]:
    for root in roots:
        path = ROOT / root
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in found if p.suffix in SUFFIXES and "node_modules" not in p.parts and p != Path(__file__))


def prose(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = re.sub(r"```.*?```", "", text, flags=re.S)
    elif path.suffix == ".py":
        kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        names = [name.replace("_", " ") for name in re.findall(r"^ *(?:async )?def (test_\w+)", text, re.M)]
        text = "\n".join([*(token.string for token in tokens if token.type in kinds), *names])
    return re.sub(r"(`+)[^`]*\1", "", text) if path.suffix in (".md", ".py") else text


def complaints(pattern: str, texts: dict[Path, str]) -> set[str]:
    return {
        f"{path.relative_to(ROOT)}: {text[max(0, match.start() - 30) : match.end() + 20]!r}"
        for path, text in texts.items()
        for match in re.finditer(pattern, text)
    }


@pytest.mark.parametrize("word", NAMES)
def test_retired_names_stay_away(word: str) -> None:
    found = complaints(word, {path: path.read_text(encoding="utf-8") for path in files(*NAME_ROOTS)})
    assert not found, f"use {NAMES[word]}: {sorted(found)}"


@pytest.mark.parametrize("root", PROSE_ROOTS)
def test_retired_phrases_stay_away(root: str) -> None:
    texts = {path: prose(path) for path in files(root)}
    assert texts
    found = {f"use {instead}: {sorted(c)}" for p, instead in PHRASES.items() if (c := complaints(p, texts))}
    assert not found


def test_names_of_tests_are_prose(tmp_path: Path) -> None:
    (module := tmp_path / "module.py").write_text("def test_faults_are_told() -> None: ...\ndef told() -> None: ...\n")
    assert re.findall(next(iter(PHRASES)), prose(module)) == ["told"]


def test_phrases_are_found_in_prose_alone(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text("It is told.\n```\ntold()\n```\n`told` is a name.\n")
    (module := tmp_path / "module.py").write_text('told = 1  # it is told\ntells = "tells `told`"\n')
    pattern = next(iter(PHRASES))
    assert [len(re.findall(pattern, prose(path))) for path in (page, module)] == [1, 2]
