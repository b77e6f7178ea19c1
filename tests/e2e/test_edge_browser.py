"""The page of `examples/browser`, in a real browser: it finds what Python finds, and is fit to look at."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from fixtures.browser import needs_browser, opened
from fixtures.embedded import edited, twice
from fixtures.narrow import imread
from PIL import Image

from maskline import create_model, hub
from maskline.inputs import read_image
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
IMAGE = hub.EMBEDDED.parent / "nuclei.png"
NPM = shutil.which("npm")
pytestmark = [needs_browser, pytest.mark.skipif(NPM is None, reason="needs npm, which fetches onnxruntime-web")]

LOOK = """
const [folder, image, threshold, done] = arguments;
(async () => {
  const { decode, openModel, prepare, readImage, run } = await import("./maskline.js");
  const model = await openModel(`${folder}/inference.onnx`);
  const pixels = await readImage(await (await fetch(image)).blob());
  const input = prepare(pixels, model.record.preprocess);
  const found = decode(await run(model, pixels), threshold);
  const plain = found.map((one) => ({ ...one, mask: Array.from(one.mask) }));
  done({ labels: model.record.labels, input: Array.from(input.pixels), found: plain });
})().catch((error) => done({ error: String(error) }));
"""

READ = """
const [image, done] = arguments;
(async () => {
  const { readImage } = await import("./maskline.js");
  const { data, width, height } = await readImage(await (await fetch(image)).blob());
  done({ data: Array.from(data), size: [height, width, 4] });
})().catch((error) => done({ error: error.message }));
"""

DROP = """
const names = Array.from(arguments);
const blobs = await Promise.all(names.map(async (name) => (await fetch(name)).blob()));
names.forEach((name, i) => {
  const files = new DataTransfer();
  files.items.add(new File([blobs[i]], name, { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
});
"""

SAVED = """
const done = arguments[0];
URL.createObjectURL = (blob) => (blob.text().then(done), "data:,");
document.getElementById("save-json").click();
"""


class Quiet(SimpleHTTPRequestHandler):
    """Static files, as the page needs them, without a line for each."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as a user sets it up, with the embedded model and an image next to it."""
    site = tmp_path_factory.mktemp("browser") / "site"
    shutil.copytree(EXAMPLE, site, ignore=shutil.ignore_patterns("node_modules", "model"))
    assert NPM is not None
    command = [NPM, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm can't fetch onnxruntime-web: {done.stderr.strip().splitlines()[-1:]}")
    (site / "model").mkdir()
    shutil.copy(hub.EMBEDDED / "inference.onnx", site / "model")
    shutil.copy(IMAGE, site / "nuclei.png")
    return site


@pytest.fixture(scope="module")
def golden(site: Path) -> Path:
    """A model whose threshold no slider has, and an image whose lower half is transparent, in one folder."""
    folder = site / "golden"
    edited(folder, threshold=0.333)
    pixels = cv2.cvtColor(imread(IMAGE), cv2.COLOR_BGR2BGRA)
    pixels[len(pixels) // 2 :, :, 3] = 0
    cv2.imwrite(str(folder / "glass.png"), pixels)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    with opened() as browser:
        browser.set_script_timeout(120)
        browser.get(f"{address}/index.html")
        yield browser


def wait(page: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 120).until(lambda browser: browser.execute_script(f"return {script}"))


def start(page: Any, address: str) -> None:
    page.get(address)
    wait(page, "!document.getElementById('file').disabled")


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def check(seen: Any, model_dir: Path, image: Path, threshold: float, least_iou: float = 0.99) -> None:
    """What the browser has found is what Python finds, boxes to half a pixel."""
    model = create_model(model_dir=model_dir, device="cpu")
    result = next(iter(model.predict(image, threshold=threshold))).instances
    assert "error" not in seen, seen
    assert seen["labels"] == list(model.labels) and len(seen["found"]) == len(result) > 0
    free = list(range(len(result)))
    for one in seen["found"]:  # neighbours of nearly equal score may change places
        apart = [np.abs(one["box"] - result.boxes[i]).max() + abs(one["score"] - result.scores[i]) for i in free]
        i = free.pop(int(np.argmin(apart)))
        assert one["label"] == result.labels[i]
        assert one["score"] == pytest.approx(result.scores[i], abs=2e-3)
        assert np.abs(np.array(one["box"]) - result.boxes[i]).max() < 0.5
        top, bottom, left, right = one["window"]
        mask = np.zeros(result.size, bool)
        mask[top:bottom, left:right] = np.reshape(one["mask"], (bottom - top, right - left))
        assert iou(mask, result.full_mask(i)) >= least_iou
        assert one["area"] == mask.sum()


def test_the_browser_finds_what_python_finds(page: Any) -> None:
    """F54, B54: the embedded model in a browser, on the device itself."""
    seen = page.execute_async_script(LOOK, "model", "nuclei.png", 0.5)
    check(seen, hub.EMBEDDED, IMAGE, 0.5)
    assert len(seen["found"]) > 20
    close(seen["input"], hub.EMBEDDED, IMAGE)


def test_it_enlarges_masks_twice(page: Any, site: Path) -> None:
    """As PP-YOLOE_seg-S wants it. Enlarged once, masks here have an IoU of 0.98 at least."""
    twice(site / "twice")
    seen = page.execute_async_script(LOOK, "twice", "nuclei.png", 0.5)
    check(seen, site / "twice", IMAGE, 0.5, least_iou=0.995)


def test_it_runs_a_model_that_stretches(page: Any, site: Path, tiny_model_dir: Path) -> None:
    """Mask-RT-DETR: cubic interpolation, the ratio not kept, masks that go on beyond boxes, several classes."""
    shutil.copytree(tiny_model_dir, site / "tiny")
    cv2.imwrite(str(site / "fruit.png"), imread(IMAGE.with_name("fruit.jpg")))
    seen = page.execute_async_script(LOOK, "tiny", "fruit.png", 0.3)
    check(seen, tiny_model_dir, site / "fruit.png", 0.3, least_iou=0.95)  # untrained, it notices a single level
    close(seen["input"], tiny_model_dir, site / "fruit.png")


def close(seen: list[int], model_dir: Path, image: Path) -> None:
    """The network's input is Python's, but for one level in a thousandth of its values."""
    record = Graph(model_dir / "inference.onnx", Device("cpu")).record
    ours = record.preprocess.apply(read_image(image))[0]
    theirs = np.array(seen, int).reshape(ours.shape)
    assert np.abs(theirs - ours).max() <= 1 and (theirs != ours).mean() < 0.001


def encoded(form: str) -> bytes:
    """An image of noise, so that rotation or multiplication by alpha is detected."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
    file, turned = io.BytesIO(), Image.Exif()
    turned[0x112] = 6
    match form:
        case "rgba.png" | "rgba.webp":
            Image.fromarray(noise).save(file, form[5:], lossless=True, exact=True)
        case "grey.png":
            Image.fromarray(np.ascontiguousarray(noise[..., :2]), "LA").save(file, "png")
        case "palette.png":
            Image.fromarray(noise[..., :3]).quantize(64).save(file, "png", transparency=bytes(range(0, 256, 4)))
        case "turned.jpg":
            Image.fromarray(noise[..., :3]).save(file, "jpeg", exif=turned, quality=95, subsampling=0)
        case "turned.png":
            Image.fromarray(noise).save(file, "png", exif=turned)
    return file.getvalue()


@pytest.mark.parametrize("form", ["rgba.png", "rgba.webp", "grey.png", "palette.png", "turned.jpg"])
def test_pixels_are_those_that_python_reads(page: Any, site: Path, form: str) -> None:
    """Colours of transparent pixels too, and turned as EXIF data say."""
    (site / form).write_bytes(encoded(form))
    seen = page.execute_async_script(READ, form)
    assert "error" not in seen, seen
    pixels = np.reshape(seen["data"], seen["size"])
    ours = read_image(site / form)[..., ::-1]
    assert pixels.shape[:2] == ours.shape[:2] and (pixels[..., 3] == 255).all()
    assert np.abs(pixels[..., :3] - ours.astype(int)).max() <= (
        2 if form.endswith("jpg") else 0
    )  # JPEG leaves some room


def test_pixels_that_a_browser_does_not_give_are_reported(page: Any, site: Path) -> None:
    """Chromium multiplies by alpha when it turns."""
    (site / "turned.png").write_bytes(encoded("turned.png"))
    assert "save it without transparency" in page.execute_async_script(READ, "turned.png")["error"]


def test_a_transparent_image_and_an_odd_threshold(page: Any, address: str, golden: Path) -> None:
    """The page's JSON is Python's: the same keys, and the same instances above the model's own threshold."""
    start(page, f"{address}/index.html?model=golden/inference.onnx")
    assert page.find_element("id", "above").text == "0.333"
    page.find_element("id", "file").send_keys(str(golden / "glass.png"))
    wait(page, "document.getElementById('status').textContent.includes(' ms')")
    seen = json.loads(page.execute_async_script(SAVED))
    model = create_model(model_dir=golden, device="cpu")
    expected = next(iter(model.predict(golden / "glass.png"))).json["res"]
    assert list(seen) == list(expected) and seen["input_path"] == "glass.png" and seen["page_index"] is None
    assert len(seen["boxes"]) == len(seen["masks"]) == len(expected["boxes"]) > 20
    for box, mask in zip(seen["boxes"], seen["masks"], strict=True):
        apart = [np.abs(np.subtract(box["coordinate"], other["coordinate"])).max() for other in expected["boxes"]]
        other = int(np.argmin(apart))
        assert min(apart) < 0.5 and list(box) == list(expected["boxes"][other])
        assert box["score"] == pytest.approx(expected["boxes"][other]["score"], abs=2e-3)
        assert np.sum(mask) == pytest.approx(np.sum(expected["masks"][other]), rel=0.02, abs=3)


def test_the_page_shows_and_lists_them(page: Any, address: str, tmp_path: Path) -> None:
    """With a file, a threshold moved, and no fault reported by the browser; wide and narrow, light and dark."""
    page.get_log("browser")
    start(page, f"{address}/index.html")
    page.find_element("id", "file").send_keys(str(IMAGE))
    wait(page, "document.getElementById('status').textContent.includes(' ms')")
    assert re.fullmatch(r"696 × 520, \d+ ms", page.find_element("id", "status").text)
    before = len(page.find_elements("css selector", "#list li"))
    assert page.find_element("id", "count").text == f"{before} instances"
    page.execute_script(
        "const s = document.getElementById('threshold'); s.value = 0.75; s.dispatchEvent(new Event('input'))"
    )
    assert 0 < len(page.find_elements("css selector", "#list li")) < before
    for width, scheme in ((1280, "light"), (390, "dark")):
        look(page, width, scheme)
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        (tmp_path / f"{width}.png").write_bytes(page.get_screenshot_as_png())
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def look(page: Any, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def test_the_image_shown_is_the_one_processed(page: Any, address: str, site: Path) -> None:
    """Two dropped at once: the second is shown. An unusable one leaves the current image, which can still be saved."""
    small = imread(IMAGE)[:200, :300]
    cv2.imwrite(str(site / "small.png"), small)
    (site / "text.png").write_text("no image")
    start(page, f"{address}/index.html")
    canvas, status = page.find_element("id", "canvas"), page.find_element("id", "status")
    for names, size in ((["nuclei.png", "small.png"], "300 × 200"), (["small.png", "nuclei.png"], "696 × 520")):
        page.execute_script(DROP, *names)
        wait(page, f"document.getElementById('status').textContent.startsWith('{size}')")
        shown = f"{canvas.get_property('width')} × {canvas.get_property('height')}"
        assert shown == size and canvas.accessible_name.startswith(names[1])
    page.execute_script(DROP, "small.png", "text.png")
    wait(page, "document.getElementById('status').className === 'error'")
    assert "text.png can't be used" in status.text and canvas.accessible_name.startswith("nuclei.png")
    assert json.loads(page.execute_async_script(SAVED))["input_path"] == "nuclei.png"


def test_faults_are_reported(page: Any, address: str, site: Path) -> None:
    """Whatever the model's address leads to: nothing, another file, half a file."""
    whole = (hub.EMBEDDED / "inference.onnx").read_bytes()
    model = onnx.load(hub.EMBEDDED / "inference.onnx", load_external_data=False)
    del model.graph.initializer[:], model.metadata_props[:]
    faults = {
        "ones.ort": b"\xff" * 100_000,  # a number without end
        "text.xml": b'<?xml version="1.0"?><net name="n"/>',
        "cut.onnx": whole[:100_000],
        "foreign.onnx": model.SerializeToString(),
        "empty.onnx": b"",
    }
    for name, content in faults.items():
        (site / name).write_bytes(content)
    for name in faults:
        assert message_of(page, address, name).startswith(f"no maskline model at {name}: expected")
    assert "no model at nowhere.onnx (404)" in message_of(page, address, "nowhere.onnx")


def message_of(page: Any, address: str, model: str) -> str:
    page.get(f"{address}/index.html?model={model}")
    wait(page, "document.getElementById('model').className === 'error'")
    return str(page.find_element("id", "model").text)
