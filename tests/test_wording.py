"""Words of messages."""

from __future__ import annotations

import pytest

from maskline._wording import counted, short, shortened


@pytest.mark.parametrize(("number", "message"), [(0, "0 images"), (1, "1 image"), (2, "2 images")])
def test_numbers_with_their_nouns(number: int, message: str) -> None:
    assert counted(number, "image") == message


def test_another_plural() -> None:
    assert [counted(number, "class is", "classes are") for number in (1, 2)] == ["1 class is", "2 classes are"]


def test_long_values_and_words_are_cut() -> None:
    assert short("a" * 58) == repr("a" * 58) and short("a" * 59) == f"'{'a' * 56}..."
    message = f"{'/folder' * 20}/photo.jpg can't be read"
    assert shortened(message) == message
    message = shortened(f"a {'/folder' * 40}/photo.jpg can't be read")
    assert message.startswith("a /folder/folder") and message.endswith("/folder/photo.jpg can't be read")
    assert len(message) == len("a  can't be read") + 183
