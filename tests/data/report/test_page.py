"""The report as a file: complete, self-contained, safe whatever the names, and its samples well chosen."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2")
from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.faults import KINDS, LEAKS, Fault, Reading
from maskline.data.formats.coco import coco_json
from maskline.data.report import page as report
from maskline.data.stats import statistics
from maskline.errors import OutputError, ParameterError

REAL = Path(__file__).parents[4] / "shared" / "data"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "\u202eevil",
    "\ud800",
    "&amp;",
]
VOID = {"meta", "link", "img", "br", "path"}


class Page(HTMLParser):
    """A page taken apart; complains of tags that do not fit."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def square(left: float, top: float, side: float) -> tuple[np.ndarray, ...]:
    corners = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
    return (np.asarray(corners, np.float64),)


def dataset(folder: Path, split: str = "train", images: int = 3, names: Sequence[str] = ("cat", "dog")) -> Dataset:
    """Each image has one instance of each class."""
    records: list[ImageRecord] = []
    annotations: list[Annotation] = []
    for number in range(images):
        path = folder / f"{split}{number}.png"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (20 * number, 90, 120)).save(path)
        records.append(ImageRecord(number, path.name, 64, 48))
        for label in range(len(names)):
            shape = square(5 + label % 40, 5, 8 + number)
            annotations.append(Annotation(len(annotations), number, label, shape))
    categories = [Category(label, name) for label, name in enumerate(names)]
    return Dataset(split, folder, records, annotations, categories, Path("annotations") / f"instance_{split}.json")


def written(reading: Reading, folder: Path, title: str = "A set", samples: int = 4) -> Page:
    report.write_report(reading, folder / "report.html", title=title, samples_per_class=samples)
    return Page(folder / "report.html")


def splits(folder: Path, names: Sequence[str] = ("cat", "dog")) -> dict[str, Dataset]:
    return {split: dataset(folder / split, split, count, names) for split, count in (("train", 3), ("val", 2))}


# ---- the page


def test_self_contained(tmp_path: Path) -> None:
    page = written(Reading(splits(tmp_path)), tmp_path)
    assert not {"script", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert all(link["href"].startswith("#") for link in page.all("a"))
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_sane_for_everyone(tmp_path: Path) -> None:
    faults = [Fault(code, "train", "train0.png", "wrong", 0) for code in KINDS]
    page = written(Reading(splits(tmp_path), faults), tmp_path)
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("img")
    assert all(image["alt"] for image in page.all("img"))
    assert all(int(image["width"]) > 0 < int(image["height"]) for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert "prefers-color-scheme: dark" in page.source
    assert "@media print" in page.source


def test_hostile_names(tmp_path: Path) -> None:
    found = splits(tmp_path, HOSTILE)
    faults = [Fault("record", "train", name, name, name, name) for name in HOSTILE]
    page = written(Reading(found, faults), tmp_path, title=HOSTILE[0])
    assert not page.all("script")
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    for name in HOSTILE:
        assert name.replace("\ud800", "?") in page.text
    assert "49" not in re.findall(r"\d+", page.text)


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ([], "Passed"),
        (["mask-empty"], "Passed, 1 warning"),
        (["record"], "1 error"),
        (["record", "leak", "mask-empty", "mask-empty"], "1 error, 3 warnings"),
    ],
)
def test_verdict(tmp_path: Path, codes: list[str], verdict: str) -> None:
    faults = [Fault(code, "train", "x.json", "wrong") for code in codes]
    page = written(Reading(splits(tmp_path), faults), tmp_path)
    assert f"A set {verdict} Images 5 Instances 10 Classes 2" in page.words


def test_numbers(tmp_path: Path) -> None:
    page = written(Reading(splits(tmp_path)), tmp_path)
    assert "Annotations from instance_train.json instance_val.json" in page.words
    assert "Images 3 2 Background images 0 0" in page.words
    assert "Crowd regions 0 0 Instances per image 2.0 2 to 2" in page.words
    assert "small 100%" in page.words
    assert "64 × 48 (3)" in page.words
    assert "cat train 3 val 2" in page.words


def test_bars_are_in_proportion(tmp_path: Path) -> None:
    page = written(Reading(splits(tmp_path, ["cat"])), tmp_path)
    shares = re.findall(r"width:calc\(\(100% - 3\.6rem\) \* ([\d.]+)\)", page.source)
    assert [float(share) for share in shares] == [1.0, 0.6667]


