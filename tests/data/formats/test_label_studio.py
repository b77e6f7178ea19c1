"""Label Studio's JSON and JSON-MIN, written by hand as its documentation describes them."""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures.narrow import polygons
from fixtures.readings import (
    CASES,
    SHARED,
    assert_same_in_coco,
    codes,
    masks,
    mutated,
    one_mask,
    read,
    rings,
    save_image,
    save_json,
)

from maskline.errors import DatasetError

WIDTH, HEIGHT = 50, 40
SQUARE = [[10, 10], [30, 10], [30, 20], [10, 20]]  # percent: x 5 to 15, y 4 to 8
SQUARE_MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
SQUARE_MASK[4:8, 5:15] = 1


def result(kind: str = "polygonlabels", label: str | None = "cat", **value: Any) -> dict[str, Any]:
    value = value or {"points": SQUARE, "closed": True}
    labels = {} if label is None else {kind: [label]}
    return {
        "id": f"r{random.random()}",
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, **labels},
    }


def annotation(*results: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False, **more}


def task(*annotations: Any, image: str = "/data/upload/1/0a1b2c3d-a.png", **more: Any) -> dict[str, Any]:
    return {
        "id": 5,
        "annotations": list(annotations),
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        "file_upload": image.rpartition("/")[2],
        "meta": {},
        "project": 1,
        **more,
    }


def make(root: Path, *tasks: Any, images: tuple[str, ...] = ("a.png",), file: str = "project-1.json") -> Path:
    for name in images:
        save_image(root / "images" / name, WIDTH, HEIGHT)
    save_json(root / file, list(tasks))
    return root


class Bits:
    """Label Studio's run lengths, group by group, as the JavaScript package rle-pack defines them."""

    WIDTHS = (3, 4, 8, 16)

    def __init__(self, total: int, word: int = 8) -> None:
        self.word = word
        self.text = f"{total:032b}{word - 1:05b}" + "".join(f"{width - 1:04b}" for width in self.WIDTHS)

    def repeated(self, value: int, count: int, width: int) -> Bits:
        self.text += f"1{width:02b}{count - 1:0{self.WIDTHS[width]}b}{value:0{self.word}b}"
        return self

    def literal(self, values: list[int], width: int = 0) -> Bits:
        self.text += f"0{width:02b}{len(values) - 1:0{self.WIDTHS[width]}b}"
        self.text += "".join(f"{value:0{self.word}b}" for value in values)
        return self

    def bytes(self) -> list[int]:
        padded = self.text + "0" * (-len(self.text) % 8)
        return [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]


def brush(rle: list[int], **more: Any) -> dict[str, Any]:
    return result("brushlabels", format="rle", rle=rle) | more


# ---- regions


def test_a_polygon_in_percent(tmp_path: Path) -> None:
    reading = read(make(tmp_path, task(annotation(result()))))
    assert reading.format == "labelstudio"
    assert rings(reading) == [[[5, 4], [15, 4], [15, 8], [5, 8]]]
    assert (one_mask(reading) == SQUARE_MASK).all()
    assert reading.splits["all"].names == ["cat"]


def test_an_ellipse_that_is_turned(tmp_path: Path) -> None:
    """By 90 degrees: 15 and 4 pixels around (25, 20)."""
    value: dict[str, Any] = {"x": 50, "y": 50, "radiusX": 30, "radiusY": 10, "rotation": 90}
    mask = one_mask(read(make(tmp_path, task(annotation(result("ellipselabels", **value))))))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert (mask != (((x - 25) / 4) ** 2 + ((y - 20) / 15) ** 2 < 1)).sum() <= 10


def test_a_brush(tmp_path: Path) -> None:
    pixels = WIDTH * HEIGHT
    bits = Bits(4 * pixels).repeated(0, 4 * (4 * WIDTH + 5), 3)  # up to (5, 4), transparent
    bits.literal([255, 0, 0, 255, 255, 0, 0, 7], 1)  # two pixels in color, one nearly transparent
    bits.literal([9, 9, 9, 0])  # a pixel that has a color but is transparent
    bits.repeated(200, 16, 1)  # four gray pixels
    bits.repeated(0, 4 * (pixels - 4 * WIDTH - 12), 3)
    mask = one_mask(read(make(tmp_path, task(annotation(brush(bits.bytes()))))))
    assert np.argwhere(mask).tolist() == [[4, 5], [4, 6], [4, 8], [4, 9], [4, 10], [4, 11]]


