"""Sizes and orientations against masks: what is known is fixed, what is not stays as it is, no mask is lost."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import sets
from fixtures.oriented import CARRIERS, exif, saved
from PIL import Image

from maskline.data.check.run import check
from maskline.data.convert import convert
from maskline.data.dataset import Dataset
from maskline.data.fix import FixResult, fix
from maskline.data.image_headers import orientation_of
from maskline.data.reading import load_splits
from maskline.inputs import can_be_set, read_image
from maskline.masks import rle_encode

WIDE = (100, 60)  # width and height as stored; with the orientations 5 to 8 it is shown as 60 x 100
TALL = WIDE[::-1]
AS_SHOWN = [30, 60, 20, 30]  # x y width height of a rectangle that only fits 60 x 100
AS_STORED = [60, 20, 30, 20]  # ... that only fits 100 x 60
EITHER = [10, 10, 20, 30]


def image(seed: int) -> Image.Image:
    return Image.fromarray(sets.image(seed, TALL))


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def make(
    root: Path,
    boxes: Sequence[Sequence[Any]],
    sizes: Sequence[tuple[int, int]] | None = None,
    orientations: Sequence[int] | None = None,
    carrier: str = "jpeg",
) -> Path:
    """A COCO data set: images of 100 x 60 stored pixels, each with masks: rectangles, or segmentations as they are."""
    stated, number = orientations or [6] * len(boxes), 0
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for i, own in enumerate(boxes):
        name = f"{i}.{carrier.split()[0].replace('mpo', 'jpg')}"
        (root / "images" / name).write_bytes(CARRIERS[carrier](image(i), exif(stated[i])))
        width, height = sizes[i] if sizes else WIDE
        images.append({"id": i, "file_name": name, "width": width, "height": height})
        for box in own:
            number += 1
            shape = box if isinstance(box, dict) or isinstance(box[0], list) else rectangle(*box)
            annotations.append({"id": number, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": shape})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    for split in ("train", "val"):
        sets.save(root, split, content if split == "train" else {**content, "images": [], "annotations": []})
    return root


def fixed(tmp_path: Path, root: Path) -> tuple[dict[int, str], Dataset, FixResult]:
    """The codes of the images' faults by id, and the copy."""
    reading = check(root)
    codes = {f.image_id: f.code for f in reading.faults if f.code.startswith("image-") and f.image_id is not None}
    done = fix(reading, tmp_path / "fixed")
    return codes, load_splits(tmp_path / "fixed")["train"], done  # type: ignore[return-value]


def seen(dataset: Dataset, place: int, box: Sequence[int]) -> np.ndarray:
    """The pixels of an image, as it is read, in a box."""
    x, y, width, height = box
    return read_image(dataset.path(dataset.images[place]))[y : y + height, x : x + width]


def rings(dataset: Dataset) -> list[list[float]]:
    return [a.segmentation[0].ravel().tolist() for a in dataset.annotations]  # type: ignore[union-attr]


def test_masks_as_shown_are_kept_and_width_and_height_corrected(tmp_path: Path) -> None:
    """One mask proves it, and counts for the other image of the file."""
    root = make(tmp_path / "set", [[AS_SHOWN], [EITHER], []])
    codes, new, done = fixed(tmp_path, root)
    assert codes == dict.fromkeys(range(3), "image-size")
    assert [i.size for i in new.images] == [(100, 60)] * 3 and not done.number("left out")
    assert rings(new) == [rectangle(*AS_SHOWN)[0], rectangle(*EITHER)[0]]
    assert [orientation_of(new.path(i)) for i in new.images] == [6] * 3
    assert {f.code for f in check(tmp_path / "fixed").faults} == {"image-exif", "empty-list"}
    assert not [f for f in check(root).faults if f.code.startswith("mask-")]  # which were computed in the wrong frame


@pytest.mark.parametrize("carrier", CARRIERS)
def test_masks_on_the_stored_pixels_keep_them(tmp_path: Path, carrier: str) -> None:
    root = make(tmp_path / "set", [[AS_STORED], [EITHER], []], carrier=carrier)
    codes, new, done = fixed(tmp_path, root)
    assert codes == {0: "image-turned", 1: "image-turned", 2: "image-size"}
    assert [i.size for i in new.images] == [(60, 100), (60, 100), (100, 60)] and not done.number("left out")
    assert rings(new) == [rectangle(*AS_STORED)[0], rectangle(*EITHER)[0]]
    plain = tmp_path / f"plain.{new.images[0].file_name.rpartition('.')[2]}"
    plain.write_bytes(CARRIERS[carrier](image(0), b""))
    x, y, width, height = AS_STORED
    np.testing.assert_array_equal(seen(new, 0, AS_STORED), read_image(plain)[y : y + height, x : x + width])
    assert [f.code for f in check(tmp_path / "fixed").faults] == [
        "empty-list",
        "image-exif",
    ]  # of the one without masks
    assert orientation_of(root / "images" / new.images[0].file_name) == 6  # the original is not touched


