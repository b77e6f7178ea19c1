"""Supervisely's projects, written by hand as its documentation describes them."""

from __future__ import annotations

import base64
import io
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.readings import (
    CASES,
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
from PIL import Image

from maskline.errors import DatasetError

WIDTH, HEIGHT = 60, 40
SQUARE = [[2, 3], [12, 3], [12, 9], [2, 9]]
# The example of Supervisely's documentation: a mask of 3 x 3 pixels, without (1, 1) and (2, 1).
EXAMPLE = (
    "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa44cOHAB6DqY0yORgq8YkAZBk9XP5d1"
    "TglNANAFGzA="
)
NO_PNG = base64.b64encode(zlib.compress(b"x")).decode()
EXAMPLE_MASK = np.asarray([[1, 1, 1], [1, 0, 0], [1, 1, 1]], np.uint8)


def figure(kind: str = "polygon", title: str = "cat", **shape: Any) -> dict[str, Any]:
    shape = shape or {"points": {"exterior": SQUARE, "interior": []}}
    return {"id": 1, "classId": 7, "description": "", "geometryType": kind, "tags": [], "classTitle": title, **shape}


def annotation(*figures: Any) -> dict[str, Any]:
    return {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": list(figures)}


def make(root: Path, *figures: Any, dataset: str = "ds0", name: str = "a.png") -> Path:
    save_image(root / dataset / "img" / name, WIDTH, HEIGHT)
    save_json(root / dataset / "ann" / f"{name}.json", annotation(*figures))
    classes = [
        {"title": "dog", "shape": "bitmap"},
        {"title": "cat", "shape": "polygon"},
        {"title": "x", "shape": "point"},
    ]
    save_json(root / "meta.json", {"classes": classes, "tags": []})
    return root


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def packed(image: Image.Image, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG", **options)
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def test_a_polygon_keeps_its_vertices(tmp_path: Path) -> None:
    reading = read(make(tmp_path, figure()))
    assert reading.format == "supervisely"
    assert rings(reading) == [SQUARE]
    assert reading.splits["all"].names == ["dog", "cat"]
    assert (one_mask(reading) == rectangle(3, 9, 2, 12)).all()


def test_holes_are_kept_to_the_pixel(tmp_path: Path) -> None:
    holes = [[[4, 4], [6, 4], [6, 6], [4, 6]], [[8, 5], [11, 5], [11, 8], [8, 8]]]
    mask = one_mask(read(make(tmp_path, figure(points={"exterior": SQUARE, "interior": holes}))))
    assert (mask == rectangle(3, 9, 2, 12) - rectangle(4, 6, 4, 6) - rectangle(5, 8, 8, 11)).all()


def test_parts_of_a_multipolygon_with_a_hole(tmp_path: Path) -> None:
    parts = [
        {"exterior": SQUARE, "interior": [[[4, 4], [6, 4], [6, 6], [4, 6]]]},
        {"exterior": [[30, 10], [40, 10], [40, 20], [30, 20]], "interior": []},
    ]
    mask = one_mask(read(make(tmp_path, figure("multipolygon", parts=parts))))
    assert (mask == rectangle(3, 9, 2, 12) - rectangle(4, 6, 4, 6) + rectangle(10, 20, 30, 40)).all()


def test_the_bitmap_of_the_documentation(tmp_path: Path) -> None:
    mask = one_mask(read(make(tmp_path, figure("bitmap", bitmap={"data": EXAMPLE, "origin": [20, 10]}))))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:13, 20:23] = EXAMPLE_MASK
    assert (mask == expected).all()


@pytest.mark.parametrize("mode", ["1", "L", "RGBA", "palette"])
def test_bitmaps_in_other_kinds_of_png(tmp_path: Path, mode: str) -> None:
    if mode == "RGBA":
        pixels = np.zeros((3, 3, 4), np.uint8)
        pixels[..., 3] = EXAMPLE_MASK * 255
        data = packed(Image.fromarray(pixels))
    elif mode == "palette":
        image = Image.fromarray(EXAMPLE_MASK)
        image.putpalette([255, 255, 255, 0, 0, 0])
        data = packed(image, transparency=0)
    else:
        data = packed(Image.fromarray(EXAMPLE_MASK * 255).convert(mode))
    mask = one_mask(read(make(tmp_path, figure("bitmap", bitmap={"data": data, "origin": [0, 0]}))))
    assert (mask[:3, :3] == EXAMPLE_MASK).all()
    assert mask.sum() == EXAMPLE_MASK.sum()


def test_a_bitmap_that_leaves_the_image_is_cut(tmp_path: Path) -> None:
    mask = one_mask(read(make(tmp_path, figure("bitmap", bitmap={"data": EXAMPLE, "origin": [-1, HEIGHT - 2]}))))
    assert (mask[-2:, :2] == EXAMPLE_MASK[:2, 1:]).all()
    assert mask.sum() == 2


@pytest.mark.parametrize(
    "shape",
    [
        {"kind": "rectangle", "points": {"exterior": [[1, 1], [9, 9]], "interior": []}},
        {"kind": "point", "points": {"exterior": [[1, 1]], "interior": []}},
        {"kind": "line", "points": {"exterior": [[1, 1], [9, 9], [9, 1]], "interior": []}},
        {"kind": "graph", "nodes": {"a": {"loc": [1, 1]}}},
        {"kind": "alpha_mask", "bitmap_": {}},
    ],
)
def test_what_has_no_mask_is_reported(tmp_path: Path, shape: dict[str, Any]) -> None:
    reading = read(make(tmp_path, figure(**shape), figure()))
    assert codes(reading) == ["no-mask"]
    assert shape["kind"] in reading.faults[0].what
    assert len(reading.splits["all"].annotations) == 1


def test_datasets_named_after_splits(tmp_path: Path) -> None:
    for dataset, name in (("train", "val.png"), ("val", "train.png"), ("test", "a.png")):
        make(tmp_path, figure(), dataset=dataset, name=name)
    reading = read(tmp_path)
    assert {s: [i.file_name for i in d.images] for s, d in reading.splits.items()} == {
        "train": ["val.png"],
        "val": ["train.png"],
        "test": ["a.png"],
    }
    assert reading.faults == []


def test_equal_names_in_two_datasets(tmp_path: Path) -> None:
    make(tmp_path, figure(), dataset="one")
    make(tmp_path, figure(), figure(), dataset="two")
    assert {name: len(found) for name, found in masks(read(tmp_path)).items()} == {
        "one/img/a.png": 1,
        "two/img/a.png": 2,
    }


def test_an_annotation_file_without_the_suffix_of_the_image(tmp_path: Path) -> None:
    make(tmp_path, figure())
    (tmp_path / "ds0" / "ann" / "a.png.json").rename(tmp_path / "ds0" / "ann" / "a.json")
    assert masks(read(tmp_path)).keys() == {"a.png"}


def test_a_background_image(tmp_path: Path) -> None:
    assert masks(read(make(tmp_path))) == {"a.png": []}


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ({"points": {"exterior": SQUARE[:2], "interior": []}}, "polygon-broken"),
        ({"points": {"exterior": SQUARE, "interior": 5}}, "polygon-broken"),
        ({"points": {"exterior": SQUARE, "interior": [[[1, "x"]]]}}, "polygon-broken"),
        ({"points": None}, "record"),
        ({"kind": "bitmap", "bitmap": {"data": "", "origin": [1, 1]}}, "rle-broken"),
        ({"kind": "bitmap", "bitmap": {"data": EXAMPLE[:40], "origin": [1, 1]}}, "rle-broken"),
        (
            {"kind": "bitmap", "bitmap": {"data": NO_PNG, "origin": [1, 1]}},
            "rle-broken",
        ),
        ({"kind": "bitmap", "bitmap": {"data": EXAMPLE, "origin": [1]}}, "rle-broken"),
        ({"title": " "}, "record"),
    ],
)
def test_a_figure_that_is_broken(tmp_path: Path, shape: dict[str, Any], code: str) -> None:
    reading = read(make(tmp_path, figure(**shape), figure()))
    assert codes(reading) == [code]
    assert len(reading.splits["all"].annotations) == 1


