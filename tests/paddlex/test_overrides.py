"""Overrides: what a value is read as, and that no text whatever is run, or gives a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskline.errors import ParameterError
from maskline.paddlex.overrides import parse, parse_value, read_yaml


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("Train.epochs_iters=10", ("Train", "epochs_iters"), 10),
        ("Global.mode=train", ("Global", "mode"), "train"),
        ("Predict.input=https://a.b/c?d=1&e=2#f", ("Predict", "input"), "https://a.b/c?d=1&e=2#f"),
        ("Predict.kernel_option.run_mode=paddle", ("Predict", "kernel_option", "run_mode"), "paddle"),
        ("a=b=c", ("a",), "b=c"),
        ("a==", ("a",), "="),
        (" a . b = 1 ", ("a", "b"), 1),
        ("a.b=", ("a", "b"), None),
    ],
)
def test_the_first_equals_sign_divides(text: str, key: tuple[str, ...], value: Any) -> None:
    """B34: values may hold more of them."""
    assert parse(text) == (key, value)


@pytest.mark.parametrize("text", ["", "Global.mode", "=1", "Global.=1", ".mode=1", "Global..mode=1"])
def test_what_is_not_an_override(text: str) -> None:
    with pytest.raises(ParameterError, match="expected Section.key=value"):
        parse(text)


@pytest.mark.parametrize("text", ["None", "none", "NULL", "Null", "null", "~", "", "  ", '""', "''"])
def test_nothing(text: str) -> None:
    """B34: what is None, and nothing else."""
    assert parse_value(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, True) for text in ("True", "true", "TRUE")],
        *[(text, False) for text in ("False", "false", "FALSE")],
        ("5", 5), ("-1", -1), ("+7", 7), ("0", 0), ("1e-3", 0.001), ("1E3", 1000.0), ("5e5", 5e5), (".5", 0.5),
        ("-2.", -2.0), ("0.25", 0.25), ("1.5e+2", 150.0),
        ("[1, 2]", [1, 2]), ("[1e-3, on, None, '3', ~]", [0.001, "on", None, "3", None]), ("[]", []),
        ("{a: 1, b: {c: [x]}}", {"a": 1, "b": {"c": ["x"]}}), ("{0: 0.5}", {0: 0.5}),
        ('"5"', "5"), ("'None'", "None"), ("'it''s'", "it's"), ('"[draft]"', "[draft]"),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "e", "n", "N", "o", "on", "yes", "no", "off", "y", "nOne", "tRUE",
        "007", "-01", "00", "2024-01-01", "12:30:45", "1_000", "0x1f", "0o7", "1e", "e5", ".", "-", "+", ".inf", "nan",
        "1+1", "max", "__import__('os').system('false')", "print(1)",
        "a #1.jpg", "*.jpg", "&a", "!x", "%d", "@x", "`x`", "a: b", "- a", "? a", "C:\\data", "gpu:0,1", "~/a", "a=b",
        "[draft] a.jpg", "[1, 2", "{a", '"open', '"C:\\data"', "[a]b", "{[1]: 2}", "[&a 1, *a]", '"\\UFFFFFFFF"',
        "1" * 5000, "[" * 100_000,
    ],
)  # fmt: skip
def test_text_stays_text(text: str) -> None:
    """B34: never evaluated."""
    assert parse_value(text) == text


def test_tags_make_no_objects() -> None:
    """B34: never evaluated."""
    assert parse_value("[!!python/object/apply:os.getcwd [], !!int x, !!timestamp y]") == [[], "x", "y"]


@given(st.text())
def test_any_text_is_a_value(text: str) -> None:
    value = parse_value(text)
    assert value is None or isinstance(value, bool | int | float | str | list | dict)


PRINTABLE = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1)
SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(SCALARS | PRINTABLE, lambda part: st.lists(part) | st.dictionaries(PRINTABLE, part))


@given(JSON)
def test_json_comes_back(value: Any) -> None:
    assert parse_value(json.dumps(value, ensure_ascii=False)) == value


@given(st.text("abgn:-!&*[]{}'\"#%?,\n \t0x1\\", max_size=60))
def test_junk_in_a_file_is_one_kind_of_error(text: str) -> None:
    try:
        read_yaml(text)
    except ParameterError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x", "a: &x {b: *x}", "- " * 50_000, "a: [", "\x00", "? [a]\n: b"])
def test_yaml_that_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="not readable YAML"):
        read_yaml(text)


def test_a_file_reads_as_an_override_does() -> None:
    text = "a: 1e-3\nb: None\nc: on\nd: 'on' # so\ne:\n- 010\n- |\n  None\n"
    assert read_yaml(text) == {"a": 0.001, "b": None, "c": "on", "d": "on", "e": ["010", "None\n"]}
