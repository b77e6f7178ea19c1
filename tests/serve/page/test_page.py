"""The page that the service shows at `/`, in a real browser, against a stand-in for the service with a real model."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from fixtures.browser import needs_browser
from fixtures.page import give, look, rows, slide, text, view, wait
from fixtures.page_service import EXAMPLE, Service
from fixtures.service import running

from maskline.masks import rle_decode

pytestmark = needs_browser


def test_the_real_service_behind_it(browser: Any, expected: list[dict[str, Any]]) -> None:
    """F81: from its own address, with its own headers, without a complaint of the browser."""
    with running("serve", "--threads", "1", "--no-access-log") as real:
        browser.get_log("browser")
        browser.get(real.url)
        wait(browser, "!document.getElementById('example').hidden")
        browser.find_element("id", "example").click()
        wait(browser, "document.getElementById('busy').hidden && document.querySelector('#list li') !== null")
        assert len(rows(browser)) == sum(one["score"] > 0.5 for one in expected) > 5
        assert "PP-YOLOE_seg-N" in text(browser, "model")
        assert not [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]


def test_it_shows_what_the_model_finds(page: Any, service: Service, expected: list[dict[str, Any]]) -> None:
    """F81: numbers in the list are the model's, and a single request has brought them."""
    assert text(page, "model") == "PP-YOLOE_seg-N · nucleus"
    give(page, EXAMPLE)
    (asked,) = service.asked
    assert base64.b64decode(asked.pop("image")) == EXAMPLE.read_bytes()
    assert asked == {"threshold": 0.05, "visualize": False, "key": None}
    assert text(page, "facts").startswith("nuclei.png · 696 × 520 · ") and text(page, "facts").endswith("ms")
    for threshold in (0.5, 0.8, 0.05, 0.77, 0.3):
        slide(page, threshold)
        above = [one for one in expected if one["score"] > threshold]
        assert (
            text(page, "count") == f"{len(above)} of {len(expected)} instances"
            and text(page, "above") == f"{threshold:.2f}"
        )
        seen = page.execute_script(
            "return [...document.querySelectorAll('#list li:not([hidden])')].map((row) => row.ariaLabel)"
        )
        assert seen == [announced(number, one) for number, one in enumerate(above, 1)]
    assert len(service.asked) == 1


def announced(number: int, one: dict[str, Any]) -> str:
    area = int(rle_decode(one["mask"]["rleResult"], one["mask"]["size"]).sum())
    share = 100 * area / (696 * 520)
    return f"{one['categoryName']} {number}, score {one['score']:.2f}, {area:,} pixels, {share:.2f}\xa0%"


def mouse(page: Any, kind: str, x: float, y: float) -> None:
    """A mouse event at a pixel of the example, where it fits the view."""
    place = page.execute_script(
        "const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.width, r.height]", view(page)
    )
    left, top, width, height = place
    scale = min(width / 696, height / 520)
    at = {"x": left + (width - 696 * scale) / 2 + x * scale, "y": top + (height - 520 * scale) / 2 + y * scale}
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "button": "left", "clickCount": 1} | at)


def active(page: Any) -> list[int]:
    """Numbers of the rows that stand out, checked against the image, where something is drawn if and only if."""
    drawn = page.execute_script(
        "const c = document.querySelectorAll('#view canvas')[2];"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((value) => value)"
    )
    numbers = numbered(page, ".active")
    assert drawn == bool(numbers)
    return numbers


def pinned(page: Any) -> list[int]:
    return numbered(page, "[aria-selected=true]")


def numbered(page: Any, kind: str) -> list[int]:
    script = "return [...document.querySelectorAll(arguments[0])].map((cell) => +cell.textContent)"
    return list(page.execute_script(script, f"#list li:not([hidden]){kind} .number"))


def centre(one: dict[str, Any]) -> tuple[float, float]:
    x1, y1, x2, y2 = one["bbox"]
    return (x1 + x2) / 2, (y1 + y2) / 2