def test_mutated_figures_are_read_or_reported(tmp_path: Path) -> None:
    chance = random.Random(0)
    holes = [[[4, 4], [6, 4], [6, 6], [4, 6]]]
    figures = [
        figure(points={"exterior": SQUARE, "interior": holes}),
        figure("multipolygon", parts=[{"exterior": SQUARE, "interior": holes}]),
        figure("bitmap", bitmap={"data": EXAMPLE, "origin": [20, 10]}),
    ]
    make(tmp_path)
    for _ in range(300):
        save_json(tmp_path / "ds0" / "ann" / "a.png.json", annotation(*mutated(figures, chance)))
        assert read(tmp_path).listed["all"].annotations == 3


def test_mutated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(1)
    make(tmp_path)
    for _ in range(200):
        save_json(tmp_path / "ds0" / "ann" / "a.png.json", mutated(annotation(figure()), chance))
        try:
            read(tmp_path, "supervisely")
        except DatasetError as error:
            assert "\n" not in str(error)


def test_to_coco(tmp_path: Path) -> None:
    holes = [[[4, 4], [6, 4], [6, 6], [4, 6]]]
    figures = (
        figure(points={"exterior": SQUARE, "interior": holes}),
        figure("bitmap", "dog", bitmap={"data": EXAMPLE, "origin": [9, 9]}),
    )
    assert_same_in_coco(make(tmp_path / "project", *figures), tmp_path / "coco")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_the_case() -> None:
    reading = read(CASES / "supervisely")
    assert reading.faults == []
    assert reading.listed["all"] == (2, 26)
