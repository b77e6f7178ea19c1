"""Pascal VOC: maps of any kind a tool writes are read as instances, what can't be is told, and masks come back."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.faults import Reading
from maskline.data.formats.voc import format as voc
from maskline.data.formats.voc.maps import LabelMap, colour_numbers, palette, read_map, save_map, separate_instances
from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import to_rle
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError, InputError
from maskline.masks import rle_decode, rle_encode

SHARED = Path(__file__).parents[4] / "shared" / "data"
# Instances 1 (of two parts) and 3 with a border of void; 3 is of class 2, a pixel of it of class 1.
OBJECTS = np.asarray([[1, 1, 255, 0], [0, 0, 255, 3], [1, 255, 3, 3]], np.uint8)
KINDS = np.asarray([[1, 1, 255, 0], [0, 0, 255, 1], [1, 255, 2, 2]], np.uint8)
SIZE = (3, 4)
PALETTE = palette()


def read(root: Path) -> Reading:
    """What the format's own reader makes of a folder or file."""
    return voc.read(Source.of(root))


def detect(root: Path) -> bool:
    return root.exists() and bool(voc.detect(Source.of(root)))


def save(path: Path, values: np.ndarray, mode: str = "P") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "P":
        image = Image.fromarray(values)
        image.putpalette(PALETTE.tobytes())
    else:
        image = Image.fromarray(PALETTE[values] if mode.startswith("RGB") else values).convert(mode)
    image.save(path)
    return path


def make(
    root: Path, lists: Mapping[str, str] | None = None, names: str | None = "background\na\nb\n", mode: str = "P"
) -> Path:
    """One image, 1.jpg, with both maps."""
    save(root / "JPEGImages" / "1.jpg", np.zeros((*SIZE, 3), np.uint8)[..., 0], "RGB")
    save(root / "SegmentationObject" / "1.png", OBJECTS, mode)
    save(root / "SegmentationClass" / "1.png", KINDS, mode)
    for name, lines in (lists or {}).items():
        path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines)
    if names is not None:
        (root / "labels.txt").write_text(names)
    return root


def masks(dataset: Dataset) -> list[tuple[int, list[list[int]]]]:
    sizes = {image.id: image.size for image in dataset.images}
    return [(a.category_id, rle_decode(a.segmentation, sizes[a.image_id]).tolist()) for a in dataset.annotations]


EXPECTED = [(1, (OBJECTS == 1).astype(int).tolist()), (2, (OBJECTS == 3).astype(int).tolist())]


# ---- reading


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("base", [".", "VOC2012", "VOCdevkit/VOC2007"])
def test_maps_of_every_kind(tmp_path: Path, mode: str, base: str) -> None:
    make(tmp_path / base, {"train": "1\n"}, mode=mode)
    assert detect(tmp_path)
    reading = read(tmp_path)
    assert not reading.faults
    found = reading.splits["train"]
    assert masks(found) == EXPECTED
    assert [(c.id, c.name) for c in found.categories] == [(1, "a"), (2, "b")]
    assert [(a.id, a.image_id) for a in found.annotations] == [(1, 1), (2, 1)]
    (image,) = found.images
    assert image.file_name == "1.jpg" and image.size == SIZE and found.path(image).is_file()


def test_16_bits_have_another_void(tmp_path: Path) -> None:
    objects = OBJECTS.astype(np.uint16)
    objects[0, 0], objects[1, 0] = 300, 65535
    root = make(tmp_path)
    Image.fromarray(objects).save(root / "SegmentationObject" / "1.png")
    KINDS_NO_VOID = np.where(KINDS == 255, 1, KINDS).astype(np.uint8)
    save(root / "SegmentationClass" / "1.png", KINDS_NO_VOID)
    found = read(root).splits["all"]
    numbers = [np.argwhere(objects == n).tolist() for n in (1, 3, 255, 300)]
    assert [np.argwhere(mask).tolist() for _, mask in masks(found)] == numbers


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({}, {"all": ["1.jpg"]}),
        ({"trainval": "1\n"}, {"all": ["1.jpg"]}),
        ({"default": '"1"\r\n\r\n'}, {"all": ["1.jpg"]}),
        ({"val": "1  -1\n", "trainval": "1\n2\n"}, {"val": ["1.jpg"]}),
        ({"valid": "1.jpg\n1\n", "test": "", "train": ""}, {"train": [], "val": ["1.jpg"], "test": []}),
    ],
)
def test_lists(tmp_path: Path, lists: dict[str, str], expected: dict[str, list[str]]) -> None:
    reading = read(make(tmp_path, lists))
    assert {split: [i.file_name for i in d.images] for split, d in reading.splits.items()} == expected
    assert list(reading.splits) == list(expected) and not reading.faults


