"""Fixtures of the tests of the service."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> Iterator[None]:
    """The garbage collector does not look through what earlier tests left, such as the caches of torch's export.

    In a run of all tests that takes seconds, in which all threads of this process stand still, and those that are
    clients of a service come too late.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
