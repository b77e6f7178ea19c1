"""Whatever a data set holds, what is written is Unicode and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskline.data.formats.class_names import fit_names, one_line, renamed_note
from maskline.data.safe_json import dump_json, encode_json, escape_surrogates, is_plain, is_valid_unicode, plain

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(), max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


@given(VALUES)
def test_every_value_becomes_json(value: Any) -> None:
    again = json.loads(encode_json(dump_json(value)), parse_constant=refuse)
    assert again == plain(value) and is_plain(again)
    assert not is_plain(value) or again == value


def test_what_is_too_deep_is_left_out() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]
    assert not is_plain(value) and is_plain(plain(value)) and encode_json(dump_json(plain(value)))


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb"])
def test_half_a_character(text: str) -> None:
    assert (
        not is_valid_unicode(text)
        and is_valid_unicode(escape_surrogates(text))
        and escape_surrogates("ä猫😀") == "ä猫😀"
    )
    assert json.loads(encode_json(dump_json({text: text}))) == {text: text}


def test_names_are_fitted_and_no_two_become_one() -> None:
    labels = fit_names(["a  b", "a b", "a b 2", "a\nb", "c"], one_line)
    assert labels == {"a  b": "a b 3", "a b": "a b", "a b 2": "a b 2", "a\nb": "a b 4", "c": "c"}
    (note,) = renamed_note(labels, "so")
    assert note == "classes renamed so: 'a  b' as 'a b 3', 'a\\nb' as 'a b 4'"
    assert not renamed_note(fit_names(["a", "b"], one_line), "so")
