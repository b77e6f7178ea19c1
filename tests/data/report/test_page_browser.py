"""The report in a real browser: loads alone, shows every image, fits a phone, and masks can be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2")
pytest.importorskip("selenium")
from fixtures.browser import contrast, needs_browser, opened, show

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.faults import KINDS, Fault, Reading
from maskline.data.report import page as report
from maskline.render import PALETTE

pytestmark = needs_browser

PHONE, DESK = 390, 1280
LONG = "an_extremely_long_class_name_without_any_space_in_it_" * 3
GREY = (96, 96, 96)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as driver:
        yield driver


@pytest.fixture(scope="module", params=[2, 80])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of fault, on sets of 2 and of 80 classes."""
    folder = tmp_path_factory.mktemp("set")
    names = [LONG, "<script>window.hacked = 1</script>", *(f"class {n}" for n in range(2, request.param))]
    splits = {split: dataset(folder / split, split, names) for split in ("train", "val")}
    faults = [
        Fault(code, "train", "train0.png", f"fault {number} of {code}", 0, number, (("val", "val1.png"),))
        for code in KINDS
        for number in range(3)
    ]
    report.write_report(Reading(splits, faults), folder / "report.html", title="/a/long/path/" * 12)
    return folder / "report.html"


def dataset(folder: Path, split: str, names: list[str]) -> Dataset:
    """Grey images, each with a square of every fourth class."""
    folder.mkdir()
    images: list[ImageRecord] = []
    annotations: list[Annotation] = []
    for number in range(4):
        Image.new("RGB", (320, 240), GREY).save(folder / f"{split}{number}.png")
        images.append(ImageRecord(number, f"{split}{number}.png", 320, 240))
        for label in range(number % 2, len(names), 2):
            x, y = 12 + 30 * (label % 10), 12 + 28 * (label // 10)
            ring = np.asarray([(x, y), (x + 24, y), (x + 24, y + 24), (x, y + 24)], np.float64)
            annotations.append(Annotation(len(annotations), number, label, (ring,)))
    return Dataset(split, folder, images, annotations, [Category(n, name) for n, name in enumerate(names)])


def test_loads_alone_and_without_complaint(browser: Any, page: Path) -> None:
    events = show(browser, page)
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.compatMode") == "CSS1Compat"


def test_every_image_is_shown(browser: Any, page: Path) -> None:
    show(browser, page)
    opened = "document.querySelectorAll('details').forEach(e => e.open = true)"
    browser.execute_script(opened)
    browser.execute_async_script(
        "const done = arguments[0]; Promise.all([...document.images].map(i => i.decode())).then(() => done())"
    )
    sizes = browser.execute_script(
        "return [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.clientWidth, i.clientHeight])"
    )
    assert len(sizes) > 40
    assert all(min(size) > 0 for size in sizes)


def test_verdict_is_seen(browser: Any, page: Path) -> None:
    show(browser, page)
    (verdict,) = browser.find_elements("id", "verdict")
    errors = 3 * sum(kind.severity == "error" for kind in KINDS.values())
    assert verdict.text == f"{errors} errors, {3 * len(KINDS) - errors} warnings"
    assert verdict.is_displayed()
    assert verdict.location["y"] < 300


@pytest.mark.parametrize("width", [320, PHONE, DESK])
def test_nothing_overflows(browser: Any, page: Path, width: int) -> None:
    show(browser, page, width)
    browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    wide = browser.execute_script(
        "return [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > "
        "document.documentElement.clientWidth + 1 && !e.closest('.sr')).map(e => e.outerHTML.slice(0, 120))"
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [element for element in wide if "<bdi" not in element] == []  # long names are cut with an ellipsis


def test_masks_are_seen(browser: Any, page: Path) -> None:
    """In the middle of each sample: the colour of its class over the grey of the image, which is seen at the rim."""
    show(browser, page)
    found = browser.execute_async_script(
        """
        const done = arguments[0];
        const look = async image => {
          await image.decode();
          const canvas = document.createElement('canvas');
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          const pen = canvas.getContext('2d');
          pen.drawImage(image, 0, 0);
          const middle = pen.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
          return [image.closest('.gallery').querySelector('h3 bdi').textContent, [...middle].slice(0, 3)];
        };
        Promise.all([...document.querySelectorAll('.sample img')].map(look)).then(done);
        """
    )
    assert set(Counter(name for name, _ in found).values()) == {3, 4}  # none of train0.png, which has faults
    inside = [(name, np.asarray(colour)) for name, colour in found if name.startswith("class")]
    for name, colour in inside:
        label = int(name.split()[1])
        if 1 <= label % 10 <= 8 and 1 <= label // 10 <= 6:  # at the border views are not centred
            expected = 0.55 * np.asarray(GREY) + 0.45 * np.asarray(PALETTE[label % 20])
            assert np.abs(colour - expected).max() < 30
    for name, colour in found:
        assert np.abs(np.asarray(colour) - GREY).max() > 20, name


def test_both_schemes(browser: Any, page: Path) -> None:
    """Text can be read on its ground: a contrast of 4.5 at least (WCAG AA)."""
    script = """
        const numbers = text => text.match(/[\\d.]+/g).map(Number);
        const ground = e => { const c = numbers(getComputedStyle(e).backgroundColor);
          return (c.length < 4 || c[3] > .5) ? c : ground(e.parentElement); };
        return [...document.querySelectorAll('h1, h2, h3, p, td, th, dt, dd, .pill, .chips a, figcaption, .bar span')]
          .filter(e => e.checkVisibility()).map(e => [numbers(getComputedStyle(e).color), ground(e), e.className]);
    """
    grounds = []
    for scheme in ("light", "dark"):
        show(browser, page, scheme=scheme)
        for ink, ground, what in browser.execute_script(script):
            assert contrast(ink, ground) >= 4.5, (scheme, what, ink, ground)
        grounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, ground[4:-1].split(","))) for ground in grounds)
    assert light > 600
    assert dark < 150


def test_works_without_a_mouse(browser: Any, page: Path) -> None:
    """Tab reaches the folded parts, Enter opens them: the page has no script, so that is the browser's own doing."""
    show(browser, page)
    (closed,) = browser.find_elements("css selector", "details:not([open]) summary")[:1]
    before = len(browser.find_elements("css selector", "details[open]"))
    closed.send_keys("\ue007")
    assert len(browser.find_elements("css selector", "details[open]")) == before + 1
