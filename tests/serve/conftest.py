"""Fixtures of the tests of the service."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from fixtures.answers import KEY
from fixtures.service import IMAGE, Service, encoded, running

from maskline import Predictor, Result, create_model


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


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with running("serve", "--max-pixels", "2", "--max-body", "8", "--threads", "1", "--workers", "1") as service:
        yield service


@pytest.fixture(scope="session")
def guarded() -> Iterator[Service]:
    """With a key, without images in its answers, for a page of another origin."""
    options = ("--no-visualize", "--cors", "https://a.example", "--no-access-log")
    with running("serve", *options, environment={"MASKLINE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}) as service:
        yield service


@pytest.fixture(scope="session")
def model() -> Predictor:
    return create_model(threads=1)


@pytest.fixture(scope="session")
def expected(model: Predictor) -> Result:
    (result,) = model.predict(str(IMAGE))
    return result


@pytest.fixture(scope="session")
def image() -> str:
    return encoded()