def test_a_brush_in_long_runs(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 300, 200)
    bits = Bits(4 * 300 * 200).repeated(255, 1 << 16, 3).repeated(0, 1 << 16, 3).repeated(0, 1 << 16, 3)
    bits.repeated(0, 4 * 300 * 200 - 3 * (1 << 16) - 256, 3).repeated(1, 256, 2)
    found = brush(bits.bytes(), original_width=300, original_height=200)
    mask = one_mask(read(make(tmp_path, task(annotation(found)), images=())))
    assert mask.ravel()[: 1 << 14].all()
    assert mask.ravel()[-64:].all()
    assert mask.sum() == (1 << 14) + 64


@pytest.mark.parametrize(
    "rle",
    [
        [],
        [0, 0, 0],
        Bits(12).repeated(1, 12, 2).bytes(),
        Bits(4 * WIDTH * HEIGHT).repeated(0, 200, 2).bytes(),
        Bits(4 * WIDTH * HEIGHT).repeated(0, 4 * WIDTH * HEIGHT + 1, 3).bytes(),
        Bits(4 * WIDTH * HEIGHT).literal([1] * 200, 2).bytes()[:-30],
        [300],
        ["x"],
        "abc",
        None,
    ],
)
def test_a_brush_that_is_broken(tmp_path: Path, rle: Any) -> None:
    reading = read(make(tmp_path, task(annotation(brush(rle), result()))))
    assert codes(reading) == ["rle-broken"]
    assert len(reading.splits["all"].annotations) == 1


