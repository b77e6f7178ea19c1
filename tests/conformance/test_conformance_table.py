"""The table of what is shown: complete, and true about which tests there are."""

from __future__ import annotations

from fixtures import features


def test_every_promise_and_fault_is_shown_or_said_not_to_be() -> None:
    known = {*features.FEATURES, *features.FAULTS}
    shown = set(features.shown())
    assert shown <= known and set(features.NOT_SHOWN) <= known
    assert not shown & set(features.NOT_SHOWN)
    assert known - shown - set(features.NOT_SHOWN) == set()


def test_all_numbers_are_there() -> None:
    """The features have the numbers 1 to 85, the bugs 1 to 75."""
    assert list(features.FEATURES) == [f"F{n:02}" for n in range(1, 86)]
    assert list(features.FAULTS) == [f"B{n:02}" for n in range(1, 76)]
