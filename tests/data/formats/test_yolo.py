"""YOLO-seg: every layout in the field is read, every bad line is told, and every mask comes back pixel for pixel."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from fixtures.encoded import READABLE, encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.faults import Reading
from maskline.data.formats.yolo import format as yolo
from maskline.data.formats.yolo.bridges import apart, boundary, bridged
from maskline.data.formats.yolo.lines import to_pixels
from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import area, to_rle
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError
from maskline.masks import Window, place_rle, rle_encode

SHARED = Path(__file__).parents[4] / "shared" / "data"
SQUARE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 1))


def read(root: Path) -> Reading:
    """What the format's own reader makes of a folder or file."""
    return yolo.read(Source.of(root))


def detect(root: Path) -> bool:
    return root.exists() and bool(yolo.detect(Source.of(root)))


def image(path: Path, size: tuple[int, int] = (20, 10), **options: object) -> Path:
    """An image of ``(width, height)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def make(root: Path, config: object, files: Mapping[str, str | bytes]) -> Path:
    """A data set: images for names with such a suffix, texts for others; ``config`` as data.yaml."""
    if config is not None:
        text(root / "data.yaml", yaml.safe_dump(config))
    for name, content in files.items():
        if name.endswith(".txt"):
            text(root / name, content)
        else:
            image(root / name)
    return root


def one(root: Path, line: str | bytes, names: Sequence[str] = ("a", "b")) -> Reading:
    """What is read of one image with these labels."""
    config = {"train": "images/train", "names": list(names)}
    return read(make(root, config, {"images/train/1.png": "", "labels/train/1.txt": line}))


def dataset(folder: Path, masks: Sequence[object], size: tuple[int, int] = (30, 40), **options: object) -> Dataset:
    """An image with an annotation for each mask, polygons or run lengths."""
    image(folder / "a.png", size[::-1])
    annotations = tuple(Annotation(n + 1, 1, 7, mask, **options) for n, mask in enumerate(masks))
    return Dataset("train", folder, (ImageRecord(1, "a.png", size[1], size[0]),), annotations, (Category(7, "x"),))


# ---- reading


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"train": "images/train", "val": "images/val"}, "images/{}/1.jpg"),
        ({"path": ".", "train": "images/train", "val": "images/val"}, "images/{}/1.jpg"),
        ({"path": "/content/other/machine", "train": "images/train", "val": "images/val"}, "images/{}/1.jpg"),
        ({"path": "sub", "train": "images/train/", "val": "./images/val"}, "sub/images/{}/1.jpg"),
        ({"train": "../train/images", "val": "../val/images"}, "{}/images/1.jpg"),
        ({"train": r"C:\sets\fruit\train\images", "val": r"val\images"}, "{}/images/1.jpg"),
        ({"train": "/home/other/fruit/train", "valid": "val"}, "{}/images/1.jpg"),
        ({"train": ["images/train", "images/none"], "validation": ["images/val"]}, "images/{}/1.jpg"),
        ({"train": "images/train", "val": "images/val", "test": None}, "images/{}/deep/er/1.JPG"),
        ({"train": "train", "val": "val"}, "{}/1.jpg"),
        ({}, "images/{}/1.jpg"),
        ({}, "{}/images/1.jpg"),
    ],
)
def test_layouts(tmp_path: Path, config: dict[str, object], where: str) -> None:
    files = {}
    for split, line in (("train", SQUARE), ("val", "")):
        name = where.format(split)
        files[name] = ""
        files[name.replace("images", "labels").rpartition(".")[0] + ".txt"] = line
    root = make(tmp_path, {**config, "names": ["apple"]}, files)
    assert detect(root) and detect(root / "data.yaml") == bool(config)
    for source in (root, root / "data.yaml"):
        reading = read(source)
        expected = ["record"] if "images/none" in str(config) else []
        assert [fault.code for fault in reading.faults] == expected
        assert {split: len(d.annotations) for split, d in reading.splits.items()} == {"train": 1, "val": 0}
        for found in reading.splits.values():
            assert found.names == ["apple"]
            (image,) = found.images
            assert found.path(image).is_file() and image.size == (10, 20)
        (annotation,) = reading.splits["train"].annotations
        np.testing.assert_array_equal(annotation.segmentation, [[(2, 1), (10, 1), (10, 5), (2, 5)]])


def test_folders_without_a_yaml_file(tmp_path: Path) -> None:
    root = make(tmp_path, None, {"images/a.jpg": "", "images/b.jpg": "", "labels/a.txt": "2" + SQUARE[1:]})
    assert detect(root)
    found = read(root).splits["all"]
    assert found.names == ["class_0", "class_1", "class_2"] and found.annotations[0].category_id == 2
    assert [image.file_name for image in found.images] == ["a.jpg", "b.jpg"]
    text(root / "classes.txt", "\ufeffx\ny\r\nz\n\n")
    assert read(root).splits["all"].names == ["x", "y", "z"]


def test_labels_beside_the_images(tmp_path: Path) -> None:
    root = make(tmp_path, None, {"a.jpg": "", "a.txt": SQUARE, "obj.names.txt": ""})
    assert detect(root)
    text(root / "obj.names", "apple\n")
    assert len(read(root).splits["all"].annotations) == 1


def test_lists_of_images(tmp_path: Path) -> None:
    lines = "./images/a.jpg\r\n\ndata/images/b.jpg\n/far/away/images/none.jpg\n../secret.txt\n"
    files = {"images/a.jpg": "", "images/b.jpg": "", "images/c.jpg": "", "labels/b.txt": SQUARE, "list.txt": lines}
    reading = read(make(tmp_path, {"train": "list.txt", "names": {0: "a"}}, files))
    assert [image.file_name for image in reading.splits["train"].images] == ["a.jpg", "b.jpg"]
    assert [(fault.code, fault.file, fault.what) for fault in reading.faults] == [
        ("image-missing", "list.txt", "line 4: there is no image '/far/away/images/none.jpg'"),
        ("image-missing", "list.txt", "line 5: there is no image '../secret.txt'"),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: [no, 1, null]", ["no", "1", "null"]),
        ("names: {1: b, 0: a}", ["a", "b"]),
        ("names: {0: a, 2: c}\nnc: 3", ["a", "class_1", "c"]),
        ("nc: 2", ["class_0", "class_1"]),
    ],
)
def test_class_names(tmp_path: Path, names: str, expected: list[str]) -> None:
    root = make(tmp_path, None, {"images/train/1.png": "", "labels/train/1.txt": ""})
    text(root / "dataset.yml", f"\ufefftrain: images/train\n{names}\n")
    text(root / "args.yaml", "epochs: 3\n")
    reading = read(root)
    assert reading.splits["train"].names == expected and not reading.faults


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ("names: [a, b]\nnc: 3", "nc is '3', but 2 classes are named"),
        ("names: apple", "names: expected a list of class names, or a mapping from index to name"),
        ("names: {a: 1}", "names: expected a list of class names, or a mapping from index to name"),
        ("names: {9999999: a}", "names: expected a list of class names, or a mapping from index to name"),
        ("names: [a, a]", "2 classes are named 'a'"),
        ("names: [a]\nval: data.yaml", "val is 'data.yaml': there is no such folder, or list of images"),
        ("names: [a]\ntest: [[]]", "test is a list: there is no such folder, or list of images"),
    ],
)
def test_faults_of_the_yaml_file(tmp_path: Path, names: str, what: str) -> None:
    root = make(tmp_path, None, {"images/train/1.png": "", "labels/train/1.txt": SQUARE})
    text(root / "data.yaml", f"train: images/train\n{names}\n")
    reading = read(root)
    assert [(fault.file, fault.what) for fault in reading.faults] == [("data.yaml", what)]
    assert len(reading.splits["train"].annotations) == 1


@pytest.mark.parametrize(
    ("line", "code", "what"),
    [
        ("0 0.5 0.5 0.2 0.2", "no-mask", "line 2: a box (class x y width height): expected a polygon"),
        ("2 .1 .1 .5 .1 .5 .5", "unknown-category", "line 2: class 2: expected one from 0 to 1"),
        ("-1 .1 .1 .5 .1 .5 .5", "record", "line 2: the class is -1: expected a whole number from 0"),
        ("nan .1 .1 .5 .1 .5 .5", "record", "line 2: the class is nan"),
        ("apple .1 .1 .5 .1 .5 .5", "record", "line 2: expected numbers (class x1 y1 x2 y2 ...), not 'apple"),
        ("0 .1 .1 .5 .1 .5 .5 .9", "polygon-broken", "line 2: 7 coordinates: expected pairs of x and y, 3 or more"),
        ("0", "polygon-broken", "line 2: 0 coordinates"),
        ("0 .1 .1 nan .1 .5 .5", "polygon-broken", "line 2: coordinates from"),
        ("0 .1 .1 inf .1 .5 .5", "polygon-broken", "line 2: coordinates from 0.1 to inf: expected shares"),
        (
            "0 1 1 5 1 5 5",
            "polygon-broken",
            "line 2: coordinates from 1 to 5: expected fractions of width and height, from",
        ),
        ("0 12 30 400 30 400 99", "polygon-broken", "(are they pixels?)"),
        ("0 .1 .1 .5 .1 .3 .1", "polygon-broken", "line 2: the polygon has no area"),
        ("\0\xff", "record", "line 2: expected numbers"),
    ],
)
def test_bad_lines_are_told_and_the_good_ones_stay(tmp_path: Path, line: str, code: str, what: str) -> None:
    reading = one(tmp_path, f"{SQUARE}\n{line}\n\n1.0{SQUARE[1:]} 0.1 0.1\n")
    (fault,) = reading.faults
    assert (fault.code, fault.split, fault.file, fault.image_id) == (code, "train", "labels/train/1.txt", 1)
    assert what in fault.what
    found = reading.splits["train"].annotations
    assert [(a.id, a.category_id) for a in found] == [(1, 0), (2, 1)]
    np.testing.assert_array_equal(found[0].segmentation, found[1].segmentation)


def test_a_polygon_may_leave_the_image_a_little(tmp_path: Path) -> None:
    (annotation,) = one(tmp_path, "0 -0.1 0 1.2 0 1.2 1 -0.1 1").splits["train"].annotations
    assert area(annotation.segmentation, (10, 20)) == 200


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    root = make(tmp_path, {"train": "images", "names": ["a"]}, {"labels/1.txt": SQUARE})
    exif = Image.Exif()
    exif[0x0112] = 6
    image(root / "images" / "1.jpg", (20, 10), exif=exif)
    text(root / "images" / "2.jpg", b"\xff\xd8\xff no image")
    text(root / "images" / "._1.jpg", b"of a Mac")
    reading = read(root)
    assert [image.size for image in reading.splits["train"].images] == [(20, 10)]
    assert [(fault.code, fault.file) for fault in reading.faults] == [("image-unreadable", "images/2.jpg")]


def test_images_of_every_suffix(tmp_path: Path) -> None:
    """Those that are read come with their labels; the labels of the others are told."""
    kinds = [*READABLE, "HEIC", "gif", "jp2", "JPG_large"]
    text(tmp_path / "classes.txt", "thing\n")
    for number, suffix in enumerate(kinds):
        data = encoded(suffix) if suffix in READABLE else b"content"
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{number}.{suffix}").write_bytes(data)
        text(tmp_path / "labels" / f"{number}.txt", f"{SQUARE}\n")
    reading = read_any(tmp_path)
    (found,) = reading.splits.values()
    assert {image.file_name for image in found.images} == {f"{n}.{suffix}" for n, suffix in enumerate(READABLE)}
    assert {image.size for image in found.images} == {(40, 50)}
    assert [len(found.of(image)) for image in found.images] == [1] * len(READABLE)
    lost = [(fault.file, fault.what, fault.lost) for fault in reading.faults if fault.code == "label-unmatched"]
    first = len(READABLE)
    unread = [f"its image images/{first + n}.{kinds[first + n]} has an unsupported format" for n in range(3)]
    expected = [*unread, "there is no image with its name"]
    assert sorted(lost) == [(f"labels/{first + n}.txt", f"1 line; {why}", 1) for n, why in enumerate(expected)]


@pytest.mark.parametrize(
    ("files", "label", "why"),
    [
        (
            {"images/a.jpg": "", "images/b/a.png": "", "labels/x/c.txt": SQUARE},
            "labels/x/c.txt",
            "there is no image with its name",
        ),
        (
            {"images/a.jpg": "", "images/a.png": "", "labels/a.txt": SQUARE},
            *("labels/a.txt", "several images have its name: images/a.jpg, images/a.png"),
        ),
        (
            {"images/a.jpg": "", "images/a.txt": SQUARE, "labels/a.txt": SQUARE},
            *("images/a.txt", "its image images/a.jpg has another label file, labels/a.txt"),
        ),
    ],
)
def test_why_a_label_file_has_no_image(tmp_path: Path, files: dict[str, str], label: str, why: str) -> None:
    make(tmp_path, None, {"images/other.png": "", "labels/other.txt": SQUARE, **files})
    lost = [(fault.file, fault.what, fault.lost) for fault in read(tmp_path).faults if fault.code == "label-unmatched"]
    assert lost == [(label, f"1 line; {why}", 1)]


def test_texts_that_are_no_labels_are_not_taken_for_any(tmp_path: Path) -> None:
    texts = {"labels/classes.txt": "a\nb\n", "labels/README.txt": "Labels of 2024\n1 2 3\n", "labels/x.txt": "\n"}
    reading = read(make(tmp_path, None, {"images/1.jpg": "", "labels/1.txt": SQUARE, **texts}))
    assert reading.faults == [] and reading.splits["all"].names == ["a", "b"]


@pytest.mark.parametrize("content", ["\ufeff" + SQUARE, ("\ufeff" + SQUARE).encode("utf-16-le"), "a .1 .1 .5 .1 .5 .5"])
def test_label_files_beside_the_images_are_read_however_they_begin(tmp_path: Path, content: str | bytes) -> None:
    texts = {"1.txt": SQUARE, "2.txt": content, "classes.txt": "a\n", "notes.txt": "to do"}
    reading = read(make(tmp_path, None, {"1.jpg": "", "2.jpg": "", **texts}))
    annotations = len(reading.splits["all"].annotations)
    assert annotations + len(reading.faults) == 2 and {fault.code for fault in reading.faults} <= {"record"}


@pytest.mark.parametrize("words", [("training", "validation"), ("Train", "val"), ("train2017", "val2017")])
def test_folders_of_splits(tmp_path: Path, words: tuple[str, str]) -> None:
    files = {f"images/{word}/{n}.jpg": "" for n, word in enumerate(words)}
    labels = {f"labels/{word}/{n}.txt": SQUARE for n, word in enumerate(words)}
    reading = read(make(tmp_path, None, files | labels))
    assert list(reading.splits) == ["train", "val"] and not reading.faults


def test_what_ultralytics_predicted_is_no_label(tmp_path: Path) -> None:
    runs = {"runs/segment/predict/labels/1.txt": SQUARE, "runs/segment/predict/labels/2.txt": SQUARE}
    reading = read(make(tmp_path, None, {"images/1.jpg": "", "images/2.jpg": "", "labels/1.txt": SQUARE, **runs}))
    assert len(reading.splits["all"].annotations) == 1 and not reading.faults


def test_the_yaml_file_with_splits_is_that_of_the_data_set(tmp_path: Path) -> None:
    make(tmp_path, None, {"images/train/1.jpg": "", "labels/train/1.txt": SQUARE})
    text(tmp_path / "a_model.yaml", "nc: 80\n")
    text(tmp_path / "k8s.yaml", "a: 1\n---\nb: 2\n")
    text(tmp_path / "zebra.yaml", "names: [zebra]\ntrain: images/train\n")
    assert read(tmp_path).splits["train"].names == ["zebra"]


@pytest.mark.parametrize("other", ["data.yaml", "classes.txt"])
def test_another_data_set_with_other_classes_beside_the_first_is_refused(tmp_path: Path, other: str) -> None:
    for name in "ab":
        make(tmp_path / name, {"names": ["cat", "dog"]}, {"images/1.jpg": "", "labels/1.txt": SQUARE})
    assert read(tmp_path).splits["all"].names == ["cat", "dog"]
    (tmp_path / "b" / "data.yaml").unlink()
    text(tmp_path / "b" / other, "names: [dog, cat]" if other == "data.yaml" else "dog\ncat\n")
    with pytest.raises(DatasetError, match="name different classes: read the data sets separately"):
        read(tmp_path)


def test_classes_without_names_are_reported(tmp_path: Path) -> None:
    reading = read(make(tmp_path, None, {"images/1.jpg": "", "labels/1.txt": "1" + SQUARE[1:]}))
    assert [fault.code for fault in reading.faults] == ["no-class"]


def test_a_pointer_of_git_lfs_is_no_list_of_classes(tmp_path: Path) -> None:
    make(tmp_path, None, {"images/1.jpg": "", "labels/1.txt": SQUARE})
    text(tmp_path / "classes.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DatasetError, match="run git lfs pull"):
        read(tmp_path)


def test_lists_of_classes_that_differ_are_refused(tmp_path: Path) -> None:
    sets = {
        f"{name}/{kind}/1.{suffix}": SQUARE for name in "ab" for kind, suffix in (("images", "png"), ("labels", "txt"))
    }
    make(tmp_path, None, sets | {"a/classes.txt": "cat\ndog\n", "b/labels/classes.txt": "car\nbus\n"})
    with pytest.raises(DatasetError, match=r"a/classes\.txt and b/labels/classes\.txt in .* name different classes"):
        read(tmp_path)
    text(tmp_path / "classes.txt", "tree\n")  # further up
    assert read(tmp_path).splits["all"].names == ["tree"]


def test_an_image_that_is_found_elsewhere_is_reported(tmp_path: Path) -> None:
    reading = read(make(tmp_path, {"names": ["a"]}, {"photos/2024/1.jpg": "", "labels/1.txt": SQUARE}))
    assert [(fault.code, fault.file) for fault in reading.faults] == [("image-moved", "labels/1.txt")]
    assert len(reading.splits["all"].annotations) == 1


@pytest.mark.parametrize(("key", "code"), [("train", "record"), ("val", "split-missing"), ("test", "split-missing")])
def test_a_split_whose_folder_is_not_there(tmp_path: Path, key: str, code: str) -> None:
    config = {"names": ["a"], "train": "../train/images", "val": "../train/images", key: "../gone/images"}
    reading = read(make(tmp_path, config, {"train/images/1.jpg": "", "train/labels/1.txt": SQUARE}))
    assert [fault.code for fault in reading.faults] == [code]
    assert key not in reading.splits


def test_what_can_not_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        read(tmp_path / "none")
    assert not detect(tmp_path) and not detect(tmp_path / "none")
    with pytest.raises(DatasetNotFoundError, match="no images of a YOLO data set"):
        read(tmp_path)
    other = text(tmp_path / "x.json", "{}")
    assert not detect(other)
    with pytest.raises(DatasetError, match=r"is not a data\.yaml"):
        read(other)
    config = text(tmp_path / "data.yaml", "names: [a\n")
    with pytest.raises(DatasetError, match="is not readable YAML"):
        read(tmp_path)
    config.write_text("names: [a]\nkpt_shape: [17, 3]\ntrain: images\n")
    with pytest.raises(DatasetError, match="key points"):
        read(tmp_path)
    config.write_text("names: [a]\ntrain: images\n")
    with pytest.raises(DatasetNotFoundError, match="no images"):
        read(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.binary(max_size=60), config=st.binary(max_size=80), key=st.sampled_from(["names", "nc", "train", "path"])
)
def test_junk_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, labels: bytes, config: bytes, key: str
) -> None:
    root = make(
        tmp_path_factory.mktemp("junk"), None, {"images/1.png": "", "labels/1.txt": labels, "train.txt": config}
    )
    text(root / "data.yaml", b"names: [a]\nval: train.txt\ntrain: images\n" + key.encode() + b": " + config)
    detect(root)
    try:
        reading = read(root)
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert all(str(fault) and len(fault.what) < 200 for fault in reading.faults)


# ---- bridges


@settings(max_examples=300, deadline=None)
@given(mask=MASKS.filter(np.any), top=st.integers(0, 3), left=st.integers(0, 3))
def test_any_mask_is_one_polygon_and_comes_apart_again(mask: np.ndarray, top: int, left: int) -> None:
    height, width = mask.shape
    size, window = (height + 5, width + 4), Window(top, top + height, left, left + width)
    whole = place_rle(mask, window, size)
    rings = boundary(mask, window)
    ring = bridged(rings)
    assert to_rle((ring,), size) == whole
    shape = apart(ring, size)
    assert to_rle(shape, size) == whole
    if not isinstance(shape, str):  # no holes: the rings themselves, whatever vertex they begin with
        assert sorted(map(_turned, shape)) == sorted(map(_turned, rings))


def _turned(ring: np.ndarray) -> list[tuple[float, float]]:
    vertices = list(map(tuple, ring.tolist()))
    return min(vertices[start:] + vertices[:start] for start in range(len(vertices)))


def test_bridges_are_short() -> None:
    mask = np.zeros((10, 100), np.uint8)
    for left in (60, 20, 0, 40, 80):
        mask[2:8, left : left + 18] = 1
    ring = bridged(boundary(mask, Window(0, 10, 0, 100)))
    steps = np.abs(np.diff(ring, axis=0)).sum(axis=1)
    assert sorted(steps[steps < 6].tolist()) == [2] * 8  # each gap of 2 there and back, though parts lie 20 apart


def test_a_spike_is_no_bridge_to_anything() -> None:
    ring = np.asarray([(0, 0), (4, 0), (4, 4), (9, 9), (4, 4), (0, 4)], np.float64)
    np.testing.assert_array_equal(apart(ring, (10, 10)), [[(0, 0), (4, 0), (4, 4), (0, 4)]])


def test_thousands_of_parts_in_reasonable_time() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[::3, ::3] = 1
    ring = bridged(boundary(mask, Window(0, 200, 0, 200)))
    assert to_rle(apart(ring, (200, 200)), (200, 200)) == rle_encode(mask)


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
    shapes = [parts, rle_encode(holed), overlap, outside, nothing, rle_encode(1 - holed)]
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
    assert sorted(map(_turned, found[0].segmentation)) == sorted(map(_turned, parts))
    assert isinstance(found[1].segmentation, str) and not isinstance(found[4].segmentation, str)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(4, 5000),
    points=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=3, max_size=8),
)
def test_coordinates_keep_three_decimals(width: int, points: list[tuple[int, int]]) -> None:
    size = (width * 2 // 3 + 1, width)
    ring = np.round(np.asarray(points) / 1e6 * size[::-1], 3)
    np.testing.assert_array_equal(to_pixels(format._shares(format._text(ring, size)), size)[: len(ring) - 1], ring[:-1])


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
        for image in splits[split].images:
            before, after = splits[split].of(image), found.of(images[image.file_name])
            assert [splits[split].labels[a.category_id] for a in before] == [a.category_id for a in after]
            shapes = zip(before, after, strict=True)
            assert all(to_rle(a.segmentation, image.size) == to_rle(b.segmentation, image.size) for a, b in shapes)