@pytest.mark.parametrize(
    ("file", "lines", "names"),
    [
        ("labels.txt", "background\na\nb\n", ["a", "b"]),
        ("labels.txt", "\ufeffa\r\nb\r\n\r\n", ["a", "b"]),
        ("class_names.txt", "__ignore__\n_background_\na\nb", ["a", "b"]),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\na:128,0,0:hand,foot:\nb:::\n",
            ["a", "b"],
        ),
        ("labelmap.txt", "background:0,0,0::\na b: 128, 0, 0::\nb:0,128,0::\nignored:224,224,192::\n", ["a b", "b"]),
        ("labelmap.txt", "#label:color\n# a:128,0,0::\nb:0,128,0::\n", ["# a", "b"]),
        ("class_names.txt", "__ignore__\n_background_\n# a\n__ignore__\n", ["# a", "__ignore__"]),
        (None, "", list(voc.CLASSES[1:])),
    ],
)
def test_class_names(tmp_path: Path, file: str | None, lines: str, names: list[str]) -> None:
    root = make(tmp_path, names=None)
    if file:
        (root / file).write_text(lines, encoding="utf-8")
    reading = read(root)
    assert reading.splits["all"].names == names and not reading.faults
    assert masks(reading.splits["all"]) == EXPECTED


def test_colours_of_a_labelmap(tmp_path: Path) -> None:
    """As CVAT exports: RGB files, colours of its own for classes, also for the background."""
    root = make(tmp_path, names=None, mode="RGB")
    (root / "labelmap.txt").write_text("a:1,2,3::\nBackground:9,9,9::\nb:0,0,0::\n")
    colours = np.asarray([(9, 9, 9), (1, 2, 3), (0, 0, 0)], np.uint8)[np.where(KINDS == 255, 0, KINDS)]
    Image.fromarray(colours).save(root / "SegmentationClass" / "1.png")
    reading = read(root)
    assert not reading.faults
    assert [(c.id, c.name) for c in reading.splits["all"].categories] == [(0, "a"), (2, "b")]
    assert [label for label, _ in masks(reading.splits["all"])] == [0, 2]


def test_png_files_of_labelmes_converter(tmp_path: Path) -> None:
    root = make(tmp_path)
    for kind in ("Class", "Object"):
        (root / f"Segmentation{kind}").rename(root / f"Segmentation{kind}PNG")
        (root / f"Segmentation{kind}").mkdir()
    assert detect(root) and masks(read(root).splits["all"]) == EXPECTED


def test_an_image_with_neither_file_is_background(tmp_path: Path) -> None:
    root = make(tmp_path, {"train": "1\n2\n"})
    save(root / "JPEGImages" / "2.PNG", np.zeros(SIZE, np.uint8))
    reading = read(root)
    assert len(reading.splits["train"].images) == 2 and not reading.faults
    assert not reading.splits["train"].of(reading.splits["train"].images[1])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def _bomb(path: Path) -> None:
    chunks = (
        b"IHDR" + struct.pack(">IIBBBBB", 1 << 17, 1 << 17, 8, 0, 0, 0, 0),
        b"IDAT" + zlib.compress(b"0"),
        b"IEND",
    )
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.mark.parametrize(
    ("change", "code", "file", "what"),
    [
        (lambda r: _cut(r / "SegmentationObject/1.png"), "record", "SegmentationObject/1.png", "no readable PNG file"),
        (lambda r: _cut(r / "SegmentationClass/1.png"), "record", "SegmentationClass/1.png", "no readable PNG file"),
        (lambda r: _bomb(r / "SegmentationClass/1.png"), "record", "SegmentationClass/1.png", "decompression bomb"),
        (lambda r: (r / "SegmentationClass/1.png").unlink(), "record", "SegmentationClass/1.png", "missing, though"),
        (
            lambda r: save(r / "SegmentationObject/1.png", np.ones((5, 9), np.uint8)),
            *("record", "SegmentationObject/1.png", "9 x 5 pixels, but the image has 4 x 3"),
        ),
        (
            lambda r: save(r / "SegmentationObject/1.png", OBJECTS.T.copy()),
            *("record", "SegmentationObject/1.png", "(made without its EXIF orientation?)"),
        ),
        (
            lambda r: Image.new("RGB", SIZE[::-1]).save(r / "SegmentationObject/1.png", format="JPEG"),
            *("record", "SegmentationObject/1.png", "no readable PNG file"),
        ),
        (lambda r: _cut(r / "JPEGImages/1.jpg"), "image-unreadable", "JPEGImages/1.jpg", "not a readable image"),
        (lambda r: (r / "JPEGImages/1.jpg").unlink(), "image-missing", "ImageSets/Segmentation", "no image '1'"),
    ],
)
def test_files_that_can_not_be_used_are_told(tmp_path, change, code, file, what) -> None:  # type: ignore[no-untyped-def]
    root = make(tmp_path, {"train": "1\n2\n"})
    save(root / "JPEGImages" / "2.png", np.zeros(SIZE, np.uint8))
    change(root)
    reading = read(root)
    (fault,) = reading.faults
    assert (fault.code, fault.split, fault.file) == (code, "train", file) and what in fault.what
    assert [image.file_name for image in reading.splits["train"].images] == ["2.png"]


