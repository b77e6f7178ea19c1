"""What is written as VOC: every instance and class, whatever its reader goes by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.narrow import run_lengths
from fixtures.voc import PALETTE, read
from PIL import Image

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.formats.voc import format as voc
from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import to_rle
from maskline.errors import DatasetError
from maskline.masks import rle_decode, rle_encode

SHARED = Path(__file__).parents[4] / "shared" / "data"


# ---- writing


def square(left: int, top: int, side: int, size: tuple[int, int] = (20, 30)) -> str:
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return rle_encode(mask)


def dataset(folder: Path, shapes: list[str], size: tuple[int, int] = (20, 30), crowd: int = -1) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(folder / "a.png")
    annotations = tuple(Annotation(n + 1, 1, 5, shape, crowd=n == crowd) for n, shape in enumerate(shapes))
    categories = (Category(9, "background"), Category(5, "two\nlines"))
    return Dataset("val", folder, (ImageRecord(1, "a.png", size[1], size[0]),), annotations, categories)


def test_smaller_instances_lie_on_top_and_losses_are_reported(tmp_path: Path) -> None:
    shapes = [square(2, 2, 3), square(0, 0, 10), square(15, 0, 4), square(15, 0, 4), square(0, 5, 12), square(0, 0, 0)]
    (tmp_path / "out").mkdir()
    notes = voc.write({"val": dataset(tmp_path / "in", shapes, crowd=4)}, tmp_path / "out")
    assert notes == [
        "annotations without pixels left out: 1",
        "crowd regions written as void: 1",
        "instances that lose pixels to smaller ones on top, as a pixel holds one instance: 2",
        "of these, instances that lose all their pixels: 1",
        "classes renamed to fit a line of labelmap.txt: 'background' as 'background class', "
        "'two\\nlines' as 'two lines'",
    ]
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert files == [
        *("ImageSets/Segmentation/val.txt", "JPEGImages/a.png", "SegmentationClass/a.png", "SegmentationObject/a.png"),
        "labelmap.txt",
    ]
    assert (tmp_path / "out" / "labelmap.txt").read_text().splitlines() == [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "background class:128,0,0::",
        "two lines:0,128,0::",
        "ignored:224,224,192::",
    ]
    objects = np.asarray(Image.open(tmp_path / "out" / "SegmentationObject" / "a.png"))
    assert objects.dtype == np.uint8 and np.unique(objects).tolist() == [0, 1, 2, 4, 255]
    assert (objects == 1).sum() == 9 and (objects == 2).sum() == 91 and (objects == 255).sum() == 12 * 12 - 50
    reading = read(tmp_path / "out")
    assert not reading.faults and reading.splits["val"].names == ["background class", "two lines"]
    assert [a.category_id for a in reading.splits["val"].annotations] == [2, 2, 2]


NAMES = (
    *("# hash", "#", "__ignore__", "a:b", "a:1,2,3::", "background", "_background_", "void", "ignored"),
    *("two  spaces", "two spaces", " lead", "ln\nbreak", "tab\tx", "\u2028x", "\ufeffx", "1", "last"),
)


def test_no_name_of_a_class_shifts_another(tmp_path: Path) -> None:
    shapes = [square(n, n, 1) for n in range(len(NAMES))]
    source = dataset(tmp_path / "in", shapes)
    annotations = [Annotation(n, 1, n, shape) for n, shape in enumerate(shapes)]
    categories = [Category(n, name) for n, name in enumerate(NAMES)]
    (tmp_path / "out").mkdir()
    splits = {"val": Dataset("val", source.folder, source.images, annotations, categories)}
    (note,) = voc.write(splits, tmp_path / "out")
    reading = read(tmp_path / "out")
    found = reading.splits["val"]
    assert not reading.faults and [found.labels[a.category_id] for a in found.annotations] == list(range(len(NAMES)))
    changed = {old: new for old, new in zip(NAMES, found.names, strict=True) if old != new}
    assert changed == {
        "# hash": "hash",
        "#": "class",
        "a:b": "a-b",
        "a:1,2,3::": "a-1,2,3--",
        "background": "background class",
        "ignored": "ignored class",
        "two  spaces": "two spaces 2",
        " lead": "lead",
        "ln\nbreak": "ln break",
        "tab\tx": "tab x",
        "\u2028x": "x",
    }
    assert note.startswith("classes renamed") and all(f"{old!r} as {new!r}" in note for old, new in changed.items())


def by_colours(root: Path, stem: str) -> dict[tuple[str, int], np.ndarray]:
    """The pixels of each class and instance, as CVAT and Datumaro read them: by the colours of both files."""
    names: dict[tuple[int, ...], str] = {}
    for line in (root / "labelmap.txt").read_text(encoding="utf-8").split("\n"):
        if line.strip() and not line.startswith("#"):
            name, colour, _parts, _actions = line.split(":")
            assert name not in names.values()
            names[tuple(map(int, colour.split(",")))] = name
    folders = (root / "SegmentationObject", root / "SegmentationClass")
    objects, kinds = (np.asarray(Image.open(folder / f"{stem}.png").convert("RGB")) for folder in folders)
    found: dict[tuple[str, int], np.ndarray] = {}
    for number, colour in enumerate(PALETTE.tolist()):
        mask = (objects == colour).all(axis=2)
        if number and mask.any():
            (kind,) = np.unique(kinds[mask], axis=0).tolist()
            found[names[tuple(kind)], number] = mask
    return found


def test_other_readers_find_instances_and_classes_by_colour(tmp_path: Path) -> None:
    """A colour that `labelmap.txt` does not list makes CVAT and Datumaro refuse the data set."""
    shapes = [square(2, 2, 3), square(0, 0, 10), square(15, 0, 4)]
    source = dataset(tmp_path / "in", shapes, crowd=2)
    source = replace(source, annotations=(replace(source.annotations[0], category_id=9), *source.annotations[1:]))
    (tmp_path / "out").mkdir()
    voc.write({"val": source}, tmp_path / "out")
    found = by_colours(tmp_path / "out", "a")
    assert {key: int(mask.sum()) for key, mask in found.items()} == {
        ("background class", 1): 9,
        ("two lines", 2): 91,
        ("ignored", 255): 16,
    }
    ours = {a.id: rle_decode(run_lengths(a), (20, 30)) for a in read(tmp_path / "out").splits["val"].annotations}
    assert (found["background class", 1] == ours[1]).all() and (found["two lines", 2] == ours[2]).all()


def test_every_class_has_a_colour_of_its_own(tmp_path: Path) -> None:
    source = dataset(tmp_path / "in", [square(0, 0, 1)])
    many = tuple(Category(n, f"c{n}") for n in range(254))
    (tmp_path / "out").mkdir()
    voc.write({"val": replace(source, categories=many)}, tmp_path / "out")
    lines = (tmp_path / "out" / "labelmap.txt").read_text().splitlines()[1:]
    assert len(lines) == len({line.split(":")[1] for line in lines}) == 256 and lines[-1] == "ignored:224,224,192::"
    assert read(tmp_path / "out").splits["val"].names == [category.name for category in many]


def test_sets_of_version_0_1_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    voc.write({"val": dataset(tmp_path / "in", [square(2, 2, 3)])}, tmp_path / "out")
    (tmp_path / "out" / "labelmap.txt").unlink()
    (tmp_path / "out" / "labels.txt").write_text("background\n# one\na:b\n")
    found = read(tmp_path / "out").splits["val"]
    assert found.names == ["# one", "a:b"] and [a.category_id for a in found.annotations] == [2]


@pytest.mark.parametrize(("count", "mode"), [(254, "P"), (255, "I;16"), (600, "I;16")])
def test_many_instances(tmp_path: Path, count: int, mode: str) -> None:
    size = (20, 30)
    shapes = [square(n % 30, n // 30, 1) for n in range(count)]
    (tmp_path / "out").mkdir()
    notes = voc.write({"all": dataset(tmp_path / "in", shapes)}, tmp_path / "out")
    assert sum("16-bit" in note for note in notes) == (mode != "P")
    with Image.open(tmp_path / "out" / "SegmentationObject" / "a.png") as image:
        assert image.mode == mode and not (np.asarray(image) == 255).any()
    found = read(tmp_path / "out").splits["all"]
    assert [a.segmentation for a in found.annotations] == [to_rle(shape, size) for shape in shapes]


def test_more_classes_than_values(tmp_path: Path) -> None:
    source = dataset(tmp_path / "in", [])
    many = Dataset("val", source.folder, source.images, (), tuple(Category(n, f"c{n}") for n in range(255)))
    with pytest.raises(DatasetError, match="255 classes: SegmentationClass can hold at most 254"):
        voc.write({"val": many}, tmp_path / "out")


def test_names_of_images(tmp_path: Path) -> None:
    names = ["x/a.jpg", "a.png", "a.jpg"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "in" / name)
    images = tuple(ImageRecord(n, name, 30, 20) for n, name in enumerate(names))
    marks = tuple(Annotation(n, n, 0, square(0, 0, n + 1)) for n in range(3))
    (tmp_path / "out").mkdir()
    splits = {"train": Dataset("train", tmp_path / "in", images, marks, (Category(0, "a"),))}
    (note,) = voc.write(splits, tmp_path / "out")
    assert note == "images renamed, as VOC has no sub-folders and ignores suffixes: 2"
    found = read(tmp_path / "out").splits["train"]
    assert len({Path(image.file_name).stem for image in found.images}) == 3
    assert [a.segmentation for a in found.annotations] == [square(0, 0, n + 1) for n in range(3)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data here")
@pytest.mark.parametrize(("name", "most"), [("coco_sample", 40), ("nuclei", 8)])
def test_real_masks_come_back_but_for_what_is_covered(tmp_path: Path, name: str, most: int) -> None:
    whole = read_any(SHARED / name).splits
    splits = {split: found.select(found.images[:most]) for split, found in whole.items()}
    voc.write(splits, tmp_path)
    reading = read(tmp_path)
    assert not reading.faults and list(reading.splits) == list(splits)
    for split, found in reading.splits.items():
        assert found.names == splits[split].names
        images = {image.file_name: image for image in found.images}
        for image in splits[split].images:
            before = [a for a in splits[split].of(image) if not a.crowd]
            decoded = [rle_decode(to_rle(a.segmentation, image.size), image.size) for a in before]
            depth = np.sum(decoded, axis=0) if decoded else np.zeros(image.size)
            for old, mask, new in zip(before, decoded, found.of(images[image.file_name]), strict=True):
                assert splits[split].labels[old.category_id] == found.labels[new.category_id]
                assert not (mask & (depth == 1) & ~rle_decode(run_lengths(new), image.size)).any()
                assert not (rle_decode(run_lengths(new), image.size) & ~mask).any()
