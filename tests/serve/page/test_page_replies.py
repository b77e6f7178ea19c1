"""What the page makes of the service's replies, and of the lack of one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixtures.browser import needs_browser
from fixtures.page import give, give_bytes, rows, saved, slide, text, view, wait
from fixtures.page_service import EXAMPLE, Reply, Service, success

pytestmark = needs_browser


def test_waiting_can_be_stopped(page: Any, service: Service) -> None:
    from selenium.webdriver.common.keys import Keys

    stops: tuple[Callable[[], object], ...] = (
        lambda: view(page).send_keys(Keys.ESCAPE),
        lambda: page.find_element("id", "cancel").click(),
    )
    for stop in stops:
        gate = threading.Event()
        service.replies.append(Reply(200, success([], (520, 696)), gate=gate))
        page.find_element("id", "file").send_keys(str(EXAMPLE))
        wait(page, "document.getElementById('facts').textContent.startsWith('nuclei.png')")
        assert text(page, "elapsed").startswith("Processing … 0.")
        stop()
        gate.set()
        assert text(page, "notice-title") == "Stopped" and not page.find_element("id", "busy").is_displayed()
    page.find_element("id", "retry").click()
    wait(page, "document.getElementById('facts').textContent.endsWith('ms')")
    assert text(page, "count") == "22 of 127 instances" and not page.find_element("id", "notice").is_displayed()


def refused(page: Any, service: Service, *replies: Reply) -> str:
    """What the page says about the last of these answers."""
    service.replies.extend(replies)
    give(page, EXAMPLE)
    return f"{text(page, 'notice-title')}: {text(page, 'notice-text')}"


def test_refusals_are_reported(page: Any, service: Service, tmp_path: Path) -> None:
    """F81: in the service's own words, which are never taken for HTML."""
    give_bytes(page, tmp_path, "notes.txt", b"no image")
    assert text(page, "notice-title") == "notes.txt can't be processed" and text(page, "notice-text").startswith(
        "not an image"
    )
    faults = json.dumps([{"type": "x", "loc": "body.image", "msg": word} for word in ("<b>one</b>", "two")])
    broken = success([{"bbox": [0, 0, 3, 4], "score": 0.9, "mask": {"rleResult": "0Z", "size": [4, 3]}}], (520, 696))
    for reply, words in (
        (Reply.refusal(422, faults), "nuclei.png can't be processed: <b>one</b>; two"),
        (Reply.refusal(413, "at most 20 MB"), "nuclei.png can't be processed: at most 20 MB"),
        (Reply.refusal(500, "Internal server error"), "nuclei.png can't be processed: Internal server error"),
        (Reply.refusal(504, "after 30 s"), "The request timed out: after 30 s"),
        (Reply(502, "<html>Bad gateway"), "nuclei.png can't be processed: Status 502 Bad Gateway"),
        (Reply(200, "{}"), "nuclei.png can't be processed: The response contains no instances."),
        (Reply(200, broken), "nuclei.png can't be processed: Invalid response: the mask's RLE is invalid."),
    ):
        assert refused(page, service, reply) == words
        assert page.find_element("id", "retry").is_displayed() == (reply.status >= 500 or reply.status == 200)
    page.find_element("id", "dismiss").click()
    assert not page.find_element("id", "notice").is_displayed()


def test_a_busy_service_is_asked_again_later(page: Any, service: Service) -> None:
    """F81: after as long as it asks for, where it does."""
    message = refused(page, service, Reply.refusal(503, "no worker"))
    retry = page.find_element("id", "retry")
    assert message == "The service is not ready: no worker" and retry.text == "Try again" and retry.is_enabled()
    message = refused(page, service, Reply.refusal(429, "64 wait", Retry_After="1"))
    assert message == "The service is busy: 64 wait"
    assert retry.text == "Try again in 1 s" and not retry.is_enabled()
    wait(page, "!document.getElementById('retry').disabled")
    retry.click()
    wait(page, "document.getElementById('count').textContent.startsWith('22')")


def test_a_key_is_asked_for(page: Any, service: Service) -> None:
    """It lives in the session's storage, and goes with every request."""
    assert refused(page, service, Reply.refusal(401, "a key, please")).startswith("The service requires an API key")
    field = page.switch_to.active_element
    assert field.accessible_name == "API key" and field.get_attribute("type") == "password"
    service.replies.append(Reply.refusal(401, "not this one"))
    field.send_keys("wrong\n")
    wait(page, "document.getElementById('notice-title').textContent.includes('Invalid')")
    page.switch_to.active_element.send_keys("right\n")
    wait(page, "document.getElementById('count').textContent.startsWith('22')")
    assert [asked["key"] for asked in service.asked] == [None, "wrong", "right"]
    stores = page.execute_script("return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert stores == [["right"], [], ""]


def test_nothing_found_is_reported(page: Any, service: Service, tmp_path: Path) -> None:
    """F80, F81: no instances at all, or none above the threshold."""
    give(page, EXAMPLE)
    slide(page, 0.95)
    assert text(page, "none-text") == "No instances above 0.95. The best score is 0.84."
    page.find_element("id", "lower").click()
    assert len(rows(page)) >= 1 and not page.find_element("id", "none").is_displayed()
    refused(page, service, Reply(200, success([], (520, 696))))
    assert text(page, "none-text") == "No instances found. Classes of this model: nucleus."
    assert json.loads(saved(page, "save-json"))["result"]["instances"] == []


def test_a_service_that_reports_little(browser: Any, service: Service, address: str) -> None:
    """No example, no model's name, an answer without the image's size: as of the system we are compatible with."""
    service.has_example = service.model_known = False
    browser.get(address)
    browser.execute_async_script("setTimeout(arguments[0], 200)")
    assert not browser.find_element("id", "example").is_displayed()
    assert not browser.find_element("id", "model").is_displayed()
    reply = success([{"bbox": [8, 8, 12, 13], "score": 0.9, "mask": {"rleResult": "0d0", "size": [5, 4]}}], (520, 696))
    del reply["result"]["size"], reply["result"]["image"]
    service.replies.append(Reply(200, reply))
    give(browser, EXAMPLE)
    assert text(browser, "count") == "1 of 1 instances"