def test_where_masks_do_not_show_it_nothing_is_changed(tmp_path: Path) -> None:
    leaving = [-10, 10, 30, 100]  # both
    root = make(tmp_path / "set", [[EITHER, EITHER], [leaving]])
    before = json.loads((root / "annotations" / "instance_train.json").read_text())
    codes, new, done = fixed(tmp_path, root)
    assert codes == dict.fromkeys(range(2), "image-rotation")
    assert [i.size for i in new.images] == [(60, 100)] * 2  # height, width: as listed
    assert rings(new) == [a["segmentation"][0] for a in before["annotations"]]
    assert {d.how for d in done.done if "masks" in d.how} == {
        "left as it is: the masks do not show which size they were drawn on"
    }
    assert done.number("fixed") == done.number("left out") == 0
    left = {f.code for f in check(tmp_path / "fixed").faults}
    assert left == {"image-rotation", "empty-list", "annotation-twice", "mask-outside"}


def test_where_images_disagree_each_speaks_for_itself(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [[AS_SHOWN], [AS_STORED], [EITHER], [AS_SHOWN, AS_STORED], []])
    codes, new, _ = fixed(tmp_path, root)
    either = "image-rotation"
    assert codes == {0: "image-size", 1: "image-turned", 2: either, 3: either, 4: "image-size"}
    assert [i.size for i in new.images] == [(100, 60), (60, 100), (60, 100), (60, 100), (100, 60)]
    assert rings(new) == rings(load_splits(root)["train"])


def test_a_little_beyond_the_border_proves_nothing(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [[[10, 30, 20, 31.5]], [[30, 10, 31.5, 20]]])
    codes, _, _ = fixed(tmp_path, root)
    assert codes == dict.fromkeys(range(2), "image-rotation")


def test_run_lengths_are_of_the_size_listed(tmp_path: Path) -> None:
    mask = np.zeros(TALL, np.uint8)
    mask[10:30, 10:40] = 1
    root = make(tmp_path / "set", [[{"size": list(TALL), "counts": rle_encode(mask)}], [EITHER]])
    codes, new, _ = fixed(tmp_path, root)
    assert codes == dict.fromkeys(range(2), "image-turned")
    np.testing.assert_array_equal(new.instances(new.images[0]).full_mask(0), mask.astype(bool))


@pytest.mark.parametrize("orientation", [1, 6])
def test_run_lengths_of_the_size_of_the_file_are_kept(tmp_path: Path, orientation: int) -> None:
    """Width and height are swapped in the record of the image only."""
    shown = TALL if orientation == 6 else WIDE
    mask = np.zeros(shown[::-1], np.uint8)
    mask[10:30, 10:55] = 1
    found = {"size": list(mask.shape), "counts": rle_encode(mask)}
    root = make(tmp_path / "set", [[found, EITHER], [EITHER]], [shown[::-1], shown], [orientation] * 2)
    _, new, done = fixed(tmp_path, root)
    assert [f.image_id for f in check(root).errors if f.code == "image-size"] == [0]
    assert not done.number("left out") and check(tmp_path / "fixed").errors == []
    assert [i.size for i in new.images] == [mask.shape] * 2
    np.testing.assert_array_equal(new.instances(new.images[0]).full_mask(0), mask.astype(bool))
    assert rings(new.select(new.images[1:])) == [rectangle(*EITHER)[0]]


def test_rle_whose_size_is_not_that_of_the_file_is_reported(tmp_path: Path) -> None:
    found = {"size": list(WIDE), "counts": rle_encode(np.ones(WIDE, np.uint8))}  # which should be height and width
    root = make(tmp_path / "set", [[found, AS_STORED]], [WIDE], [1])
    assert [f.code for f in check(root).errors] == ["rle-broken"]


@pytest.mark.parametrize("orientation", [1, 3])
def test_swapped_sides_without_a_quarter_turn(tmp_path: Path, orientation: int) -> None:
    """The masks decide too; if those of another image speak against it, what was drawn on it is not known."""
    tall = [TALL, TALL]
    root = make(tmp_path / "a", [[AS_STORED], [EITHER]], tall, [orientation] * 2)
    codes, new, _ = fixed(tmp_path / "a", root)
    assert codes == dict.fromkeys(range(2), "image-size") and [i.size for i in new.images] == [(60, 100)] * 2
    assert rings(new) == [rectangle(*AS_STORED)[0], rectangle(*EITHER)[0]]
    root = make(tmp_path / "b", [[AS_SHOWN], [EITHER]], tall, [orientation] * 2)
    codes, new, done = fixed(tmp_path / "b", root)
    assert codes == dict.fromkeys(range(2), "image-size") and not new.images and done.number("left out") == 2


