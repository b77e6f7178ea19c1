"""The page that the service shows at `/`, in a real browser, against a stand-in for the service with a real model."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.browser import needs_browser, opened
from fixtures.page_service import EXAMPLE, Reply, Service, success
from fixtures.service import running
from PIL import Image

from maskline import create_model
from maskline.errors import InputError
from maskline.inputs.images import decode
from maskline.masks import rle_decode, rle_encode

pytestmark = needs_browser


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


def look(browser: Any, width: int, scheme: str, ratio: float = 1) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": ratio, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def wait(page: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 20, poll_frequency=0.02).until(lambda browser: browser.execute_script(f"return {script}"))


def give(page: Any, file: Path) -> None:
    """Choose a file, and wait for what comes of it."""
    page.find_element("id", "file").send_keys(str(file))
    wait(page, "document.getElementById('busy').hidden && document.querySelector('main').dataset.state === 'open'")


def give_bytes(page: Any, folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    page.find_element("id", "file").send_keys(str(folder / name))
    wait(page, "document.getElementById('busy').hidden")


def text(page: Any, name: str) -> str:
    return str(page.find_element("id", name).text)


def slide(page: Any, threshold: float) -> None:
    script = "const s = arguments[0]; s.value = arguments[1]; s.dispatchEvent(new Event('input'))"
    page.execute_script(script, page.find_element("id", "threshold"), threshold)


def rows(page: Any) -> list[Any]:
    return list(page.find_elements("css selector", "#list li:not([hidden])"))


def module(page: Any, name: str, script: str, *arguments: Any) -> Any:
    """What a script returns that uses one of the page's modules, ``m``; its arguments are ``a``."""
    imported = f"import('./page/{name}').then(async (m) => {{ {script} }})"
    wrapped = f"const [a, done] = arguments; {imported}.then(done, (e) => done(String(e)))"
    return page.execute_async_script(wrapped, list(arguments))


SAVED = """
const done = arguments[1];
URL.createObjectURL = (blob) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1]);
  reader.readAsDataURL(blob);
  return "data:,";
};
document.getElementById(arguments[0]).click();
"""


def saved(page: Any, button: str) -> bytes:
    return base64.b64decode(page.execute_async_script(SAVED, button))


def saved_pixels(page: Any) -> np.ndarray:
    """(H, W, 3) uint8, RGB, of the image that the page saves."""
    return np.asarray(Image.open(io.BytesIO(saved(page, "save-png"))).convert("RGB"))


VECTORS = [
    ("0Xg0", 24, 31, [[1] * 31] * 24),
    ("0T^2", 50, 50, [[1] * 50] * 50),
    ("0`<", 20, 20, [[1] * 20] * 20),
    ("0X6", 10, 20, [[1] * 20] * 10),
    ("41202", 3, 4, [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]),
    ("0<", 4, 3, [[1] * 3] * 4),
    ("0", 4, 0, [[]] * 4),
]
DECODE = """
const ends = m.runEnds(a[0], [a[1], a[2]]);
const mask = m.columns(ends, [a[1], a[2]]);
const hit = Array.from(mask, (_, i) => +m.covers(ends, [a[1], a[2]], Math.floor(i / a[1]), i % a[1]));
const beside = [[-1, 0], [0, -1], [a[2], 0], [0, a[1]]].some(([x, y]) => m.covers(ends, [a[1], a[2]], x, y));
return { mask: Array.from(mask), area: m.area(ends), hit, beside };
"""


def masks() -> Iterator[np.ndarray]:
    noise = np.random.default_rng(0)
    for height, width, share in ((1, 1, 1.0), (7, 5, 0.5), (40, 33, 0.1), (33, 40, 0.97), (700, 3, 0.001), (9, 9, 0)):
        yield (noise.random((height, width)) < share).astype(np.uint8)


def test_masks_are_decoded(page: Any) -> None:
    """F81: run lengths in the browser, against the vectors of SPEC 6.4 and what Python encodes."""
    made = [(rle_encode(mask), *mask.shape, mask.tolist()) for mask in masks()]
    for counts, height, width, expected in VECTORS + made:
        seen = module(page, "rle.js", DECODE, counts, height, width)
        assert np.reshape(seen["mask"], (width, height)).T.tolist() == expected
        assert seen["hit"] == seen["mask"] and seen["area"] == np.sum(expected) and not seen["beside"]


@pytest.mark.parametrize("counts", ["0Xg", "0Xh0", "é", "", "0X~0", "0oooooooo0", "0" * 5 + "O"])
def test_damaged_masks_are_noticed(page: Any, counts: str) -> None:
    assert "RangeError" in module(page, "rle.js", "return Array.from(m.runEnds(a[0], [24, 31]))", counts)


