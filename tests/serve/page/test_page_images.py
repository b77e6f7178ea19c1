"""Images that the page is given, shows and saves."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.browser import needs_browser
from fixtures.page import disc, give, give_bytes, rows, saved, saved_pixels, slide, text, wait
from fixtures.page_service import EXAMPLE, Reply, Service, success
from PIL import Image

from maskline.inputs.images import decode
from maskline.inputs.input_image import InputImage
from maskline.masks import rle_decode, rle_encode

pytestmark = needs_browser


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
    """A slope in each direction, so that a turned one is noticed."""
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
    assert isinstance(found, InputImage)
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