@pytest.mark.parametrize("size", [(1 << 16, 1 << 16), (0, 5), (HEIGHT // 2, WIDTH)])
def test_a_brush_of_another_size(tmp_path: Path, size: tuple[int, int]) -> None:
    rle = Bits(4 * (HEIGHT // 2) * WIDTH).repeated(0, 2 * HEIGHT * WIDTH, 3).bytes()
    found = brush(rle, original_height=size[0], original_width=size[1])
    assert codes(read(make(tmp_path, task(annotation(found))))) == ["rle-broken"]


def test_a_bitmask(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)  # black on a transparent background
    pixels[..., 3] = SQUARE_MASK * 255
    _, data = cv2.imencode(".png", pixels)
    url = "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
    mask = one_mask(read(make(tmp_path, task(annotation(result("bitmasklabels", imageDataURL=url))))))
    assert (mask == SQUARE_MASK).all()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("rectanglelabels", {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": 0}),
        ("keypointlabels", {"x": 1, "y": 1, "width": 0.3}),
        ("vectorlabels", {"vertices": [{"x": 1, "y": 1}], "closed": False}),
    ],
)
def test_what_has_no_mask_is_reported(tmp_path: Path, kind: str, value: dict[str, Any]) -> None:
    reading = read(make(tmp_path, task(annotation(result(kind, **value), result()))))
    assert codes(reading) == ["no-mask"]
    assert len(reading.splits["all"].annotations) == 1


def test_a_polygon_that_is_not_closed_is_reported(tmp_path: Path) -> None:
    reading = read(make(tmp_path, task(annotation(result(points=SQUARE, closed=False)))))
    assert codes(reading) == ["polygon-broken"]


def test_a_region_drawn_on_the_image_turned_is_reported(tmp_path: Path) -> None:
    reading = read(make(tmp_path, task(annotation(result() | {"image_rotation": 90}))))
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("record", 1)]


def test_labels_of_a_tag_of_their_own(tmp_path: Path) -> None:
    shape = result("polygon", None) | {"id": "one"}
    labels = result("labels", "dog", points=SQUARE) | {"id": "one"}
    text = {"id": "one", "type": "textarea", "to_name": "image", "from_name": "t", "value": {"text": ["x"]}}
    reading = read(make(tmp_path, task(annotation(text, shape, labels))))
    assert [name for name, _ in masks(reading)["a.png"]] == ["dog"]
    assert reading.faults == []


def test_a_choice_for_each_region_is_its_class(tmp_path: Path) -> None:
    shape = result("polygon", None) | {"id": "one"}
    choice = {"id": "one", "type": "choices", "to_name": "image", "from_name": "c", "value": {"choices": ["crack"]}}
    assert [name for name, _ in masks(read(make(tmp_path, task(annotation(choice, shape)))))["a.png"]] == ["crack"]


def test_relations_and_choices_of_the_image_are_not_regions(tmp_path: Path) -> None:
    relation = {"from_id": "a", "to_id": "b", "type": "relation", "direction": "right"}
    choice = {"type": "choices", "to_name": "image", "from_name": "c", "value": {"choices": ["blurred"]}}
    reading = read(make(tmp_path, task(annotation(relation, choice, result()))))
    assert reading.faults == []
    assert reading.listed["all"] == (1, 1)


def test_a_region_without_a_label_is_reported(tmp_path: Path) -> None:
    reading = read(make(tmp_path, task(annotation(result(label=None), result()))))
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("record", 1)]


def test_several_labels(tmp_path: Path) -> None:
    reading = read(make(tmp_path, task(annotation(result(points=SQUARE, polygonlabels=["cat", "old"], label=None)))))
    (found,) = reading.splits["all"].annotations
    assert found.extra == {"attributes": {"labels": ["cat", "old"]}}
    assert reading.splits["all"].names == ["cat"]


# ---- tasks


def test_of_several_annotations_the_latest_counts(tmp_path: Path) -> None:
    old = annotation(result(), result(), updated_at="2024-01-02T00:00:00Z")
    new = annotation(result(label="dog"), updated_at="2024-01-03T00:00:00Z")
    reading = read(make(tmp_path, task(new, old)))
    assert [name for name, _ in masks(reading)["a.png"]] == ["dog"]
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("set-aside", 2)]
    assert reading.errors == []


def test_the_ground_truth_counts_before_the_latest(tmp_path: Path) -> None:
    old = annotation(result(label="dog"), updated_at="2024-01-02T00:00:00Z", ground_truth=True)
    new = annotation(result(), updated_at="2024-01-03T00:00:00Z")
    assert [name for name, _ in masks(read(make(tmp_path, task(old, new))))["a.png"]] == ["dog"]


def test_cancelled_annotations_predictions_and_tasks_without_any(tmp_path: Path) -> None:
    tasks = [
        task(annotation(result(), was_cancelled=True), annotation(result())),
        task(annotation(result(), result(), was_cancelled=True), image="b.png"),
        task(image="c.png", predictions=[{"result": [result()]}]),
    ]
    reading = read(make(tmp_path, *tasks, images=("a.png", "b.png", "c.png")))
    assert masks(reading).keys() == {"a.png"}
    (fault, unlisted) = reading.faults
    assert (fault.code, fault.lost) == ("set-aside", 3)
    assert "2 tasks without an annotation, 2 cancelled annotations" in fault.what
    assert "1 predictions and drafts" in fault.what
    assert unlisted.code == "image-unlisted"


def test_an_annotation_without_regions_is_a_background_image(tmp_path: Path) -> None:
    assert masks(read(make(tmp_path, task(annotation())))) == {"a.png": []}


def test_tasks_without_an_image_are_reported(tmp_path: Path) -> None:
    span = {"id": "x", "type": "labels", "to_name": "text", "value": {"start": 1, "end": 5, "labels": ["name"]}}
    text = task(annotation(span, {**span, "id": "y"})) | {"data": {"text": "Hello"}}
    reading = read(make(tmp_path, text, task(annotation(result()))))
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("record", 2)]
    assert reading.listed["all"] == (2, 3)


def test_a_task_with_two_images_whose_tags_have_the_names_of_the_keys(tmp_path: Path) -> None:
    regions = [result() | {"to_name": "before"}, result(label="dog") | {"to_name": "after"}]
    pair = task(annotation(*regions)) | {"data": {"before": "a.png", "after": "b.png"}}
    reading = read(make(tmp_path, pair, images=("a.png", "b.png")))
    assert {name: [label for label, _ in found] for name, found in masks(reading).items()} == {
        "a.png": ["cat"],
        "b.png": ["dog"],
    }


def test_a_task_with_two_indistinguishable_images(tmp_path: Path) -> None:
    pair = task(annotation(result(), result())) | {"data": {"before": "a.png", "after": "b.png"}}
    reading = read(make(tmp_path, pair, images=("a.png", "b.png")))
    assert reading.faults[0].code == "record"
    assert reading.faults[0].lost == 2


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/data/upload/1/0a1b2c3d-a.png", "images/0a1b2c3d-a.png"),
        ("/data/upload/1/0a1b2c3d-a.png", "images/a.png"),
        ("/data/local-files/?d=set/images/a.png", "images/a.png"),
        ("s3://bucket/folder/a.png", "x/a.png"),
        ("https://host/folder/a.png?X-Amz-Expires=5", "images/a.png"),
        ("http://localhost:8080/data/upload/1/a%20b.png", "images/a b.png"),
        ("upload://1/a.png", "deep/er/a.png"),
    ],
)
def test_names_of_images(tmp_path: Path, name: str, file: str) -> None:
    save_image(tmp_path / file, WIDTH, HEIGHT)
    reading = read(make(tmp_path, task(annotation(result()), image=name), images=()))
    dataset = reading.splits["all"]
    assert dataset.path(dataset.images[0]) == tmp_path / file
    assert reading.faults == []


def test_the_size_of_the_image_counts_before_the_one_stated(tmp_path: Path) -> None:
    stated = result() | {"original_width": HEIGHT, "original_height": WIDTH}  # as stored, before its EXIF orientation
    assert rings(read(make(tmp_path, task(annotation(stated))))) == [[[5, 4], [15, 4], [15, 8], [5, 8]]]


