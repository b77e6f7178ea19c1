"""COCO panoptic, written by hand as https://cocodataset.org/#format-data defines it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.readings import CASES, assert_same_in_coco, codes, masks, mutated, read, save_image, save_json
from PIL import Image

from maskline.errors import DatasetError

WIDTH, HEIGHT = 12, 10
CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person", "isthing": 1},
    {"id": 17, "name": "cat", "supercategory": "animal", "isthing": 1},
    {"id": 190, "name": "sky", "supercategory": "sky", "isthing": 0},
]
PERSON, CAT, CROWD, SKY = (200, 3, 0), (200, 3, 1), (7, 0, 0), (255, 255, 255)  # colors


def number(color: tuple[int, int, int]) -> int:
    return color[0] + 256 * color[1] + 256 * 256 * color[2]


def png() -> np.ndarray:
    """A person at the left with a hole, a cat in two parts, a crowd, and sky; the rest is void."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[0, :] = SKY
    pixels[2:8, 1:5] = PERSON
    pixels[4, 2] = 0
    pixels[2:4, 7:9] = CAT
    pixels[6:8, 7:9] = CAT
    pixels[9, 3:] = CROWD
    return pixels


def segments() -> list[dict[str, Any]]:
    return [
        {"id": number(PERSON), "category_id": 1, "area": 23, "bbox": [1, 2, 4, 6], "iscrowd": 0},
        {"id": number(CAT), "category_id": 17, "area": 8, "bbox": [7, 2, 2, 6], "iscrowd": 0},
        {"id": number(CROWD), "category_id": 1, "area": 9, "bbox": [3, 9, 9, 1], "iscrowd": 1},
        {"id": number(SKY), "category_id": 190, "area": 12, "bbox": [0, 0, 12, 1], "iscrowd": 0},
    ]


def content(found: list[Any], name: str = "a") -> dict[str, Any]:
    image = {"id": 5, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
    annotation = {"image_id": 5, "file_name": f"{name}.png", "segments_info": found}
    return {"info": {}, "images": [image], "annotations": [annotation], "categories": CATEGORIES}


def make(root: Path, found: list[Any] | None = None, split: str = "val2017", name: str = "a") -> Path:
    save_image(root / split / f"{name}.jpg", WIDTH, HEIGHT)
    folder = root / "annotations" / f"panoptic_{split}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(png()).save(folder / f"{name}.png")
    save_json(root / "annotations" / f"panoptic_{split}.json", content(segments() if found is None else found, name))
    return root


def where(color: tuple[int, int, int]) -> np.ndarray:
    return (png() == color).all(axis=2)


def test_things_become_instances_and_stuff_is_counted(tmp_path: Path) -> None:
    reading = read(make(tmp_path))
    assert reading.format == "panoptic"
    (person, cat, crowd) = masks(reading, "val")["a.jpg"]
    assert [name for name, _ in (person, cat, crowd)] == ["person", "cat", "person"]
    for (_, mask), color in zip((person, cat, crowd), (PERSON, CAT, CROWD), strict=True):
        assert (mask == where(color)).all()
    assert [annotation.crowd for annotation in reading.splits["val"].annotations] == [False, False, True]
    assert reading.splits["val"].names == ["person", "cat"]
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("shape-ignored", 1)]
    assert "1 sky" in reading.faults[0].what
    assert reading.listed["val"] == (1, 4)