def test_known_numbers_are_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = splits(tmp_path)
    numbers = {split: statistics(part) for split, part in found.items()}
    monkeypatch.setattr(report, "statistics", None)
    report.write_report(Reading(found), tmp_path / "report.html", title="x", numbers=numbers)
    assert "Instances 10" in Page(tmp_path / "report.html").words


def test_nothing_to_report_on(tmp_path: Path) -> None:
    assert "Passed" in written(Reading({}), tmp_path).words
    empty = Dataset("val", tmp_path, [], [], [])
    assert "No instances in readable images" in written(Reading({"val": empty}), tmp_path).words


# ---- faults


def test_faults_by_kind_leaks_first_then_errors(tmp_path: Path) -> None:
    codes = ["image-twice", "leak", "mask-empty", "record", "leak", "image-listed-twice"]
    faults = [Fault(code, "train", "x.json", f"wrong {place}") for place, code in enumerate(codes)]
    page = written(Reading(splits(tmp_path), faults), tmp_path)
    kinds = [kind["id"] for kind in page.all("details")]
    assert kinds == ["leak", "record", "image-listed-twice", "mask-empty", "image-twice"]
    assert ["open" in kind for kind in page.all("details")] == [True, True, False, False, False]
    title = "The same image in two splits, which makes the evaluation too optimistic"
    assert f"2 warnings {title} What to do Keep it in one split, unless you overfit on purpose" in page.words
    assert "wrong 1 train · x.json wrong 4" in page.words
    clean = page.words.partition("Also checked, without faults: ")[2].partition(". ")[0].split("; ")
    assert clean == [kind.title for code, kind in KINDS.items() if code not in codes]


def test_a_few_warnings_are_open_without_errors(tmp_path: Path) -> None:
    codes = [code for code, kind in KINDS.items() if kind.severity == "warning" and code not in LEAKS]
    for count in (3, 4):
        faults = [Fault(code, "train", "x.json", "wrong") for code in codes[:count]]
        page = written(Reading(splits(tmp_path), faults), tmp_path)
        assert {"open" in kind for kind in page.all("details")} == {count == 3}


def test_many_faults_of_a_kind(tmp_path: Path) -> None:
    faults = [Fault("mask-empty", "train", "x.json", f"wrong ({number})", 0, number) for number in range(23)]
    page = written(Reading(splits(tmp_path), faults), tmp_path)
    assert "wrong (19)" in page.text
    assert "wrong (20)" not in page.text
    assert "and 3 more: see faults.json" in page.words
    assert "image 0 · annotation 19" in page.words


def test_images_of_faults(tmp_path: Path) -> None:
    found = splits(tmp_path)
    faults = [
        Fault("polygon-crossing", "train", "train1.png", "by annotation", 1, 2),
        Fault("no-mask", "train", "instance_train.json", "annotation that was left out", 1, 99),
        Fault("leak", "train", "train2.png", "by name", others=(("val", "val0.png"),)),
        Fault("record", "train", "instance_train.json", "of no image"),
        Fault("unknown-image", "train", "instance_train.json", "of an unknown image", 77, 5),
        Fault("image-missing", "train", "train0.png", "gone", 0),
        Fault("image-unreadable", "nowhere", "train0.png", "of an unknown split", 0),
        Fault("image-twice", "val", "val0.png", "twin gone", 0, others=(("val", "../x.png"), ("test", "a.png"))),
    ]
    page = written(Reading(found, faults), tmp_path)
    titles = [kind.title for kind in KINDS.values()]
    ends = [next((title for title in titles if image["alt"].endswith(f", {title}")), "") for image in page.all("img")]
    assert Counter(filter(None, ends)) == {
        KINDS["polygon-crossing"].title: 1,
        KINDS["no-mask"].title: 1,
        KINDS["leak"].title: 2,
        KINDS["image-twice"].title: 1,
    }
    assert "train · train2.png val · val0.png by name" in page.words


