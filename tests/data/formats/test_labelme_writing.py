"""What is written as LabelMe comes back pixel for pixel."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.labelme import HEIGHT, SQUARE, WIDTH, detect, filled, image, pixels, read
from fixtures.narrow import polygon, polygons
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.formats.labelme import format as labelme
from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import crop, to_rle
from maskline.errors import DatasetError
from maskline.masks import rle_encode

SHARED = Path(__file__).parents[4] / "shared" / "data"


# ---- writing


def made(root: Path, split: str, names: list[str], *annotations: Annotation) -> Dataset:
    for name in names:
        image(root / name)
    images = [ImageRecord(f"id{n}", name, WIDTH, HEIGHT) for n, name in enumerate(names)]
    return Dataset(split, root, images, annotations, (Category(7, "cat"), Category(3, "sea\tlion")))


def test_round_trip(tmp_path: Path) -> None:
    ring = np.array(SQUARE, np.float64)
    hole = filled((slice(2, 9), slice(2, 9)))
    hole[4:6, 4:6] = 0
    solid = filled((slice(2, 9), slice(2, 9)), (slice(20, 30), slice(30, 40)))
    source = made(
        tmp_path / "source",
        "train",
        ["x/a.jpg", "a.jpg", "a.png"],
        Annotation(1, "id0", 7, (ring + 0.123456789,)),
        Annotation(2, "id0", 7, (ring, ring + 12.5), crowd=True, extra={"flags": {"blurred": True}}),
        Annotation(3, "id1", 3, rle_encode(hole)),
        Annotation(4, "id1", 3, rle_encode(solid)),
        Annotation(5, "id1", 3, rle_encode(filled())),
    )
    other = made(tmp_path / "other", "val", ["a.jpg"])
    target = tmp_path / "target"
    target.mkdir()
    notes = labelme.write({"train": source, "val": other}, target)
    reading = read(target)
    back = reading.splits["train"]

    assert [note.rpartition(": ")[2] for note in notes[:-1]] == ["1", "1", "1"]
    assert "'sea\\tlion' as 'sea lion'" in notes[-1]
    assert reading.faults == []
    assert [image.file_name for image in back.images] == ["x/a.jpg", "a.jpg", "a.png"]
    assert [image.file_name for image in reading.splits["val"].images] == ["val/a.jpg"]
    assert (
        target / "train_anno_list.txt"
    ).read_text() == "annotations/x/a.json\nannotations/a.json\nannotations/a.png.json\n"
    assert (target / "label.txt").read_text() == "cat\nsea lion\n"
    assert [a.crowd for a in back.annotations] == [False, True, False, False]
    assert back.annotations[1].extra == {"flags": {"blurred": True}}
    assert (polygon(back.annotations[0]) == ring + 0.123456789).all()
    assert len(polygons(back.annotations[1])) == 2
    assert (pixels(back, 2) == hole).all()
    assert (pixels(back, 3) == solid).all()
    assert detect(target)


def test_what_is_written_is_labelme_json(tmp_path: Path) -> None:
    mask = filled((slice(2, 9), slice(3, 9)))
    mask[4, 4] = 0
    ring = np.array(SQUARE, np.float64)
    source = made(
        tmp_path,
        "all",
        ["x/ä.jpg"],
        Annotation(1, "id0", 7, (ring, ring + 1)),
        Annotation(2, "id0", 3, rle_encode(mask)),
    )
    target = tmp_path / "target"
    target.mkdir()
    labelme.write({"all": source}, target)
    assert sorted(path.name for path in target.iterdir()) == ["annotations", "images", "label.txt"]
    content = json.loads((target / "annotations/x/ä.json").read_bytes())
    assert list(content) == ["version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"]
    assert content["imagePath"] == "../../images/x/ä.jpg"
    assert (target / "annotations/x" / content["imagePath"]).is_file()
    assert (content["imageData"], content["imageHeight"], content["imageWidth"]) == (None, HEIGHT, WIDTH)
    keys = ["label", "points", "group_id", "description", "shape_type", "flags", "mask"]
    assert [list(entry) for entry in content["shapes"]] == [keys] * 3
    assert [entry["group_id"] for entry in content["shapes"]] == [1, 1, None]
    assert content["shapes"][0]["points"] == SQUARE
    last = content["shapes"][2]
    assert (last["shape_type"], last["points"]) == ("mask", [[3, 2], [8, 8]])
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(last["mask"]))))
    assert (decoded == mask[2:9, 3:9]).all()
    assert read(target).splits["all"].names == ["cat", "sea lion"]


def test_names_that_would_not_come_back(tmp_path: Path) -> None:
    names = ["__ignore__", "a b", "a  b", "a\nb", "ok"]
    image(tmp_path / "a.jpg")
    square = (np.array(SQUARE, np.float64),)
    annotations = [Annotation(n, 1, n, square) for n in range(len(names))]
    categories = [Category(n, name) for n, name in enumerate(names)]
    source = Dataset("train", tmp_path, [ImageRecord(1, "a.jpg", WIDTH, HEIGHT)], annotations, categories)
    target = tmp_path / "target"
    target.mkdir()
    (note,) = labelme.write({"train": source}, target)
    back = read(target).splits["train"]
    assert note.startswith("classes renamed")
    assert back.names == ["__ignore__ class", "a b", "a b 2", "a b 3", "ok"]
    assert [a.category_id for a in back.annotations] == [1, 2, 3, 4, 5]


def test_an_unsplit_part_next_to_splits_gets_a_list(tmp_path: Path) -> None:
    splits = {split: made(tmp_path / split, split, [f"{split}.jpg"]) for split in ("train", "all")}
    (tmp_path / "target").mkdir()
    assert labelme.write(splits, tmp_path / "target") == [
        "classes renamed to fit a line of label.txt: 'sea\\tlion' as 'sea lion'"
    ]
    back = read(tmp_path / "target").splits
    assert {split: [image.file_name for image in d.images] for split, d in back.items()} == {
        "train": ["train.jpg"],
        "all": ["all.jpg"],
    }


def test_a_missing_image_stops_the_writing(tmp_path: Path) -> None:
    source = made(tmp_path, "train", ["a.jpg"])
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "target").mkdir()
    with pytest.raises(DatasetError, match=r"a\.jpg is missing"):
        labelme.write({"train": source}, tmp_path / "target")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bits=st.integers(1, 2**48 - 1), crowd=st.booleans())
def test_any_mask_comes_back_pixel_for_pixel(tmp_path_factory: pytest.TempPathFactory, bits: int, crowd: bool) -> None:
    root = tmp_path_factory.mktemp("set")
    mask = filled()
    mask[9:15, 3:11] = np.array([bits >> n & 1 for n in range(48)]).reshape(6, 8)
    source = made(root, "train", ["a.jpg"], Annotation(1, "id0", 7, rle_encode(mask), crowd=crowd))
    (root / "target").mkdir()
    labelme.write({"train": source}, root / "target")
    back = read(root / "target").splits["train"]
    assert len(back.annotations) == 1
    assert back.annotations[0].crowd == crowd
    assert (pixels(back) == mask).all()


@pytest.mark.parametrize(("name", "limit"), [("coco_sample", 1000), ("nuclei", 30)])
def test_real_sets_come_back_pixel_for_pixel(tmp_path: Path, name: str, limit: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip("needs ../shared/data")
    whole = read_any(SHARED / name).splits
    splits = {split: dataset.select(dataset.images[:limit]) for split, dataset in whole.items()}
    labelme.write(splits, tmp_path)
    reading = read(tmp_path)
    assert reading.faults == []
    for split, dataset in splits.items():
        back = reading.splits[split]
        assert back.names == dataset.names
        for record, other in zip(dataset.images, back.images, strict=True):
            assert (record.file_name, record.size) == (other.file_name, other.size)
            drawn = [
                a
                for a in dataset.of(record)
                if crop(a.segmentation, record.size) or not isinstance(a.segmentation, str)
            ]
            for ours, theirs in zip(drawn, back.of(other), strict=True):
                assert to_rle(ours.segmentation, record.size) == to_rle(theirs.segmentation, record.size)
                assert dataset.labels[ours.category_id] == back.labels[theirs.category_id]
                assert ours.crowd == theirs.crowd