def test_splits_with_images_and_pngs_of_equal_names(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        make(tmp_path, split=split)
        (tmp_path / split / "a.jpg").unlink()
        save_image(tmp_path / split / "a.png", WIDTH, HEIGHT)
        path = tmp_path / "annotations" / f"panoptic_{split}.json"
        path.write_text(path.read_text(encoding="utf-8").replace("a.jpg", "a.png"), encoding="utf-8")
    reading = read(tmp_path)
    assert {s: d.path(d.images[0]).relative_to(tmp_path).as_posix() for s, d in reading.splits.items()} == {
        "train": "train2017/a.png",
        "val": "val2017/a.png",
    }
    assert (masks(reading, "train")["a.png"][0][1] == where(PERSON)).all()


def test_a_file_that_begins_with_many_images_is_recognized_by_its_name(tmp_path: Path) -> None:
    root = make(tmp_path)
    path = root / "annotations" / "panoptic_val2017.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    more = [{"id": 1000 + i, "file_name": f"x{i}.jpg", "width": 9, "height": 9} for i in range(2000)]
    save_json(path, {"images": whole["images"] + more, **{k: whole[k] for k in ("annotations", "categories")}})
    assert len(read(root).splits["val"].annotations) == 3


def test_next_to_instances_they_are_not_read_again(tmp_path: Path) -> None:
    root = make(tmp_path)
    coco = content([]) | {
        "annotations": [{"id": 1, "image_id": 5, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]], "iscrowd": 0}]
    }
    save_json(root / "annotations" / "instances_val2017.json", coco)
    reading = read(root)
    assert reading.format == "coco"
    assert len(reading.splits["val"].annotations) == 1
    assert len(read(root, "panoptic").splits["val"].annotations) == 3


def test_segments_without_pixels_of_unknown_classes_and_not_listed(tmp_path: Path) -> None:
    found = segments()
    found[0]["id"] = 77
    found[1]["category_id"] = 5
    reading = read(make(tmp_path, found[:2] + found[3:]))
    assert sorted((fault.code, fault.lost) for fault in reading.faults) == [
        ("mask-empty", 1),
        ("record", 2),  # the person's pixels and the crowd's
        ("shape-ignored", 1),
        ("unknown-category", 1),
    ]
    assert reading.listed["val"].annotations == 5


@pytest.mark.parametrize("damage", ["missing", "no png", "other size"])
def test_a_png_that_can_not_be_used_takes_its_image_with_it(tmp_path: Path, damage: str) -> None:
    root = make(tmp_path)
    path = root / "annotations" / "panoptic_val2017" / "a.png"
    if damage == "missing":
        path.unlink()
    elif damage == "no png":
        path.write_bytes(b"x")
    else:
        Image.fromarray(png()[1:]).save(path)
    reading = read(root)
    assert (reading.faults[0].code, reading.faults[0].lost) == ("rle-broken", 4)
    assert reading.splits["val"].images == ()
    assert reading.listed["val"] == (1, 4)


def test_segments_of_an_image_that_is_not_listed(tmp_path: Path) -> None:
    root = make(tmp_path)
    path = root / "annotations" / "panoptic_val2017.json"
    save_json(path, content(segments()) | {"images": []})
    assert (read(root).faults[0].code, read(root).faults[0].lost) == ("unknown-image", 4)


def test_an_image_without_segments_is_a_background_image(tmp_path: Path) -> None:
    root = make(tmp_path)
    path = root / "annotations" / "panoptic_val2017.json"
    save_json(path, content(segments()) | {"annotations": []})
    assert masks(read(root), "val") == {"a.jpg": []}


def test_mutated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(0)
    root = make(tmp_path)
    for _ in range(300):
        save_json(root / "annotations" / "panoptic_val2017.json", mutated(content(segments()), chance))
        try:
            read(root, "panoptic")
        except DatasetError as error:
            assert "\n" not in str(error)


def test_mutated_segments_are_read_or_reported(tmp_path: Path) -> None:
    chance = random.Random(1)
    root = make(tmp_path)
    for _ in range(200):
        save_json(root / "annotations" / "panoptic_val2017.json", content(mutated(segments(), chance)))
        reading = read(root)
        assert reading.listed["val"].annotations >= 4
        assert "file" not in codes(reading)


def test_to_coco(tmp_path: Path) -> None:
    assert_same_in_coco(make(tmp_path / "set"), tmp_path / "coco")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_the_case_has_stuff_only() -> None:
    reading = read(CASES / "coco_panoptic")
    assert {split: counted.annotations for split, counted in reading.listed.items()} == {"train": 1, "val": 2}
    assert sorted(codes(reading))[-2:] == ["rle-broken", "shape-ignored"]
    assert all(not dataset.annotations for dataset in reading.splits.values())