def test_pointing_finds_the_instance(page: Any, expected: list[dict[str, Any]]) -> None:
    """Mouse in the image and in the list; a click pins, another one, or Escape, unpins."""
    from selenium.webdriver.common.keys import Keys

    give(page, EXAMPLE)
    for number in (3, 20):  # the second is beyond the end of the list's window
        mouse(page, "mouseMoved", *centre(expected[number - 1]))
        assert active(page) == [number] and pinned(page) == []
        row = rows(page)[number - 1]
        shown = "const l = arguments[0].parentElement; return arguments[0].offsetTop - l.scrollTop < l.clientHeight"
        assert page.execute_script(shown, row)
    mouse(page, "mouseMoved", 690, 515)
    assert active(page) == []
    for kind in ("mousePressed", "mouseReleased"):
        mouse(page, kind, *centre(expected[4]))
    mouse(page, "mouseMoved", 690, 515)
    assert active(page) == pinned(page) == [5]
    mouse(page, "mouseMoved", *centre(expected[0]))
    assert active(page) == [1] and pinned(page) == [5]
    view(page).send_keys(Keys.ESCAPE)
    assert active(page) == pinned(page) == []
    rows(page)[1].click()
    assert pinned(page) == [2]
    slide(page, 0.83)
    assert active(page) == pinned(page) == [] and len(rows(page)) == 1


def test_keys_work_from_the_start_and_from_the_list(page: Any) -> None:
    """F81: as soon as there is a result, arrow keys go through it, and zoom keys zoom wherever the focus is."""
    from selenium.webdriver.common.keys import Keys

    give(page, EXAMPLE)
    fitting = text(page, "fit")
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.tag_name == "li"
    page.switch_to.active_element.send_keys("+")
    assert text(page, "fit") != fitting
    page.switch_to.active_element.send_keys("0")
    assert text(page, "fit") == fitting


def test_the_keyboard_reaches_everything(page: Any) -> None:
    """Arrow keys in the image and in the list; zoom; every control has a name and a visible focus."""
    from selenium.webdriver.common.keys import Keys

    give(page, EXAMPLE)
    view(page).send_keys(Keys.ARROW_DOWN)
    assert active(page) == [1]
    for key, number in (
        (Keys.ARROW_DOWN, 2),
        (Keys.PAGE_DOWN, 12),
        (Keys.END, 22),
        (Keys.ARROW_UP, 21),
        (Keys.HOME, 1),
    ):
        page.switch_to.active_element.send_keys(key)
        assert active(page) == [number]
    page.switch_to.active_element.send_keys(Keys.ENTER, Keys.TAB)
    assert active(page) == pinned(page) == [1]
    fits = text(page, "fit")
    view(page).send_keys("++")
    assert int(text(page, "fit")[:-2]) == pytest.approx(int(fits[:-2]) * 2.25, abs=1)
    view(page).send_keys("0")
    assert text(page, "fit") == fits and not page.find_element("id", "zoom-out").is_enabled()
    page.execute_script("document.getElementById('choose').focus()")
    reached: list[str] = []
    while (element := tab(page)).tag_name != "body" and len(reached) < 30:
        reached.append(element.get_attribute("id") or element.tag_name)
        assert element.accessible_name, reached[-1]
    side = ["threshold", "masks", "boxes", "labels", "li", "save-png", "save-json"]
    assert reached == ["view", "zoom-in", *side]  # the image fits: the other two of the zoom are disabled


def tab(page: Any) -> Any:
    """The element that the Tab key leads to; its focus can be seen."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(page, duration=0).send_keys(Keys.TAB).perform()
    element = page.switch_to.active_element
    ring = (
        "const e = arguments[0]; const s = (x, p) => getComputedStyle(x, p).outlineStyle;"
        "return [s(e), s(e.parentElement), s(e, '::-webkit-slider-thumb')].includes('solid') || e.id === 'threshold'"
    )
    assert element.tag_name == "body" or page.execute_script(ring, element), element.get_attribute("id")
    return element


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_the_screen(page: Any, address: str, tmp_path: Path, width: int, scheme: str) -> None:
    """No scrolling sideways, nothing from elsewhere, and no complaint of the browser's, of the CSP's least of all."""
    page.get_log("performance")
    look(page, width, scheme, ratio=2)
    page.get(address)
    for step in (lambda: None, lambda: give(page, EXAMPLE), lambda: rows(page)[2].click()):
        step()
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert not overflowing(page)
    ratio = page.execute_script("const c = document.getElementById('marks'); return c.width / c.clientWidth")
    assert ratio == pytest.approx(2, abs=0.01)
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith((address, "data:", "blob:")) for url in urls)


def overflowing(page: Any) -> list[str]:
    """Visible controls and texts that leave the screen at its sides."""
    return list(
        page.execute_script(
            "return [...document.querySelectorAll('button, input, label, h1, h2, p:not(.unseen)')]"
            ".filter((e) => e.checkVisibility()).map((e) => [e, e.getBoundingClientRect()])"
            ".filter(([, r]) => r.left < 0 || r.right > innerWidth + 0.5).map(([e]) => e.id || e.textContent)"
        )
    )
