"""The report of an evaluation: complete, safe against hostile names, and right in a browser."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures import made
from fixtures.browser import contrast, needs_browser, opened, show

from maskline.data.dataset import Annotation, Category, Dataset
from maskline.evaluate import evaluate
from maskline.evaluate.drawings import COLOURS, draw_both
from maskline.instances import Instances

HOSTILE = "<script>window.hacked = 1</script>"
LONG = "an_extremely_long_class_name_without_any_space_in_it_" * 3
GREY = 90


def names(count: int) -> list[str]:
    return [HOSTILE, LONG, *(f"class {n}" for n in range(2, count))][:count]


def written(folder: Path, count: int, images: int = 9) -> Path:
    """The report on a model with all kinds of errors, on a set with this number of classes."""
    data = made.dataset(folder, 2, images, most=12)
    rng = np.random.default_rng(0)
    annotations = [replace(a, category_id=int(rng.integers(count))) for a in data.annotations]
    os.rename(data.path(data.images[0]), folder / '"><img src=x onerror=1>.png')  # noqa: PTH104
    records = [replace(data.images[0], file_name='"><img src=x onerror=1>.png'), *data.images[1:]]
    (folder / records[4].file_name).unlink()
    categories = [Category(n, name) for n, name in enumerate(names(count))]
    data = Dataset("val", folder, records, annotations, categories, source=folder / "<i>val.json")
    queue = iter([image for image in records if image is not records[4]])

    def predict(pixels: np.ndarray) -> Instances:
        truth = data.instances(next(queue), crowd=False)
        kept = [n for n in range(len(truth)) if n % 4]
        masks = [(truth.masks[n], truth.window(n).top, truth.window(n).left) for n in kept]
        labels = [(int(truth.labels[n]) + (n % 5 == 0)) % count for n in kept]
        masks.append((np.ones((9, 9), np.uint8), 1, 1))
        return made.instances(masks, [*labels, 0], np.linspace(0.9, 0.4, len(masks)).tolist())

    evaluate(predict, data, folder / "out", title="/a/long/path/" * 12, labels=[*names(count), "foreign<b>"])
    return folder / "out" / "evaluate" / "report.html"


@pytest.fixture(scope="module", params=[1, 5, 80])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("set"), request.param)


def test_hostile_names_are_only_text(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<script" not in text and "<img src=x" not in text and "foreign<b>" not in text and "<i>val" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)


def test_everything_is_in_it(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count("<figcaption>Ground truth</figcaption>") == text.count("<figcaption>Prediction</figcaption>") >= 6
    for verdict in COLOURS:
        assert f'<i class="tone {verdict}">' in text  # in the legend, if nowhere else
    for part in ("figures", "classes", "confusion", "worst", "skipped"):
        assert f'<h2 id="{part}">' in text
    assert "image4.png" in text and "foreign&lt;b&gt;" in text
    assert len(page.read_bytes()) < 1_000_000


def test_reports_on_next_to_nothing(tmp_path: Path) -> None:
    """No object, no detection, no class: still a page."""
    data = made.dataset(tmp_path, 0, images=1)
    empty = made.instances([], [], [])
    bare = replace(data, annotations=[])
    evaluate(lambda _: empty, bare, tmp_path / "a")
    evaluate(lambda _: empty, replace(bare, categories=[]), tmp_path / "b")
    text = (tmp_path / "a" / "evaluate" / "report.html").read_text("utf-8")
    assert "No objects, so there is no curve" in text and "No errors at this threshold" in text
    assert "The data set has no class" in (tmp_path / "b" / "evaluate" / "report.html").read_text("utf-8")


def test_many_classes_are_folded(tmp_path: Path) -> None:
    data = made.dataset(tmp_path, 0, images=2)
    square = made.placed(np.ones((5, 5), np.uint8), 3, 3)
    annotations = [Annotation(n, 1, n, square) for n in range(200)]
    data = replace(data, annotations=annotations, categories=[Category(n, f"c{n}") for n in range(200)])
    evaluate(lambda _: made.instances([], [], []), data, tmp_path / "out")
    text = (tmp_path / "out" / "evaluate" / "report.html").read_text("utf-8")
    assert "and 100 more classes" in text and 'class="heat"' not in text


# ---- images


def colour_at(source: str, x: int, y: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return np.asarray(pixels[y, x], int)


def test_verdicts_have_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((*made.SIZE, 3), GREY, np.uint8))
    square = made.placed(np.ones((20, 20), np.uint8), 10, 30)
    for verdict in ("missed", "false", "confused", "poor"):
        both = draw_both(str(path), made.SIZE, [(square, verdict)], [])
        assert both is not None
        truth, found = both
        assert (truth.width, truth.height) == (240, 180)  # three times
        red, green, blue = bytes.fromhex(COLOURS[verdict][1:])
        expected = 0.58 * GREY + 0.42 * np.asarray([blue, green, red])
        assert np.abs(colour_at(truth.source, 120, 60) - expected).max() < 14, verdict
        assert np.abs(colour_at(found.source, 120, 60) - GREY).max() < 6
    both = draw_both(str(path), made.SIZE, [(square, "found")], [])
    assert both is not None and np.abs(colour_at(both[0].source, 120, 60) - GREY).max() < 6  # outlined only
    assert draw_both(str(tmp_path / "none.png"), made.SIZE, [], []) is None
    assert draw_both(str(path), (61, 80), [], []) is None


# ---- in a browser

pytest.importorskip("selenium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as driver:
        yield driver


def show_all(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> list[dict[str, Any]]:
    """Open a page with all that is folded; returns what the browser did meanwhile."""
    events = show(browser, page, width, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    return events


@needs_browser
def test_loads_alone_and_shows_every_image(browser: Any, page: Path) -> None:
    events = show_all(browser, page)
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hacked") is None
    sizes = browser.execute_async_script(
        "const done = arguments[0]; Promise.all([...document.images].map(i => i.decode())).then(() => "
        "done([...document.images].map(i => [i.naturalWidth, i.clientWidth, i.clientHeight])))"
    )
    assert len(sizes) >= 10 and all(min(size) > 0 for size in sizes)


@needs_browser
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows(browser: Any, page: Path, width: int) -> None:
    show_all(browser, page, width)
    wide = browser.execute_script(
        "return [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > "
        "document.documentElement.clientWidth + 1 && !e.closest('.sr, .scroll, bdi'))"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert wide == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@needs_browser
def test_text_can_be_read_in_both_schemes(browser: Any, page: Path) -> None:
    """A contrast of 4.5 at least (WCAG AA), also in the cells of the confusion matrix."""
    script = """
        const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const over = colours => { pen.clearRect(0, 0, 1, 1);
          for (const c of colours) { pen.fillStyle = c; pen.fillRect(0, 0, 1, 1); }
          return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const grounds = e => e ? [...grounds(e.parentElement), getComputedStyle(e).backgroundColor] : [];
        return [...document.querySelectorAll('h1, h2, h3, p, td, th, dt, dd, li, figcaption, summary, .muted')]
          .filter(e => e.checkVisibility() && e.textContent.trim())
          .map(e => [over([getComputedStyle(e).color]), over(grounds(e)), e.outerHTML.slice(0, 80)]);
    """
    for scheme in ("light", "dark"):
        show_all(browser, page, scheme=scheme)
        looked = browser.execute_script(script)
        assert len(looked) > 60
        for ink, ground, what in looked:
            assert contrast(ink, ground) >= 4.5, (scheme, what, ink, ground)