def test_masks_that_no_list_names_and_no_reader_reads_are_told(tmp_path: Path) -> None:
    root = make(tmp_path)
    save(root / "SegmentationClass" / "2.png", KINDS)
    Image.fromarray(OBJECTS).save(root / "SegmentationObject" / "3.tif")
    make(root / "backup")
    told = {fault.code: (fault.file, fault.lost) for fault in read(root).faults}
    assert told == {
        "image-missing": ("ImageSets/Segmentation", 0),  # of 2.png, whose instances are missing too
        "file": ("SegmentationObject/3.tif", 0),
        "file-unread": ("backup/SegmentationObject/1.png", 2),
    }


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (0, "instance 3 is background or void in SegmentationClass"),
        (255, "is background or void"),
        (7, "has the value 7"),
    ],
)
def test_an_instance_without_a_class_is_told(tmp_path: Path, value: int, what: str) -> None:
    root = make(tmp_path)
    save(root / "SegmentationClass" / "1.png", np.where(OBJECTS == 3, value, KINDS).astype(np.uint8))
    reading = read(root)
    (fault,) = reading.faults
    assert fault.code == "unknown-category" and what in fault.what and fault.image_id == 1
    assert masks(reading.splits["all"]) == EXPECTED[:1]


def test_paths_that_lead_out(tmp_path: Path) -> None:
    root = make(tmp_path / "set", {"train": "1\n../../etc/passwd\n"})
    assert [fault.code for fault in read(root).faults] == ["image-path"]


def test_what_can_not_be_read_at_all(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path):
        assert not detect(root)
        with pytest.raises(DatasetNotFoundError):
            read(root)
    make(tmp_path / "VOC2007")
    make(tmp_path / "VOC2012")
    with pytest.raises(DatasetError, match=r"several data sets .*VOC2007, .*VOC2012"):
        read(tmp_path)
    for path in (tmp_path / "VOC2007" / "JPEGImages").iterdir():
        path.unlink()
    (tmp_path / "VOC2007" / "JPEGImages").rmdir()
    with pytest.raises(DatasetNotFoundError, match="no JPEGImages"):
        read(tmp_path / "VOC2007")


def test_a_photo_is_no_map(tmp_path: Path) -> None:
    values = np.arange(70_000, dtype=np.int32).reshape(7, -1)
    with pytest.raises(InputError, match="is it a photo"):
        list(separate_instances(LabelMap(values, 255, True), LabelMap(values, 255, True), {0}))


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 200),
    junk=st.binary(max_size=20),
    names=st.binary(max_size=30),
    kind=st.sampled_from(["Object", "Class"]),
)
def test_junk_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes, names: bytes, kind: str
) -> None:
    root = make(tmp_path_factory.mktemp("junk"), {"train": "1\n"})
    path = root / f"Segmentation{kind}" / "1.png"
    data = path.read_bytes()
    path.write_bytes(data[:place] + junk + data[place + len(junk) :])
    for name in ("labelmap.txt", "ImageSets/Segmentation/val.txt"):
        (root / name).write_bytes(names)
    assert detect(root)
    assert all(str(fault) and "\n" not in fault.what for fault in read(root).faults)


# ---- maps


def test_colours_and_numbers_are_one_to_one() -> None:
    assert PALETTE[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]
    np.testing.assert_array_equal(colour_numbers(PALETTE), np.arange(256))
    colours = np.random.default_rng(0).integers(0, 256, (20_000, 3))
    assert len(np.unique(colour_numbers(colours))) == len(np.unique(colours, axis=0))


@given(
    values=hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, 9, 255])
    ),
    seed=st.integers(0, 9),
)
def test_instances_are_what_a_naive_way_finds(values: np.ndarray, seed: int) -> None:
    kinds = np.random.default_rng(seed).integers(0, 4, values.shape).astype(np.int32)
    expected = []
    for number in sorted({*values.ravel().tolist()} - {0, 255}):
        counts = np.bincount(kinds[values == number], minlength=4)[1:]
        expected.append((number, rle_encode(values == number), int(counts.argmax()) + 1 if counts.any() else None))
    assert (
        list(separate_instances(LabelMap(values.astype(np.int32), 255, False), LabelMap(kinds, 255, False), {0, 255}))
        == expected
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_maps_come_back(tmp_path: Path, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (30, 20)).astype(dtype)
    save_map(values, tmp_path / "a.png")
    found = read_map(tmp_path / "a.png")
    np.testing.assert_array_equal(found.values, values)
    assert found.void == np.iinfo(dtype).max
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("P" if dtype is np.uint8 else "I;16")


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


def test_smaller_instances_lie_on_top_and_losses_are_told(tmp_path: Path) -> None:
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
    ours = {a.id: rle_decode(a.segmentation, (20, 30)) for a in read(tmp_path / "out").splits["val"].annotations}
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
                assert not (mask & (depth == 1) & ~rle_decode(new.segmentation, image.size)).any()
                assert not (rle_decode(new.segmentation, image.size) & ~mask).any()
