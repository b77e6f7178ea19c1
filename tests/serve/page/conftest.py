"""The page in a browser, and a stand-in for the service behind it. They start once for each file of tests."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.browser import opened
from fixtures.page import look, wait
from fixtures.page_service import EXAMPLE, Service

from maskline import create_model


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(create_model(device="cpu", threads=1)) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield service
        service.shutdown()


@pytest.fixture(scope="module")
def address(service: Service) -> str:
    """Where the page is. It lies behind a prefix, as behind a proxy."""
    return f"http://127.0.0.1:{service.server_port}/seg/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as browser:
        browser.set_script_timeout(30)
        yield browser


@pytest.fixture
def page(browser: Any, service: Service, address: str) -> Iterator[Any]:
    """The page as one finds it, on a screen of 1280 x 900."""
    service.forget()
    look(browser, 1280, "light")
    browser.get(address)
    wait(browser, "!document.getElementById('example').hidden && !document.getElementById('model').hidden")
    browser.get_log("browser")
    yield browser
    browser.execute_script("sessionStorage.clear()")


@pytest.fixture(scope="module")
def expected(service: Service) -> list[dict[str, Any]]:
    """What the model finds in the example, best first."""
    image = base64.b64encode(EXAMPLE.read_bytes()).decode()
    reply = service.look({"image": image, "threshold": 0.05, "visualize": False})
    assert isinstance(reply.body, dict)
    return list(reply.body["result"]["instances"])