def test_a_file_in_which_no_orientation_can_be_set_is_left_out_and_reported(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [[AS_STORED], [EITHER]])
    path = root / "images" / "0.tif"
    path.write_bytes(saved(image(0), "TIFF", save_all=True, append_images=[image(9)], tiffinfo={0x0112: 6}))
    content = sets.load(root, "train")
    content["images"][0]["file_name"] = path.name
    sets.save(root, "train", content)
    assert not can_be_set(io.BytesIO(path.read_bytes()))
    codes, new, done = fixed(tmp_path, root)
    assert codes == dict.fromkeys(range(2), "image-turned") and [i.file_name for i in new.images] == ["1.jpeg"]
    assert [d.how for d in done.done if d.outcome == "left out"] == [
        "image 0.tif of train is left out with its 1 annotation"
    ]


def test_orientations_that_do_not_count_are_not_reported(tmp_path: Path) -> None:
    """Text chunks and XMP: see the tests of `maskline.inputs.orientation`."""
    root = tmp_path / "yolo"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    (root / "images" / "a.jpg").write_bytes(saved(image(0), "JPEG", xmp=xmp))
    (root / "labels" / "a.txt").write_text("0 0.6 0.2 0.9 0.2 0.9 0.4 0.6 0.4\n")
    (root / "classes.txt").write_text("cat\n")
    reading = check(root)
    assert not reading.faults and reading.splits["all"].images[0].size == (60, 100)
    assert fix(reading, tmp_path / "fixed").number("left out") == 0


@pytest.mark.parametrize("carrier", CARRIERS)
def test_labels_in_shares_are_of_the_image_as_shown(tmp_path: Path, carrier: str) -> None:
    """YOLO: read, checked and converted on the pixels that are trained on."""
    root, name = tmp_path / "yolo", f"a.{carrier.split()[0].replace('mpo', 'jpg')}"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    (root / "images" / name).write_bytes(CARRIERS[carrier](image(0), exif(6)))
    x, y, width, height = AS_SHOWN
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    (root / "labels" / "a.txt").write_text("0 " + " ".join(f"{a / 60:.9f} {b / 100:.9f}" for a, b in corners) + "\n")
    (root / "classes.txt").write_text("cat\n")
    assert [f.code for f in check(root).faults] == ["image-exif"]
    convert(root, tmp_path / "coco", "coco")
    new = load_splits(tmp_path / "coco")["all"]
    assert new.images[0].size == (100, 60)
    np.testing.assert_allclose(rings(new), rectangle(*AS_SHOWN), atol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_masks_that_fit_are_kept_for_any_sizes_and_orientations(tmp_path: Path, seed: int) -> None:
    """Nothing is raised, the copy has no fault that `--fix` mends, and what leaves something out says so."""
    chance = random.Random(seed)
    number = chance.randint(1, 6)
    kinds = [AS_SHOWN, AS_STORED, EITHER]
    if chance.random() < 0.7:  # one tool wrote all
        kinds.remove(chance.choice(kinds[:2]))
    boxes = [chance.sample(kinds, k=chance.randint(0, 2)) for _ in range(number)]
    listed = [chance.choice([WIDE, TALL, WIDE, TALL, (50, 30), (0, 0)]) for _ in range(number)]
    orientations = [chance.choice([1, 3, 5, 6, 7, 8]) for _ in range(number)]
    root = make(tmp_path / "set", boxes, listed, orientations, chance.choice(list(CARRIERS)))
    if chance.random() < 0.3:
        path = next((root / "images").glob("0.*"))
        path.write_bytes(path.read_bytes()[:-300])
    reading = check(root)
    done = fix(reading, tmp_path / "fixed")
    old, new = reading.splits["train"], load_splits(tmp_path / "fixed")["train"]
    unclear = {f.image_id for f in reading.faults if f.code == "image-rotation"}
    again = check(tmp_path / "fixed").faults
    assert not [f for f in again if f.kind.fix is not None and f.image_id not in unclear]
    assert {f.image_id for f in again if f.code == "image-rotation"} == unclear
    assert done.number("left out") or len(new.annotations) == len(old.annotations) == sum(map(len, boxes))
    for record in new.images:
        kept = {annotation.id: annotation.segmentation[0] for annotation in new.of(record)}
        if record.id not in unclear:
            assert record.size == read_image(new.path(record)).shape[:2]
        for annotation in old.of(record):
            ring = annotation.segmentation[0]
            if record.id in unclear or (ring <= record.size[::-1]).all():  # type: ignore[operator]
                np.testing.assert_array_equal(kept[annotation.id], ring)
