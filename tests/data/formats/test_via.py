"""VIA's projects and exports, written by hand as VIA 1 and 2 write them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

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

from maskline.data import convert
from maskline.data.formats import via
from maskline.errors import DatasetError, ParameterError

WIDTH, HEIGHT = 60, 40
SQUARE = {"name": "polygon", "all_points_x": [2, 12, 12, 2], "all_points_y": [3, 3, 9, 9]}


def region(shape: Any = SQUARE, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def export(*regions: Any, name: str = "a.png") -> dict[str, Any]:
    return {f"{name}123": {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}}


def make(root: Path, content: Any, file: str = "via_region_data.json", images: tuple[str, ...] = ("a.png",)) -> Path:
    for name in images:
        save_image(root / name, WIDTH, HEIGHT)
    save_json(root / file, content)
    return root


def test_a_polygon_keeps_its_vertices(tmp_path: Path) -> None:
    reading = read(make(tmp_path, export(region({**SQUARE, "all_points_x": [2.25, 12, 12, 2]}, label="cat"))))
    assert reading.format == "via"
    assert rings(reading) == [[[2.25, 3], [12, 3], [12, 9], [2, 9]]]
    assert masks(reading)["a.png"][0][0] == "cat"


def test_the_pixels_of_a_polygon(tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:9, 2:12] = 1
    assert (one_mask(read(make(tmp_path, export(region(label="cat"))))) == expected).all()


def test_a_circle_and_an_ellipse_that_is_turned(tmp_path: Path) -> None:
    circle = {"name": "circle", "cx": 20, "cy": 20, "r": 10}
    upright = {"name": "ellipse", "cx": 30, "cy": 20, "rx": 20, "ry": 5}
    turned = {**upright, "theta": np.pi / 2}
    reading = read(make(tmp_path, export(region(circle, c="x"), region(upright, c="x"), region(turned, c="x"))))
    (_, round_mask), (_, wide), (_, high) = masks(reading)["a.png"]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert (round_mask != ((x - 20) ** 2 + (y - 20) ** 2 < 100)).sum() <= 8
    assert (wide != (((x - 30) / 20) ** 2 + ((y - 20) / 5) ** 2 < 1)).sum() <= 12
    assert (high != (((x - 30) / 5) ** 2 + ((y - 20) / 20) ** 2 < 1)).sum() <= 12


@pytest.mark.parametrize(
    "shape",
    [
        {"name": "rect", "x": 1, "y": 1, "width": 9, "height": 9},
        {"name": "point", "cx": 1, "cy": 1},
        {"name": "polyline", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]},
    ],
)
def test_what_has_no_mask_is_reported(tmp_path: Path, shape: dict[str, Any]) -> None:
    reading = read(make(tmp_path, export(region(shape, label="cat"), region(label="cat"))))
    assert codes(reading) == ["no-mask"]
    assert shape["name"] in reading.faults[0].what
    assert len(reading.splits["all"].annotations) == 1


def test_a_project_lists_its_images_inside(tmp_path: Path) -> None:
    project = {
        "_via_settings": {"ui": {}},
        "_via_img_metadata": export(region(label="cat")) | export(name="b.png"),
        "_via_attributes": {"region": {"label": {"type": "text"}}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": ["a.png123", "b.png123"],
    }
    reading = read(make(tmp_path, project, "project.json", ("a.png", "b.png")))
    assert {name: len(found) for name, found in masks(reading).items()} == {"a.png": 1, "b.png": 0}


def test_regions_of_via_1_are_numbered(tmp_path: Path) -> None:
    content = export()
    content["a.png123"] |= {"regions": {"0": region(), "1": region()}, "fileref": "", "base64_img_data": ""}
    reading = read(make(tmp_path, content))
    assert [name for name, _ in masks(reading)["a.png"]] == ["object", "object"]
    assert codes(reading) == ["no-class"]
    assert reading.errors == []
    assert "2 regions" in reading.faults[0].what


def test_the_layout_of_the_balloon_tutorial(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make(tmp_path / "balloon" / split, export(region(name="balloon")))
    reading = read(tmp_path)
    assert {s: len(d.annotations) for s, d in reading.splits.items()} == {"train": 1, "val": 1}
    train, val = (reading.splits[split] for split in ("train", "val"))
    assert train.path(train.images[0]) == tmp_path / "balloon" / "train" / "a.png"
    assert val.path(val.images[0]) == tmp_path / "balloon" / "val" / "a.png"
    assert reading.faults == []


def test_csv(tmp_path: Path) -> None:
    header = "filename file_size file_attributes region_count region_id region_shape_attributes region_attributes"
    rows = [
        ["a.png", 1, "{}", 2, 0, json.dumps(SQUARE), json.dumps({"class": "cat"})],
        ["a.png", 1, "{}", 2, 1, json.dumps({"name": "rect", "x": 1}), json.dumps({"class": "dog"})],
        ["b.png", 1, "{}", 0, 0, "{}", "{}"],
    ]
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name, WIDTH, HEIGHT)
    with (tmp_path / "via_export_csv.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(), *rows])
    reading = read(tmp_path)
    assert [name for name, _ in masks(reading)["a.png"]] == ["cat"]
    assert masks(reading)["b.png"] == []
    assert codes(reading) == ["no-mask"]


# ---- classes


def test_the_class_is_the_attribute_called_so_among_several(tmp_path: Path) -> None:
    reading = read(
        make(tmp_path, export(region(quality={"good": True}, Class="cat"), region(quality="x", Class="dog")))
    )
    assert [name for name, _ in masks(reading)["a.png"]] == ["cat", "dog"]
    assert reading.splits["all"].annotations[1].extra == {"attributes": {"quality": "x"}}


def test_the_class_is_the_only_attribute(tmp_path: Path) -> None:
    reading = read(make(tmp_path, export(region(defect={"crack": True, "hole": False}), region(defect="hole"))))
    assert [name for name, _ in masks(reading)["a.png"]] == ["crack", "hole"]


def test_a_region_without_the_attribute_is_an_error(tmp_path: Path) -> None:
    reading = read(make(tmp_path, export(region(label="cat"), region(label=""), region(label={"a": True, "b": True}))))
    assert codes(reading) == ["record", "record"]
    assert sum(fault.lost for fault in reading.faults) == 2


def test_attributes_of_which_none_is_the_class(tmp_path: Path) -> None:
    reading = read(make(tmp_path, export(region(color="red", defect="hole"))))
    assert [name for name, _ in masks(reading)["a.png"]] == ["object"]
    assert codes(reading) == ["no-class"]


# ---- what is wrong


def test_an_image_that_is_missing_takes_its_regions_with_it_and_this_is_counted(tmp_path: Path) -> None:
    content = export(region(label="cat")) | export(region(label="cat"), region(label="cat"), name="gone.png")
    reading = read(make(tmp_path, content))
    assert codes(reading) == ["image-missing"]
    assert reading.faults[0].lost == 2
    assert reading.listed["all"] == (2, 3)


@pytest.mark.parametrize(
    "shape",
    [
        {**SQUARE, "all_points_x": [1, 2, 3]},
        {**SQUARE, "all_points_x": [1, 2, 3, "x"]},
        {**SQUARE, "all_points_x": [1, 2, 3, float("nan")]},
        {**SQUARE, "all_points_y": [5, 5, 5, 5]},
        {"name": "polygon"},
        {"name": "circle", "cx": 1, "cy": 1, "r": 0},
        {"name": "ellipse", "cx": 1, "cy": 1, "rx": 3},
    ],
)
def test_outlines_that_enclose_nothing(tmp_path: Path, shape: dict[str, Any]) -> None:
    reading = read(make(tmp_path, export(region(shape, label="cat"), region(label="cat"))))
    assert codes(reading) == ["polygon-broken"]
    assert len(reading.splits["all"].annotations) == 1


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    root = make(tmp_path, export(region(label="cat")))
    path = root / "via_region_data.json"
    path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    with pytest.raises(DatasetError, match="not readable JSON"):
        read(root)
    make(root, export(region(label="cat")), "more.json")
    assert codes(read(root)) == ["file"]


def test_mutated_regions_are_read_or_reported(tmp_path: Path) -> None:
    chance = random.Random(0)
    shapes = [
        SQUARE,
        {"name": "circle", "cx": 9, "cy": 9, "r": 5},
        {"name": "ellipse", "cx": 9, "cy": 9, "rx": 5, "ry": 3},
    ]
    for _ in range(300):
        regions = [region(shape, label="cat") for shape in shapes]
        content = export(*mutated(regions, chance), region(label="cat"))
        make(tmp_path, content, images=())
        save_image(tmp_path / "a.png", WIDTH, HEIGHT)
        assert read(tmp_path).listed["all"].annotations == 4


def test_mutated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(1)
    make(tmp_path, {})
    for _ in range(300):
        save_json(tmp_path / "via_region_data.json", mutated(export(region(label="cat")), chance))
        try:
            read(tmp_path, "via")
        except DatasetError as error:
            assert "\n" not in str(error)


# ---- other formats


def test_to_coco(tmp_path: Path) -> None:
    assert_same_in_coco(make(tmp_path / "via", export(region(label="cat"), region(label="dog"))), tmp_path / "coco")


def test_it_can_not_be_written(tmp_path: Path) -> None:
    root = make(tmp_path / "via", export(region(label="cat")))
    with pytest.raises(ParameterError, match="via"):
        convert.convert(root, tmp_path / "new", "via")
    assert not hasattr(via, "write")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_polygons_of_coco_written_as_via() -> None:
    reading = read(CASES / "via")
    assert reading.faults == []
    original = read(SHARED / "data" / "coco_sample")
    expected = {
        (image.file_name.rpartition("/")[2], name, tuple(map(tuple, np.asarray(ring).round(2).tolist())))
        for dataset in original.splits.values()
        for image in dataset.images
        for annotation in dataset.of(image)
        for name in [dataset.categories[dataset.labels[annotation.category_id]].name]
        for ring in (() if isinstance(annotation.segmentation, str) else annotation.segmentation)
    }
    train = reading.splits["train"]
    assert len(train.annotations) == 50
    for annotation in train.annotations:
        name = train.categories[train.labels[annotation.category_id]].name
        image = train.by_id[annotation.image_id].file_name
        for ring in polygons(annotation):
            assert (image, name, tuple(map(tuple, ring.tolist()))) in expected


def test_a_project_next_to_its_export_is_not_read_twice(tmp_path: Path) -> None:
    two = region(label="cat"), region({**SQUARE, "all_points_x": [22, 32, 32, 22]}, label="cat")
    make(tmp_path, export(*two), "a_export.json")
    make(tmp_path, {"_via_settings": {}, "_via_img_metadata": export(*two)}, "b_project.json")
    reading = read(tmp_path)
    assert [(fault.code, fault.file, fault.lost) for fault in reading.faults] == [
        ("file-repeated", "b_project.json", 2)
    ]
    assert len(reading.splits["all"].annotations) == 2
    assert reading.listed["all"] == (1, 4)


def test_another_file_with_more_regions_of_an_image_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, export(region(label="cat")), "a.json")
    make(tmp_path, export(region(label="cat"), region(label="cat")), "b.json")
    reading = read(tmp_path)
    assert [(fault.code, fault.file, fault.lost) for fault in reading.errors] == [("file-unread", "b.json", 2)]
