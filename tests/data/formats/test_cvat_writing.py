"""What is written as CVAT's XML comes back equal."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fixtures import sets
from fixtures.cvat import HEIGHT, WIDTH, read, rectangle, save_image
from fixtures.narrow import polygon
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.formats.cvat import format as cvat
from maskline.data.reading import load_splits as load_any
from maskline.data.shapes import Segmentation, to_polygons, to_rle
from maskline.errors import DatasetError
from maskline.masks import Window, has_holes, place_rle, rle_encode
from maskline.render import PALETTE

SHARED = Path(__file__).parents[4] / "shared" / "data"


# ---- writing


def masks(splits: dict[str, Dataset]) -> dict[str, list[tuple[object, ...]]]:
    """The annotations of each split: image, class, crowd, form, pixels."""
    return {
        split: [_row(dataset, annotation) for annotation in dataset.annotations] for split, dataset in splits.items()
    }


def file_name(row: tuple[object, ...]) -> str:
    return str(row[0])


def _row(dataset: Dataset, annotation: Annotation) -> tuple[object, ...]:
    owner, shape = dataset.by_id[annotation.image_id], annotation.segmentation
    name = dataset.names[dataset.labels[annotation.category_id]]
    return owner.file_name, name, annotation.crowd, drawn(shape, owner.size), to_rle(shape, owner.size)


def single(folder: Path, *annotations: Annotation, classes: tuple[str, ...] = ("cat",), name: str = "a.png") -> Dataset:
    save_image(folder / name)
    categories = tuple(Category(number, text) for number, text in enumerate(classes, 1))
    return Dataset("all", folder, (ImageRecord(1, name, WIDTH, HEIGHT),), annotations, categories)


def drawn(shape: Segmentation, size: tuple[int, int]) -> str:
    """How CVAT holds a shape: as polygons, but for masks with holes."""
    return "mask" if isinstance(to_polygons(shape, size), str) else "polygon"


def test_everything_legal_comes_back_equal(tmp_path: Path) -> None:
    splits = load_any(sets.make(tmp_path / "set"))
    (tmp_path / "new").mkdir()
    notes = cvat.write(splits, tmp_path / "new")
    reading = read(tmp_path / "new")
    assert reading.faults == [] and masks(reading.splits) == masks(splits)
    assert [d.images for d in map(_without_ids, reading.splits.values())] == [
        d.images for d in map(_without_ids, splits.values())
    ]
    crowds = sum(a.crowd for d in splits.values() for a in d.annotations)
    assert notes == [
        f"crowd regions written with the attribute iscrowd, which CVAT shows as ordinary objects: {crowds}",
        f"masks with holes written as <mask> shapes, which FiftyOne and CVAT projects skip: {crowds}",
    ]


def _without_ids(dataset: Dataset) -> Dataset:
    images = tuple(ImageRecord(0, i.file_name, i.width, i.height) for i in dataset.images)
    return Dataset(dataset.split, dataset.folder, images, (), dataset.categories)


def test_what_is_written_is_cvats_form(tmp_path: Path) -> None:
    splits = load_any(sets.make(tmp_path / "set"))
    (tmp_path / "new").mkdir()
    cvat.write(splits, tmp_path / "new")
    root = ElementTree.parse(tmp_path / "new" / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    labels = root.findall("meta/project/labels/label")
    assert [label.findtext("name") for label in labels] == splits["train"].names
    assert labels[0].findtext("color") == "#{:02x}{:02x}{:02x}".format(*PALETTE[0])
    assert labels[0].findtext("attributes/attribute/name") == "iscrowd"
    assert root.findtext("meta/project/subsets") == "train\nval"  # CVAT's project import goes by these
    tasks = [(task.findtext("id"), task.findtext("subset")) for task in root.findall("meta/project/tasks/task")]
    assert tasks == [("1", "train"), ("2", "val")]  # Datumaro's import by these, the labels of CVAT's fork too
    for task in root.findall("meta/project/tasks/task"):
        assert [label.findtext("name") for label in task.findall("labels/label")] == splits["train"].names
    assert [i.get("id") for i in root.iter("image")] == [str(n) for n in range(len(list(root.iter("image"))))]
    for element in root.iter("image"):
        assert (tmp_path / "new" / "images" / element.get("subset", "?") / element.get("name", "?")).is_file()
    groups = [p.get("group_id") for p in root.iter("polygon") if p.get("group_id")]
    assert groups and all(groups.count(group) == 2 for group in groups)
    with_holes = sum(drawn(a.segmentation, sets.SIZE) == "mask" for d in splits.values() for a in d.annotations)
    assert len(list(root.iter("mask"))) == with_holes == 5
    for shape in root.iter("mask"):
        runs = [int(run) for run in shape.get("rle", "").split(",")]
        assert sum(runs) == int(shape.get("width", "")) * int(shape.get("height", "")) and 0 not in runs[1:]


def test_a_set_not_divided_is_a_task_without_subsets(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    dataset = single(tmp_path / "old", name="train/a.png")
    assert cvat.write({"all": dataset}, tmp_path / "new") == []
    root = ElementTree.parse(tmp_path / "new" / "annotations.xml").getroot()
    image = root.find("image")
    assert root.find("meta/task/labels") is not None and image is not None and image.get("subset") is None
    assert root.find("meta/project") is None and list(root.iter("subset")) == list(root.iter("subsets")) == []
    reading = read(tmp_path / "new")
    assert list(reading.splits) == ["all"] and reading.splits["all"].images == dataset.images


def test_names_are_escaped_and_those_xml_cannot_hold_are_renamed(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    classes = ("<b>&amp;\"'", " two\n words ", "two words", "bell\x07", "猫", "1e5")
    dataset = single(tmp_path / "old", classes=classes, name="a<&>\"'\x01 b.png")
    (note,) = cvat.write({"all": dataset}, tmp_path / "new")
    assert note.startswith("classes renamed to fit XML: ' two\\n words ' as 'two words 2', 'bell")
    reading = read(tmp_path / "new")
    assert reading.splits["all"].names == ["<b>&amp;\"'", "two words 2", "two words", "bell\ufffd", "猫", "1e5"]
    assert reading.splits["all"].images[0].file_name == "a<&>\"'%01 b.png" and reading.faults == []


def test_losses_are_counted(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    empty = place_rle(np.zeros((0, 0), np.uint8), Window(0, 0, 0, 0), (HEIGHT, WIDTH))
    ring = np.asarray([[1.0, 1.0], [9.0, 1.0], [5.0, 8.0]])
    dataset = single(
        tmp_path / "old", Annotation(1, 1, 1, empty), Annotation(2, 1, 1, (ring,), extra={"attributes": {"a": "b"}})
    )
    notes = cvat.write({"all": dataset}, tmp_path / "new")
    assert notes == ["annotations that lose their attributes: 1", "annotations without pixels left out: 1"]


def test_polygons_keep_all_digits(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    ring = np.asarray([[1 / 3, 2.0], [55.123456789012345, 1e-7], [30.5, 39.0]])
    cvat.write({"all": single(tmp_path / "old", Annotation(1, 1, 1, (ring,)))}, tmp_path / "new")
    (annotation,) = read(tmp_path / "new").splits["all"].annotations
    assert (polygon(annotation) == ring).all()


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    dataset = single(tmp_path / "old")
    (tmp_path / "old" / "a.png").unlink()
    with pytest.raises(DatasetError, match="a.png is missing"):
        cvat.write({"all": dataset}, tmp_path / "new")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    top=st.integers(0, HEIGHT - 9),
    left=st.integers(0, WIDTH - 9),
)
def test_any_mask_comes_back(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, top: int, left: int) -> None:
    folder = tmp_path_factory.mktemp("cvat")
    rle = place_rle(mask, Window(top, top + mask.shape[0], left, left + mask.shape[1]), (HEIGHT, WIDTH))
    (folder / "new").mkdir()
    notes = cvat.write({"all": single(folder / "old", Annotation(1, 1, 1, rle))}, folder / "new")
    back = [to_rle(a.segmentation, (HEIGHT, WIDTH)) for a in read(folder / "new").splits["all"].annotations]
    assert back == ([rle] if mask.any() else [])
    tags = {element.tag for element in ElementTree.parse(folder / "new" / "annotations.xml").iter()}
    holes = has_holes(mask)
    assert ("mask" in tags, "polygon" in tags) == (holes, mask.any() and not holes)
    assert len(notes) == (holes or not mask.any())


def test_run_lengths_of_several_parts_are_polygons_of_one_group(tmp_path: Path) -> None:
    """CVAT's import into projects and FiftyOne read no shapes of type mask."""
    mask = rectangle(2, 9, 2, 9) | rectangle(20, 30, 30, 40)
    (tmp_path / "new").mkdir()
    notes = cvat.write({"all": single(tmp_path / "old", Annotation(1, 1, 1, rle_encode(mask)))}, tmp_path / "new")
    shapes = ElementTree.parse(tmp_path / "new" / "annotations.xml").getroot().find("image")
    assert shapes is not None
    assert [(shape.tag, shape.get("group_id")) for shape in shapes] == [("polygon", "1"), ("polygon", "1")]
    (back,) = read(tmp_path / "new").splits["all"].annotations
    assert notes == [] and to_rle(back.segmentation, (HEIGHT, WIDTH)) == rle_encode(mask)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets")
@pytest.mark.parametrize("name", ["nuclei", "coco_sample"])
def test_all_masks_of_the_real_sets_come_back_equal(tmp_path: Path, name: str) -> None:
    splits = load_any(SHARED / name)
    cvat.write(splits, tmp_path)
    reading = read(tmp_path)
    assert reading.faults == []
    back = reading.splits
    assert [d.names for d in back.values()] == [d.names for d in splits.values()]
    for split, dataset in splits.items():
        rows = sorted(masks({split: dataset})[split], key=file_name)
        assert sorted(masks({split: back[split]})[split], key=file_name) == rows