INSIDE = """
const ends = (await import("./page/rle.js")).runEnds(a[0], [a[1], a[2]]);
const rings = m.rings(ends, [a[1], a[2]]);
const path = new Path2D(rings.map((ring) => `M${ring.join(" ")}Z`).join(""));
const context = document.createElement("canvas").getContext("2d");
const inside = [];
for (let y = 0; y < a[1]; y++) {
  for (let x = 0; x < a[2]; x++) inside.push(context.isPointInPath(path, x + 0.5, y + 0.5, "evenodd"));
}
return { inside, rings: rings.length, points: rings.reduce((sum, ring) => sum + ring.length / 2, 0) };
"""


def disc(size: int, radius: float, hole: float = 0) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return ((np.hypot(x, y) <= radius) & (np.hypot(x, y) >= hole)).astype(np.uint8)


def test_outlines_follow_masks(page: Any) -> None:
    """The centre of (nearly) every pixel is on the right side; holes stay open; few points are needed."""
    for mask, rings in ((disc(60, 25), 1), (disc(60, 28, 15), 2), (np.ones((5, 9), np.uint8), 1)):
        seen = module(page, "contour.js", INSIDE, rle_encode(mask), *mask.shape)
        inside = np.reshape(seen["inside"], mask.shape)
        assert (inside != mask).mean() < 0.005 and seen["rings"] == rings
        assert seen["points"] < 100
    diagonal = np.eye(6, dtype=np.uint8)
    seen = module(page, "contour.js", INSIDE, rle_encode(diagonal), 6, 6)
    assert seen["rings"] == 1 and np.reshape(seen["inside"], (6, 6)).diagonal().all()


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
        assert seen == [told(number, one) for number, one in enumerate(above, 1)]
    assert len(service.asked) == 1


def told(number: int, one: dict[str, Any]) -> str:
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


def view(page: Any) -> Any:
    return page.find_element("id", "view")


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
    reached = []
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


def test_what_is_saved_is_what_is_seen(page: Any, expected: list[dict[str, Any]]) -> None:
    """F81: JSON is the service's answer above the threshold; PNG has the image's size, marked where instances are."""
    give(page, EXAMPLE)
    slide(page, 0.7)
    above = [one for one in expected if one["score"] > 0.7]
    assert json.loads(saved(page, "save-json")) == success(above, (520, 696))
    page.find_element("id", "boxes").click()
    pixels, plain = saved_pixels(page).astype(int), np.asarray(Image.open(EXAMPLE).convert("RGB")).astype(int)
    assert pixels.shape == plain.shape
    marked = np.zeros(plain.shape[:2], bool)
    for one in above:
        x1, y1, _, _ = (round(value) for value in one["bbox"])
        mask = rle_decode(one["mask"]["rleResult"], one["mask"]["size"])
        marked[y1 : y1 + mask.shape[0], x1 : x1 + mask.shape[1]] |= mask.astype(bool)
    changed = (np.abs(pixels - plain) > 3).any(axis=2)
    assert changed[marked].all() and changed.sum() < marked.sum() * 1.25  # outlines are 1.5 pixels wide
    page.find_element("id", "masks").click()
    assert np.array_equal(saved_pixels(page), plain)


def image_bytes(form: str) -> bytes:
    """A slope in each direction, so that whoever turns it is found out."""
    y, x = np.mgrid[:60, :100]
    pixels = np.stack([2 * x, 4 * y, 0 * x + 90], axis=2).astype(np.uint8)
    file, turned = io.BytesIO(), Image.Exif()
    turned[0x112] = 3 if "half" in form else 6
    match form:
        case "clear.png":
            alpha = np.where(x < 50, 255, 0).astype(np.uint8)
            Image.fromarray(np.dstack([pixels, alpha])).save(file, "png")
        case "scan.tif":
            Image.fromarray(pixels).save(file, "tiff")
        case _:
            kind = {"jpg": "jpeg"}.get(form.split(".")[1], form.split(".")[1])
            Image.fromarray(pixels).save(file, kind, exif=turned, quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    "form", ["turned.jpg", "half.jpg", "turned.png", "half.png", "half.webp", "clear.png", "scan.tif"]
)
def test_pixels_are_those_that_the_service_sees(page: Any, tmp_path: Path, form: str) -> None:
    """Turned as EXIF data say, opaque, TIFF too: where browsers differ, the image is one that the service draws."""
    data = image_bytes(form)
    give_bytes(page, tmp_path, form, data)
    found = next(iter(decode(data, form, None)))
    assert not isinstance(found, InputError)
    slide(page, 0.99)  # slopes may look like nuclei
    pixels = saved_pixels(page)
    assert pixels.shape == found.pixels.shape
    assert np.abs(pixels - found.pixels[..., ::-1].astype(int)).mean() < 3
    assert ("rendered by the service" in text(page, "facts")) == (not form.endswith("jpg"))


