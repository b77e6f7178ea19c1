"""Every kind of fault is found where it is planted, and none where it is not; a fixed copy has none left."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures import sets
from fixtures.narrow import polygon
from fixtures.planted import (
    PLANTED,
    Plant,
    as_text,
    bad_record,
    class_of_half_a_character,
    drawn_on_the_file,
    half_a_character,
    leak,
    listed_in_both,
    missing,
    one_id,
    other_classes,
    other_size,
    planted,
    resized,
    ring,
    stated,
    swapped,
    twice,
    unlisted,
    unreadable,
)

from maskline.data.check.run import check
from maskline.data.convert import convert
from maskline.data.dataset import Dataset
from maskline.data.faults import KINDS, Fault, Reading
from maskline.data.fix import fix
from maskline.data.reading import load_splits
from maskline.errors import DatasetError, OutputError
from maskline.paddlex.check_dataset import FOLDER, examine

SHARED = Path(__file__).parents[4] / "shared" / "data"


#: What else a fault brings with it, by its code or by how it was planted.
RELATED: dict[object, tuple[str, ...]] = {
    "mask-empty": ("mask-outside",),
    "image-id": ("ambiguous",),
}


def test_nothing_is_wrong_with_a_sound_set(tmp_path: Path) -> None:
    assert not check(sets.make(tmp_path)).faults


@pytest.mark.parametrize(
    ("code", "what", "plant"), PLANTED, ids=[f"{code}-{plant.__name__}" for code, _, plant in PLANTED]
)
def test_a_planted_fault_is_found_and_mended(tmp_path: Path, code: str, what: str, plant: Plant) -> None:
    root = planted(tmp_path, plant)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    reading = check(root)
    (fault,) = [fault for fault in reading.faults if fault.code == code]
    assert re.search(what, fault.what)
    assert {fault.code for fault in reading.faults} <= {code, *RELATED.get(plant, RELATED.get(code, ()))}
    done = fix(reading, tmp_path / "fixed")
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    again = check(tmp_path / "fixed")
    left = {fault.code for fault in again.faults}
    expected = {code} if KINDS[code].fix is None and code != "image-unlisted" else set()
    if plant is other_classes:
        expected = {"class-missing"}  # now that train has the class too
    assert left == expected
    assert bool(done.number("left")) == (KINDS[code].fix is None)
    log = json.loads((tmp_path / "fixed" / "fixes.json").read_text())
    lost = sum(log["splits"]["train"]["original"].values()) - sum(log["splits"]["train"]["copy"].values())
    (entry,) = [entry for entry in log["faults"] if entry["code"] == code]
    assert entry["outcome"] == ("left" if KINDS[code].fix is None else "left out" if lost else "fixed"), entry


def test_what_is_harmless_is_not_reported(tmp_path: Path) -> None:
    touching = ring(4, 4, 12, 4, 12, 12, 20, 12, 20, 20, 12, 20, 12, 12, 4, 12)  # two squares that share a corner
    to_a_hole_and_back = ring(4, 4, 20, 4, 20, 20, 4, 20, 4, 4, 8, 8, 8, 16, 16, 16, 16, 8, 8, 8)
    thin_tip = ring(4, 4, 20, 4, 20, 12, 40, 12.1, 20, 12.2, 20, 20, 4, 20)

    def with_box(root: Path, train: sets.Json, val: sets.Json) -> None:
        thin_tip(root, train, val)
        train["annotations"][0]["bbox"] = [4, 4, 36, 16]

    for number, plant in enumerate((touching, to_a_hole_and_back, with_box, ring(4, 4, 64.9, 4, 64.9, 20))):
        assert not check(planted(tmp_path / str(number), plant)).faults


def test_every_kind_is_planted_somewhere() -> None:
    by_reading = {"record", "image-id", "image-path", "image-listed-twice", "category-id", "category-name", "id-type"}
    by_reading |= {"file", "ambiguous", "file-unread", "file-repeated", "file-unlisted", "label-unmatched", "no-labels"}
    by_reading |= {"split-missing"}
    by_reading |= {"no-annotations", "image-moved", "image-format", "image-embedded", "set-aside", "no-class"}
    by_reading |= {"polygon-unit", "polygon-corner", "masks-implausible", "boxes-only"}  # of whole files, as the next
    by_reading |= {"crowd-only", "category-no-object"}
    by_reading |= {"unknown-image", "unknown-category", "annotation-id", "no-mask", "rle-broken", "shape-ignored"}
    assert {code for code, _, _ in PLANTED} | by_reading == set(KINDS)  # the latter in the tests of the readers


def test_all_faults_of_the_whole_set_in_one_go(tmp_path: Path) -> None:
    """B28."""

    def plant(root: Path, train: sets.Json, val: sets.Json) -> None:
        for some in (unreadable, leak, twice, other_classes, unlisted, stated(area=999)):
            some(root, train, val)

    faults = check(planted(tmp_path, plant)).faults
    codes = [fault.code for fault in faults]
    assert set(codes) == {
        *("image-unreadable", "image-unlisted", "categories-differ", "annotation-twice", "area-mismatch")
    }
    assert [KINDS[code].severity for code in codes] == ["error"] * 2 + ["warning"] * 3
    assert codes[2:] == sorted(codes[2:], key=list(KINDS).index)


def test_leaks_come_first_and_pass_the_check(tmp_path: Path) -> None:
    def plant(root: Path, train: sets.Json, val: sets.Json) -> None:
        leak(root, train, val)
        bad_record(root, train, val)
        cv2.imwrite(str(root / "images" / "val2.png"), cv2.convertScaleAbs(sets.image(2), alpha=0.95, beta=5))

    reading = check(planted(tmp_path, plant))
    assert [fault.code for fault in reading.faults] == ["leak", "leak-near", "polygon-broken"]
    assert [fault.code for fault in reading.errors] == ["polygon-broken"]


def test_a_set_to_overfit_on_keeps_its_training_images(tmp_path: Path) -> None:
    """All images are in both splits, on purpose: the copy has them too."""

    def plant(root: Path, train: sets.Json, val: sets.Json) -> None:
        val["images"], val["annotations"] = train["images"], train["annotations"]
        for path in (root / "images").rglob("val*"):
            path.unlink()

    reading = check(planted(tmp_path, plant))
    assert [fault.code for fault in reading.faults] == ["leak"] * 4
    done = fix(reading, tmp_path / "fixed")
    assert done.number("left") == 4 and done.done[0].how == "nothing: train would have no other images"
    assert done.counts == {"train": ((4, 15), (4, 15)), "val": ((4, 15), (4, 15))}


def only(reading: Reading, code: str) -> Fault:
    return next(fault for fault in reading.faults if fault.code == code)


def fixed(tmp_path: Path, plant: Plant) -> tuple[Dataset, Dataset]:
    """Train before and after fixing."""
    reading = check(planted(tmp_path, plant))
    fix(reading, tmp_path / "fixed")
    return reading.splits["train"], load_splits(tmp_path / "fixed")["train"]


def test_what_became_of_a_resized_or_cropped_image_is_not_guessed(tmp_path: Path) -> None:
    for number, plant in enumerate((resized, other_size)):
        old, new = fixed(tmp_path / str(number), plant)
        assert [image.file_name for image in new.images] == [image.file_name for image in old.images[1:]]
        (entry,) = json.loads((tmp_path / str(number) / "fixed" / "fixes.json").read_text())["faults"]
        assert entry["done"] == "image train0.png of train is left out with its 5 annotations"


@pytest.mark.parametrize("plant", [swapped, as_text, drawn_on_the_file])
def test_a_size_is_that_of_the_file_where_the_masks_show_it(tmp_path: Path, plant: Plant) -> None:
    reading = check(planted(tmp_path, plant))
    done = fix(reading, tmp_path / "fixed")
    new = load_splits(tmp_path / "fixed")["train"]
    width, height = (128, 100) if plant is drawn_on_the_file else (64, 48)
    assert new.images[0].size == (height, width) and len(new.annotations) == len(reading.splits["train"].annotations)
    assert f"width and height are now {width} and {height}" in [entry.how for entry in done.done]
    assert not done.number("left out") and not done.number("left")
    before, after = (data.annotations[0].segmentation[0] for data in (reading.splits["train"], new))
    np.testing.assert_array_equal(before, after)  # not cut at the border of a frame it was not drawn in


def test_swapped_sides_stay_out_where_the_masks_do_not_fit_the_file(tmp_path: Path) -> None:
    def plant(root: Path, train: sets.Json, val: sets.Json) -> None:
        swapped(root, train, val)
        train["annotations"][0]["segmentation"] = [[4, 4, 40, 4, 40, 60]]

    old, new = fixed(tmp_path, plant)
    assert len(new.images) == len(old.images) - 1 and len(new.annotations) == len(old.annotations) - 1


def test_annotations_of_an_ambiguous_id_belong_to_no_image(tmp_path: Path) -> None:
    reading = check(planted(tmp_path, one_id))
    done = fix(reading, tmp_path / "fixed")
    assert done.counts["train"] == ((4, 15), (2, 5)) and done.number("left out") == 11
    new = load_splits(tmp_path / "fixed")["train"]
    assert [image.file_name for image in new.images] == ["train2.png", "train3.png"]


def test_a_class_with_half_a_character_keeps_its_annotations(tmp_path: Path) -> None:
    reading = check(planted(tmp_path, class_of_half_a_character))
    assert [fault.code for fault in reading.faults] == ["name", "name"]
    done = fix(reading, tmp_path / "fixed")
    assert done.number("fixed") == 2 and done.counts["train"] == ((4, 15), (4, 15))
    assert load_splits(tmp_path / "fixed")["train"].names == ["\\ud800", "dog"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"images": [], "annotations": []}', None])
def test_a_file_that_can_not_be_read_is_a_fault_next_to_those_of_the_other(tmp_path: Path, damage: str | None) -> None:
    root = planted(tmp_path, lambda root, train, val: train["annotations"][0].update(area=999))
    path = root / "annotations" / "instance_val.json"
    path.unlink()
    if damage is None:
        path.mkdir()
    else:
        path.write_text(damage)
    reading = check(root)
    assert [(fault.code, fault.split) for fault in reading.faults] == [("file", "val"), ("area-mismatch", "train")]
    assert list(reading.splits) == ["train"] and str(path) in reading.faults[0].what
    done = fix(reading, tmp_path / "fixed")
    assert done.number("left") == 1 and not (tmp_path / "fixed" / "annotations" / path.name).exists()
    with pytest.raises(DatasetError, match="instance_val"):
        load_splits(root)
    (root / "annotations" / "instance_train.json").write_text("{")
    with pytest.raises(DatasetError, match="instance_train.json is not readable JSON"):
        check(root)


def test_nothing_of_an_earlier_check_stays(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    examine(root, tmp_path)
    for split in ("train", "val"):
        (root / "annotations" / f"instance_{split}.json").write_text("{")
    (tmp_path / FOLDER / "mine.txt").write_text("")
    with pytest.raises(DatasetError):
        examine(root, tmp_path)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["mine.txt"]


def test_odd_names_reach_every_file(tmp_path: Path) -> None:
    def plant(root: Path, train: sets.Json, val: sets.Json) -> None:
        half_a_character(root, train, val)
        class_of_half_a_character(root, train, val)
        val["images"][0] |= {"id": "\ud801"}
        val["annotations"] = []

    reading, _ = examine(planted(tmp_path, plant), tmp_path / "out")
    assert "ud800" in (tmp_path / "out" / FOLDER / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / FOLDER / "faults.json").read_text(encoding="utf-8"))
    fix(reading, tmp_path / "fixed")
    assert load_splits(tmp_path / "fixed")["val"].images[0].id == "\ud801"


def test_names_of_other_formats_are_looked_at_too(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    convert(root, tmp_path / "labelme", "labelme")
    sheet = tmp_path / "labelme" / "annotations" / "train0.json"
    sheet.write_text(sheet.read_text().replace('"label": "cat"', '"label": "\\ud800"'))
    try:
        (tmp_path / "labelme" / "images" / "val0.png").rename(tmp_path / "labelme" / "images" / "\udcff.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    sheet = tmp_path / "labelme" / "annotations" / "val0.json"
    sheet.write_text(sheet.read_text().replace("val0.png", "\\udcff.png"))
    reading = check(tmp_path / "labelme")
    assert [fault.code for fault in reading.errors][:3] == ["name"] * 3
    fix(reading, tmp_path / "fixed")
    assert not [fault for fault in check(tmp_path / "fixed").faults if fault.kind.fix is not None]


def test_a_crossing_polygon_keeps_its_pixels(tmp_path: Path) -> None:
    old, new = fixed(tmp_path, ring(4, 4, 20, 18, 20, 4, 4, 18))
    assert (old.instances(old.images[0]).full_mask(0) == new.instances(new.images[0]).full_mask(0)).all()


def test_a_polygon_is_cut_at_the_border_and_stays_one(tmp_path: Path) -> None:
    old, new = fixed(tmp_path, ring(-20, 4, 20, 4, 20, 90))
    cut = polygon(new.annotations[0])
    assert cut.min() >= 0 and cut[:, 0].max() <= 64 and cut[:, 1].max() <= 48
    masks = [d.instances(d.images[0]).full_mask(0) for d in (old, new)]
    assert (masks[0] != masks[1]).sum() <= 3


def test_a_leak_stays_where_it_is_evaluated(tmp_path: Path) -> None:
    for number, plant in enumerate((leak, listed_in_both)):
        folder = tmp_path / str(number)
        old, new = fixed(folder, plant)
        assert len(new.images) == len(old.images) - 1 and "train0.png" not in [i.file_name for i in new.images]
        assert len(load_splits(folder / "fixed")["val"].images) == 3


@pytest.mark.parametrize("prefix", ["instance", "instances"])
def test_a_fixed_copy_has_the_names_of_the_original(tmp_path: Path, prefix: str) -> None:
    root = sets.make(tmp_path / "set")
    for path in (root / "annotations").iterdir():
        path.rename(path.with_name(path.name.replace("instance_", f"{prefix}_")))
    fix(check(root), tmp_path / "fixed")
    names = sorted(path.name for path in (tmp_path / "fixed" / "annotations").iterdir())
    assert names == [f"{prefix}_train.json", f"{prefix}_val.json"]


def test_a_fix_never_overwrites(tmp_path: Path) -> None:
    root = planted(tmp_path, twice)
    with pytest.raises(OutputError, match="already exists"):
        fix(check(root), root)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not here")
def test_coco_photos_have_no_errors() -> None:
    reading = check(SHARED / "coco_sample")
    assert not reading.errors and only(reading, "class-missing")


def test_other_formats_are_checked_as_they_are(tmp_path: Path) -> None:
    root = planted(tmp_path, missing)
    cv2.imwrite(str(root / "images" / "train0.png"), sets.image(0))
    convert(root, tmp_path / "labelme", "labelme")
    (tmp_path / "labelme" / "images" / "train0.png").unlink()
    (fault,) = check(tmp_path / "labelme").faults  # once, though the reader and the check both see it
    assert fault.code == "image-missing" and fault.split == "train"


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_damaged_is_reported_and_fixed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    root = sets.make(tmp_path / "set")
    for split in ("train", "val"):
        content = sets.load(root, split)
        for _ in range(chance.randint(1, 5)):
            content = sets.damaged(content, chance)
        sets.save(root, split, content)
    try:
        reading = check(root)
    except DatasetError as error:
        assert "\n" not in str(error)
        return
    fix(reading, tmp_path / "fixed")
    assert not [fault for fault in check(tmp_path / "fixed").faults if fault.kind.fix is not None]