def test_faults_in_images_that_cant_be_opened(tmp_path: Path) -> None:
    found = splits(tmp_path)
    (tmp_path / "train" / "train0.png").write_bytes(b"junk")
    (tmp_path / "train" / "train1.png").unlink()
    faults = [Fault(code, "train", f"train{place}.png", "wrong", place) for place in (0, 1) for code in KINDS]
    page = written(Reading(found, faults), tmp_path)
    assert not [image for image in page.all("img") if "mask of" not in image["alt"]]
    assert len(page.all("details")) == len(KINDS)


# ---- samples


def samples(page: Page) -> list[tuple[str, int, str]]:
    """``(class, pixels, file)``."""
    found = [re.fullmatch(r"(.*), mask of (\d+) pixels in (.*)", image["alt"]) for image in page.all("img")]
    return [(match[1], int(match[2]), match[3]) for match in found if match]


def test_samples_of_each_class(tmp_path: Path) -> None:
    page = written(Reading(splits(tmp_path)), tmp_path, samples=2)
    assert samples(page) == [
        ("cat", 81, "train1.png"),
        ("cat", 64, "val0.png"),
        ("dog", 81, "train1.png"),
        ("dog", 64, "val0.png"),
    ]


def test_samples_are_the_same_each_time(tmp_path: Path) -> None:
    found = Reading(splits(tmp_path, [f"class {number}" for number in range(12)]))
    first, second = (written(found, tmp_path).all("img") for _ in range(2))
    assert first == second
    assert len(first) == 48


def test_samples_are_of_all_sizes_and_of_many_images(tmp_path: Path) -> None:
    found = dataset(tmp_path, images=4, names=["cat"])
    shapes = [(number % 4, 2 + number) for number in range(40)]
    annotations = [Annotation(n, image, 0, square(1, 1, side)) for n, (image, side) in enumerate(shapes)]
    chosen = samples(written(Reading({"train": replace(found, annotations=annotations)}), tmp_path))
    assert len({file for *_, file in chosen}) == 4
    sides = [round(pixels**0.5) for _, pixels, _ in chosen]
    assert sides == sorted(sides, reverse=True)
    for side, (low, high) in zip(sides, ((31, 42), (21, 32), (11, 22), (1, 12)), strict=True):
        assert low < side < high


def test_crowds_empty_masks_and_bad_images_are_not_samples(tmp_path: Path) -> None:
    found = dataset(tmp_path, images=4, names=["cat"])
    crowd, empty, *good = found.annotations
    annotations = [replace(crowd, crowd=True), replace(empty, segmentation=square(500, 500, 9)), *good]
    faults = [Fault("image-turned", "train", "train2.png", "turned", 2)]
    page = written(Reading({"train": replace(found, annotations=annotations)}, faults), tmp_path)
    assert [file for *_, file in samples(page)] == ["train3.png"]


def test_very_many_classes(tmp_path: Path) -> None:
    found = dataset(tmp_path, images=100, names=[f"class {number}" for number in range(700)])
    annotations = [a for a in found.annotations if a.category_id % 100 == a.image_id]
    page = written(Reading({"train": replace(found, annotations=annotations)}), tmp_path)
    assert len(samples(page)) == 700
    assert "and 580 more classes" in page.words
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


@pytest.mark.parametrize("count", [0, -1, 101, 2.5])
def test_unusable_number_of_samples(tmp_path: Path, count: int) -> None:
    with pytest.raises(ParameterError, match="samples_per_class"):
        written(Reading({}), tmp_path, samples=count)


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match=r"report\.html can't be written"):
        report.write_report(Reading({}), tmp_path / "file" / "report.html", title="x")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (0.2, "<1%"), (3, "3%"), (3.14, "3.1%"), (9.99, "10%"), (42.4, "42%")]
)
def test_percent(share: float, text: str) -> None:
    assert report._percent(share) == text


@pytest.mark.skipif(not REAL.exists(), reason="the real data sets are not here")
@pytest.mark.parametrize(("name", "classes"), [("nuclei", 1), ("coco_sample", 74)])
def test_real_sets(tmp_path: Path, name: str, classes: int) -> None:
    root = REAL / name
    found = {
        split: coco_json.read(root / "annotations" / f"instance_{split}.json", root / "images", split)[0]
        for split in ("train", "val")
    }
    page = written(Reading(found), tmp_path)
    assert len({label for label, *_ in samples(page)}) == classes
    assert (tmp_path / "report.html").stat().st_size < 6_000_000