def test_an_older_answer_never_replaces_a_newer_image(page: Any, service: Service, tmp_path: Path) -> None:
    gate = threading.Event()
    service.replies.append(Reply(200, success([], (520, 696)), gate=gate))
    page.find_element("id", "file").send_keys(str(EXAMPLE))
    wait(page, "document.getElementById('facts').textContent.startsWith('nuclei.png')")
    give_bytes(page, tmp_path, "newer.jpg", image_bytes("newer.jpg"))
    gate.set()
    assert text(page, "facts").startswith("newer.jpg · 60 × 100 · ")
    page.execute_async_script("setTimeout(arguments[0], 200)")
    assert text(page, "facts").startswith("newer.jpg · 60 × 100 · ") and json.loads(saved(page, "save-json"))["result"][
        "size"
    ] == [100, 60]


def test_waiting_can_be_stopped(page: Any, service: Service) -> None:
    from selenium.webdriver.common.keys import Keys

    for stop in (lambda: view(page).send_keys(Keys.ESCAPE), lambda: page.find_element("id", "cancel").click()):
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
    """What the page tells of the last of these answers."""
    service.replies.extend(replies)
    give(page, EXAMPLE)
    return f"{text(page, 'notice-title')}: {text(page, 'notice-text')}"


def test_refusals_are_told(page: Any, service: Service, tmp_path: Path) -> None:
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
    told = refused(page, service, Reply.refusal(503, "no worker"))
    retry = page.find_element("id", "retry")
    assert told == "The service is not ready: no worker" and retry.text == "Try again" and retry.is_enabled()
    told = refused(page, service, Reply.refusal(429, "64 wait", Retry_After="1"))
    assert told == "The service is busy: 64 wait"
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


def test_nothing_found_is_told(page: Any, service: Service, tmp_path: Path) -> None:
    """F80, F81: no instances at all, or none above the threshold."""
    give(page, EXAMPLE)
    slide(page, 0.95)
    assert text(page, "none-text") == "No instances above 0.95. The best score is 0.84."
    page.find_element("id", "lower").click()
    assert len(rows(page)) >= 1 and not page.find_element("id", "none").is_displayed()
    refused(page, service, Reply(200, success([], (520, 696))))
    assert text(page, "none-text") == "No instances found. Classes of this model: nucleus."
    assert json.loads(saved(page, "save-json"))["result"]["instances"] == []


GIVE = """
const [kind, done] = arguments;
fetch("page/example.png").then(async (response) => {
  const files = new DataTransfer();
  files.items.add(new File([await response.blob()], "given.png", { type: "image/png" }));
  const options = { clipboardData: files, dataTransfer: files };
  document.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options));
  done();
});
"""


@pytest.mark.parametrize(("way", "name"), [("drop", "given.png"), ("paste", "pasted.png"), ("example", "example.png")])
def test_images_come_in_every_way(page: Any, way: str, name: str) -> None:
    if way == "example":
        page.find_element("id", "example").click()
    else:
        page.execute_async_script(GIVE, way)
    wait(page, "document.getElementById('count').textContent.startsWith('22')")
    assert text(page, "facts").startswith(name)


def test_a_service_that_tells_little(browser: Any, service: Service, address: str) -> None:
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


LARGE = """
const [done] = arguments;
const frame = () => new Promise(requestAnimationFrame);
(async () => {
  const slider = document.getElementById("threshold");
  const took = [];
  for (const value of [0.05, 0.5, 0.05, 0.5, 0.05]) {
    await frame();
    const begin = performance.now();
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    await frame();
    await frame();
    took.push(performance.now() - begin);
  }
  const hover = [];
  for (const row of [...document.querySelectorAll("#list li")].slice(0, 20)) {
    await frame();
    const begin = performance.now();
    row.dispatchEvent(new PointerEvent("pointerenter"));
    hover.push(performance.now() - begin);
  }
  done({ took, hover });
})();
"""


def test_large_images_stay_fluid(page: Any, service: Service, tmp_path: Path) -> None:
    """12 megapixels, 100 instances of half a megapixel: the slider and pointing take frames, without a GPU too."""
    y, x = np.mgrid[:3000, :4000]
    Image.fromarray(((x // 8 + y // 8) % 256).astype(np.uint8)).save(tmp_path / "large.jpg")
    found = []
    rles = [{"rleResult": rle_encode(disc(800, 400 - 20 * i, 60)), "size": [800, 800]} for i in range(10)]
    for i in range(100):
        left, top = 340 * (i % 10), 230 * (i // 10)
        one = {"bbox": [left, top, left + 800, top + 800], "score": 0.95 - i / 200, "categoryName": "disc"}
        found.append(one | {"mask": rles[i % 10]})
    service.replies.append(Reply(200, success(found, (3000, 4000))))
    give(page, tmp_path / "large.jpg")
    seen = page.execute_async_script(LARGE)
    assert len(rows(page)) == 100
    assert np.median(seen["took"]) < 400 and np.median(seen["hover"]) < 30
