"""The page of `examples/browser`, in a real browser: it finds what Python finds, and is fit to look at."""

from __future__ import annotations

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
import pytest
from browser import needs_browser, opened

from maskline import create_model, hub
from maskline.inputs import read_image
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph

EXAMPLE = Path(__file__).parents[1] / "examples" / "browser"
PICTURE = hub.EMBEDDED.parent / "nuclei.png"
NPM = shutil.which("npm")
pytestmark = [needs_browser, pytest.mark.skipif(NPM is None, reason="needs npm, which fetches onnxruntime-web")]

LOOK = """
const [folder, picture, threshold, done] = arguments;
(async () => {
  const { decode, openModel, prepare, readPicture, run } = await import("./maskline.js");
  const model = await openModel(`${folder}/inference.onnx`);
  const pixels = await readPicture(await (await fetch(picture)).blob());
  const input = prepare(pixels, model.record.preprocess);
  const found = decode(await run(model, pixels), threshold);
  const plain = found.map((one) => ({ ...one, mask: Array.from(one.mask) }));
  done({ labels: model.record.labels, input: Array.from(input.pixels), found: plain });
})().catch((error) => done({ error: String(error) }));
"""


class Quiet(SimpleHTTPRequestHandler):
    """Static files, as the page needs them, without a line for each."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as a user sets it up, with the embedded model and a picture beside it."""
    site = tmp_path_factory.mktemp("browser") / "site"
    shutil.copytree(EXAMPLE, site, ignore=shutil.ignore_patterns("node_modules", "model"))
    assert NPM is not None
    command = [NPM, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm can't fetch onnxruntime-web: {done.stderr.strip().splitlines()[-1:]}")
    shutil.copytree(hub.EMBEDDED, site / "model")
    shutil.copy(PICTURE, site / "nuclei.png")
    return site


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


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def check(seen: Any, model_dir: Path, picture: Path, threshold: float, least_iou: float = 0.99) -> None:
    """What the browser has found is what Python finds, boxes to half a pixel."""
    model = create_model(model_dir=model_dir, device="cpu")
    result = next(iter(model.predict(picture, threshold=threshold))).instances
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
    check(seen, hub.EMBEDDED, PICTURE, 0.5)
    assert len(seen["found"]) > 20


def test_it_runs_a_model_that_stretches(page: Any, site: Path, tiny_model_dir: Path) -> None:
    """Mask-RT-DETR: cubic interpolation, the ratio not kept, masks that go on beyond boxes, several classes."""
    shutil.copytree(tiny_model_dir, site / "tiny")
    cv2.imwrite(str(site / "fruit.png"), cv2.imread(str(PICTURE.with_name("fruit.jpg"))))
    seen = page.execute_async_script(LOOK, "tiny", "fruit.png", 0.3)
    check(seen, tiny_model_dir, site / "fruit.png", 0.3, least_iou=0.95)  # untrained, it notices a single level
    close(seen["input"], tiny_model_dir, site / "fruit.png")


def close(seen: list[int], model_dir: Path, picture: Path) -> None:
    """The network's input is Python's, but for one level in a thousandth of its values."""
    record = Graph(model_dir / "inference.onnx", Device("cpu")).record
    ours = record.preprocess.apply(read_image(picture))[0]
    theirs = np.array(seen, int).reshape(ours.shape)
    assert np.abs(theirs - ours).max() <= 1 and (theirs != ours).mean() < 0.001


def test_the_input_is_pythons(page: Any) -> None:
    close(page.execute_async_script(LOOK, "model", "nuclei.png", 0.99)["input"], hub.EMBEDDED, PICTURE)


def test_the_page_shows_and_lists_them(page: Any, address: str, tmp_path: Path) -> None:
    """With a file, a threshold moved, and no fault told by the browser; wide and narrow, light and dark."""
    page.get_log("browser")
    page.get(f"{address}/index.html")
    wait(page, "!document.getElementById('file').disabled")
    page.find_element("id", "file").send_keys(str(PICTURE))
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


def test_faults_are_told(page: Any, address: str, tmp_path: Path) -> None:
    page.get(f"{address}/index.html?model=nowhere.onnx")
    wait(page, "document.getElementById('model').className === 'error'")
    assert "no model at nowhere.onnx (404)" in page.find_element("id", "model").text
    page.get(f"{address}/index.html")
    wait(page, "!document.getElementById('file').disabled")
    (tmp_path / "text.png").write_text("no picture")
    page.find_element("id", "file").send_keys(str(tmp_path / "text.png"))
    wait(page, "document.getElementById('status').className === 'error'")
    assert "text.png can't be used" in page.find_element("id", "status").text