def test_without_the_image_the_stated_size_counts(tmp_path: Path) -> None:
    reading = read(make(tmp_path, task(annotation(result())), images=()))
    assert rings(reading) == [[[5, 4], [15, 4], [15, 8], [5, 8]]]


def test_a_single_task_and_completions_of_old_versions(tmp_path: Path) -> None:
    old = task(image="b.png")
    old["completions"] = [annotation(result())]
    del old["annotations"]
    make(tmp_path, old, images=("a.png", "b.png"), file="old.json")
    save_json(tmp_path / "single.json", task(annotation(result())))
    assert {name: len(found) for name, found in masks(read(tmp_path)).items()} == {"a.png": 1, "b.png": 1}


# ---- JSON-MIN


def flat(**more: Any) -> dict[str, Any]:
    region = {"points": SQUARE, "closed": True, "polygonlabels": ["cat"], "original_width": WIDTH}
    region["original_height"] = HEIGHT
    return {
        "image": "/data/upload/1/a.png",
        "id": 1,
        "label": [region],
        "annotator": 1,
        "annotation_id": 1,
        "created_at": "2024-01-01T00:00:00Z",
        "updated_at": "2024-01-01T00:00:00Z",
        "lead_time": 3.5,
        **more,
    }


def test_json_min(tmp_path: Path) -> None:
    reading = read(make(tmp_path, flat(choice="blurred.png?"), file="min.json"))
    assert (one_mask(reading) == SQUARE_MASK).all()
    assert reading.splits["all"].names == ["cat"]


def test_json_min_with_two_annotators(tmp_path: Path) -> None:
    label = [{**flat()["label"][0], "polygonlabels": ["dog"]}]
    reading = read(make(tmp_path, flat(updated_at="2024-01-02T00:00:00Z", label=label), flat(), file="min.json"))
    assert [name for name, _ in masks(reading)["a.png"]] == ["dog"]
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("set-aside", 1)]


def test_json_min_without_a_region_is_a_background_image(tmp_path: Path) -> None:
    empty = flat(id=2, image="b.png")
    del empty["label"]
    reading = read(make(tmp_path, flat(), empty, images=("a.png", "b.png"), file="min.json"))
    assert {name: len(found) for name, found in masks(reading).items()} == {"a.png": 1, "b.png": 0}


# ---- what is wrong


def test_mutated_values_are_read_or_reported(tmp_path: Path) -> None:
    chance = random.Random(0)
    rle = Bits(4 * WIDTH * HEIGHT).repeated(255, 4 * WIDTH * HEIGHT, 3).bytes()
    results = [result(), brush(rle), result("ellipselabels", x=50, y=50, radiusX=30, radiusY=10, rotation=0)]
    make(tmp_path)
    for _ in range(400):
        values = mutated([found["value"] for found in results], chance)
        changed = [{**found, "value": value} for found, value in zip(results, values, strict=True)]
        save_json(tmp_path / "project-1.json", [task(annotation(*changed, result()))])
        assert read(tmp_path).listed["all"].annotations == 4


def test_mutated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(1)
    make(tmp_path)
    for number in range(400):
        content = [flat()] if number % 2 else [task(annotation(result()), predictions=[{}])]
        save_json(tmp_path / "project-1.json", mutated(content, chance))
        try:
            read(tmp_path, "labelstudio")
        except DatasetError as error:
            assert "\n" not in str(error)


# ---- other formats


def test_to_coco(tmp_path: Path) -> None:
    rle = Bits(4 * WIDTH * HEIGHT).repeated(255, 4 * WIDTH, 3).repeated(0, 4 * WIDTH * (HEIGHT - 1), 3).bytes()
    root = make(tmp_path / "set", task(annotation(result(), brush(rle), result(label="dog"))))
    assert_same_in_coco(root, tmp_path / "coco")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_polygons_of_coco_written_as_label_studio() -> None:
    reading = read(CASES / "label_studio")
    assert reading.faults == []
    original = read(SHARED / "data" / "coco_sample")
    expected = {
        (image.file_name.rpartition("/")[2], tuple(map(tuple, np.asarray(ring).round(4).tolist())))
        for dataset in original.splits.values()
        for image in dataset.images
        for annotation in dataset.of(image)
        for ring in (() if isinstance(annotation.segmentation, str) else annotation.segmentation)
    }
    found = reading.splits["all"]
    assert len(found.annotations) == 48
    for annotation in found.annotations:
        name = found.by_id[annotation.image_id].file_name.partition("-")[2]
        for ring in polygons(annotation):
            assert (name, tuple(map(tuple, np.round(ring, 4).tolist()))) in expected


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_the_case_of_json_min() -> None:
    reading = read(CASES / "label_studio_min")
    assert reading.faults == []
    assert reading.listed["all"] == (1, 1)
