"""What is written as YOLO-seg comes back pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from fixtures.narrow import polygons
from fixtures.yolo import dataset, image, read, turned
from hypothesis import given, settings
from hypothesis import strategies as st

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.formats.yolo import format as yolo
from maskline.data.formats.yolo.lines import to_pixels
from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import Segmentation, area, to_rle
from maskline.errors import DatasetError
from maskline.masks import rle_encode

SHARED = Path(__file__).parents[4] / "shared" / "data"


# ---- writing


def test_what_is_written(tmp_path: Path) -> None:
    ring = np.asarray([(4, 6), (20.25, 6), (20.25, 12)])
    source = dataset(tmp_path / "in", [(ring,)])
    (tmp_path / "out").mkdir()
    assert yolo.write({"train": source}, tmp_path / "out") == []
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.joinpath("out").rglob("*.*"))
    assert files == ["data.yaml", "images/train/a.png", "labels/train/a.txt"]
    config = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert config == {"train": "images/train", "names": {0: "x"}}
    line = (tmp_path / "out" / "labels/train/a.txt").read_text()
    assert line == "0 0.10000 0.20000 0.50625 0.20000 0.50625 0.40000\n"


def test_every_form_comes_back(tmp_path: Path) -> None:
    """Vertices as they were where one polygon or parts of one can say it, else the same pixels."""
    holed = np.ones((30, 40), np.uint8)
    holed[5:9, 5:9] = 0
    parts = tuple(np.asarray([(x, 1), (x + 3.37, 1.5), (x + 2, 7.123)]) for x in (1.0, 10.0, 30.0))
    parts = tuple(np.round(part, 3) for part in parts)
    overlap = tuple(np.asarray([(x, 1), (x + 6, 1), (x + 6, 9), (x, 9)], np.float64) for x in (1, 4))
    outside = (np.asarray([(-5, -3), (60, 4), (9, 20)], np.float64),)
    nothing = (np.asarray([(50, 50), (60, 50), (60, 60)], np.float64),)
    shapes: list[Segmentation] = [parts, rle_encode(holed), overlap, outside, nothing, rle_encode(1 - holed)]
    (tmp_path / "out").mkdir()
    notes = yolo.write({"train": dataset(tmp_path / "in", shapes)}, tmp_path / "out")
    assert [(note.split()[0], note.rpartition(": ")[2]) for note in notes] == [
        ("annotations", "1"),
        ("instances", "2"),
        ("instances", "2"),
    ]
    reading = read(tmp_path / "out")
    found = reading.splits["train"].annotations
    size = (30, 40)
    kept = [shape for shape in shapes if shape is not nothing]
    assert [to_rle(a.segmentation, size) for a in found] == [
        to_rle(shape, size) for shape in kept
    ] and not reading.faults
    assert sorted(map(turned, polygons(found[0]))) == sorted(map(turned, parts))
    assert isinstance(found[1].segmentation, str) and not isinstance(found[4].segmentation, str)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(4, 5000),
    points=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=3, max_size=8),
)
def test_coordinates_keep_three_decimals(width: int, points: list[tuple[int, int]]) -> None:
    size = (width * 2 // 3 + 1, width)
    ring: np.ndarray = np.round(np.asarray(points) / 1e6 * size[::-1], 3)
    np.testing.assert_array_equal(to_pixels(yolo._shares(yolo._text(ring, size)), size)[: len(ring) - 1], ring[:-1])


def test_names_of_images_that_labels_would_mix_up(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "A.bmp", "sub/a.jpg", "images/b.jpg", "x.y.jpg"]
    for name in names:
        image(tmp_path / "in" / name)
    images = tuple(ImageRecord(n, name, 20, 10) for n, name in enumerate(names))
    squares = tuple(
        Annotation(n, n, 0, (np.asarray([(0, 0), (n + 1, 0), (n + 1, 5), (0, 5)], np.float64),), crowd=n == 0)
        for n in range(len(names))
    )
    whole = Dataset("all", tmp_path / "in", images, squares, (Category(0, "no"),))
    (tmp_path / "out").mkdir()
    notes = yolo.write({"all": whole}, tmp_path / "out")
    assert [note[:10] for note in notes] == ["crowd regi", "images ren", "the set is"]
    found = read(tmp_path / "out").splits["train"]
    assert sorted(image.file_name for image in found.images) == sorted(
        ["a.jpg", "a_2.png", "A_3.bmp", "sub/a.jpg", "images_/b.jpg", "x.y.jpg"]
    )
    assert sorted(area(a.segmentation, (10, 20)) for a in found.annotations) == [5, 10, 15, 20, 25, 30]
    assert found.names == ["no"]


def test_a_missing_image_stops_writing(tmp_path: Path) -> None:
    source = dataset(tmp_path / "in", [])
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(DatasetError, match="is missing"):
        yolo.write({"train": source}, tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data here")
@pytest.mark.parametrize(("name", "most"), [("coco_sample", 200), ("nuclei", 20)])
def test_real_masks_come_back_pixel_for_pixel(tmp_path: Path, name: str, most: int) -> None:
    whole = read_any(SHARED / name).splits
    splits = {split: dataset.select(dataset.images[:most]) for split, dataset in whole.items()}
    yolo.write(splits, tmp_path)
    reading = read(tmp_path)
    assert not reading.faults and list(reading.splits) == list(splits)
    for split, found in reading.splits.items():
        assert found.names == splits[split].names
        images = {image.file_name: image for image in found.images}
        for record in splits[split].images:
            before, after = splits[split].of(record), found.of(images[record.file_name])
            assert [splits[split].labels[a.category_id] for a in before] == [a.category_id for a in after]
            shapes = zip(before, after, strict=True)
            assert all(to_rle(a.segmentation, record.size) == to_rle(b.segmentation, record.size) for a, b in shapes)
