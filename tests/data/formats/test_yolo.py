"""YOLO-seg: every layout in use is read, every bad line is reported, and every mask comes back pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.encoded import READABLE, encoded
from fixtures.yolo import SQUARE, detect, image, make, one, read, text
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import area
from maskline.errors import DatasetError, DatasetNotFoundError

SHARED = Path(__file__).parents[4] / "shared" / "data"


MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 1))


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


def test_labels_next_to_the_images(tmp_path: Path) -> None:
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
        ("image-missing", "list.txt", "line 4: image '/far/away/images/none.jpg' not found"),
        ("image-missing", "list.txt", "line 5: image '../secret.txt' not found"),
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
        ("names: [a]\nval: data.yaml", "val is 'data.yaml': no such folder or list of images"),
        ("names: [a]\ntest: [[]]", "test is a list: no such folder or list of images"),
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
        ("-1 .1 .1 .5 .1 .5 .5", "record", "line 2: the class is -1: expected an integer from 0"),
        ("nan .1 .1 .5 .1 .5 .5", "record", "line 2: the class is nan"),
        ("apple .1 .1 .5 .1 .5 .5", "record", "line 2: expected numbers (class x1 y1 x2 y2 ...), not 'apple"),
        ("0 .1 .1 .5 .1 .5 .5 .9", "polygon-broken", "line 2: 7 coordinates: expected pairs of x and y, 3 or more"),
        ("0", "polygon-broken", "line 2: 0 coordinates"),
        ("0 .1 .1 nan .1 .5 .5", "polygon-broken", "line 2: coordinates from"),
        ("0 .1 .1 inf .1 .5 .5", "polygon-broken", "line 2: coordinates from 0.1 to inf: expected fractions"),
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
def test_bad_lines_are_reported_and_the_good_ones_stay(tmp_path: Path, line: str, code: str, what: str) -> None:
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
    """Those that are read come with their labels; the labels of the others are reported."""
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
    expected = [*unread, "no image has its name"]
    assert sorted(lost) == [(f"labels/{first + n}.txt", f"1 line; {why}", 1) for n, why in enumerate(expected)]


@pytest.mark.parametrize(
    ("files", "label", "why"),
    [
        (
            {"images/a.jpg": "", "images/b/a.png": "", "labels/x/c.txt": SQUARE},
            "labels/x/c.txt",
            "no image has its name",
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


def test_texts_that_are_not_labels_are_not_read_as_labels(tmp_path: Path) -> None:
    texts = {"labels/classes.txt": "a\nb\n", "labels/README.txt": "Labels of 2024\n1 2 3\n", "labels/x.txt": "\n"}
    reading = read(make(tmp_path, None, {"images/1.jpg": "", "labels/1.txt": SQUARE, **texts}))
    assert reading.faults == [] and reading.splits["all"].names == ["a", "b"]


@pytest.mark.parametrize("content", ["\ufeff" + SQUARE, ("\ufeff" + SQUARE).encode("utf-16-le"), "a .1 .1 .5 .1 .5 .5"])
def test_label_files_next_to_the_images_are_read_however_they_begin(tmp_path: Path, content: str | bytes) -> None:
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


def test_what_ultralytics_predicted_is_not_a_label(tmp_path: Path) -> None:
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
def test_another_data_set_with_other_classes_next_to_the_first_is_refused(tmp_path: Path, other: str) -> None:
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


def test_a_pointer_of_git_lfs_is_not_a_list_of_classes(tmp_path: Path) -> None:
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
