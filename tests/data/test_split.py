"""Dividing: nothing lost, nothing twice, always alike, and what was there is kept."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures import sets
from fixtures.narrow import imread
from hypothesis import given
from hypothesis import strategies as st

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.formats.coco import coco_json
from maskline.data.options import SplitConfig
from maskline.data.reading import load_splits
from maskline.data.split import merge, split_dataset, split_in_place, split_into
from maskline.errors import DatasetError, ParameterError

SQUARE = (np.asarray([[1.0, 1], [5, 1], [5, 5], [1, 5]]),)


def made(labels: list[list[int]], names: list[str] | None = None) -> Dataset:
    """A data set of images with one annotation for each label given."""
    images = [
        ImageRecord(i + 1, names[i] if names else f"{i:04}.png", 9, 9, {"patient": i // 3}) for i in range(len(labels))
    ]
    pairs = [(image.id, label) for image, found in zip(images, labels, strict=True) for label in found]
    annotations = [Annotation(n, image, label, SQUARE) for n, (image, label) in enumerate(pairs)]
    return Dataset("all", Path("images"), images, annotations, [Category(i, f"class {i}") for i in range(10)])


@given(st.integers(2, 60), st.floats(0, 100), st.integers(0, 5), st.booleans())
def test_val_is_what_train_is_not(count: int, percent: float, seed: int, stratify: bool) -> None:
    """B32."""
    dataset = made([[i % 3] * (i % 4) for i in range(count)])
    parts = split_dataset(dataset, SplitConfig(percent, seed, stratify))
    ids = [{image.id for image in parts[name].images} for name in ("train", "val")]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == {image.id for image in dataset.images}
    assert sum(len(part.annotations) for part in parts.values()) == len(dataset.annotations)
    assert len(ids[0]) == round(count * (100 - percent) / 100) or abs(len(ids[0]) - count * (100 - percent) / 100) <= 1
    assert (0 < percent < 100) <= bool(ids[0] and ids[1])


def test_five_images_in_halves() -> None:
    """B32: PaddleX loses one."""
    parts = split_dataset(made([[0]] * 5), SplitConfig(50))
    assert (len(parts["train"].images), len(parts["val"].images)) == (3, 2)


def test_the_same_images_and_seed_are_divided_alike() -> None:
    """B32."""
    dataset = made([[i % 3] for i in range(40)])
    turned = Dataset("all", dataset.folder, dataset.images[::-1], dataset.annotations, dataset.categories)

    def val(data: Dataset, seed: int) -> set[str]:
        return {image.file_name for image in split_dataset(data, SplitConfig(30, seed))["val"].images}

    assert val(dataset, 1) == val(turned, 1) != val(dataset, 2)


@pytest.mark.parametrize("seed", range(5))
def test_stratified_gives_rare_classes_their_share(seed: int) -> None:
    labels = [[0]] * 60 + [[1]] * 30 + [[2, 0]] * 10 + [[]] * 20
    parts = split_dataset(made(labels), SplitConfig(20, seed, stratify=True))
    assert len(parts["val"].images) == 24
    counts = Counter(annotation.category_id for annotation in parts["val"].annotations)
    assert counts[2] == 2 and counts[1] == 6 and counts[0] == 14


def test_groups_stay_together() -> None:
    names = [f"slide{i // 4}/tile{i % 4}_s{i // 2}.png" for i in range(40)]
    dataset = made([[i % 2] for i in range(40)], names)
    groups: tuple[tuple[str, Callable[[ImageRecord], str]], ...] = (
        ("folder", lambda image: image.file_name.split("/")[0]),
        (r"_(s\d+)", lambda image: image.file_name.split("_")[1]),
        (r"s\d+\.", lambda image: image.file_name.split("_")[1]),
        ("key:patient", lambda image: image.extra["patient"]),
    )
    for group, key in groups:
        for stratify in (False, True):
            parts = split_dataset(dataset, SplitConfig(25, 3, stratify, group))
            keys = [{key(image) for image in part.images} for part in parts.values()]
            assert not keys[0] & keys[1] and 6 <= len(parts["val"].images) <= 14


@pytest.mark.parametrize(
    ("group", "what"),
    [
        ("key:nope", "none of 4 images has an entry 'nope'"),
        ("^x", "has a file name that matches"),
        ("(x)?$", "none"),
    ],
)
def test_a_group_that_no_image_has_is_refused(group: str, what: str) -> None:
    with pytest.raises(ParameterError, match=what) as raised:
        split_dataset(made([[0]] * 4), SplitConfig(group=group))
    assert "\n" not in str(raised.value)


def test_images_without_a_group_are_alone_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{'a_' if i < 4 else ''}{i}.png" for i in range(10)]
    parts = split_dataset(made([[0]] * 10, names), SplitConfig(50, group="^(a)_"))
    assert len({image.file_name[0] == "a" for image in parts["val"].images if image.file_name[0] == "a"}) <= 1
    assert len(parts["val"].images) == 5 and "6 of 10 images without a group by '^(a)_'" in caplog.text
    caplog.clear()
    split_dataset(made([[0]] * 10, names), SplitConfig(50, group="key:patient"))
    assert not caplog.records


@pytest.mark.parametrize(("percent", "empty"), [(0, "val"), (100, "train")])
def test_a_part_without_images_is_reported(percent: float, empty: str, caplog: pytest.LogCaptureFixture) -> None:
    split_dataset(made([[0]] * 4), SplitConfig(percent))
    assert f"{empty} has no images" in caplog.text and len(caplog.records) == 1


def test_in_place_images_that_are_not_there_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = sets.make(tmp_path)
    (root / "images" / "val0.png").unlink()
    split_in_place(root, SplitConfig(50))
    assert "1 image file is missing, the first: val0.png" in caplog.text
    assert sum(len(dataset.images) for dataset in load_splits(root).values()) == 7


def test_one_large_group_and_small_ones() -> None:
    names = [f"{'big' if i < 90 else i}/{i}.png" for i in range(100)]
    for seed in range(5):
        parts = split_dataset(made([[0]] * 100, names), SplitConfig(20, seed, group="folder"))
        assert 1 <= len(parts["val"].images) <= 10


def test_images_that_look_alike_stay_together(tmp_path: Path) -> None:
    root = sets.make(tmp_path, train=12, val=2)
    for i in range(0, 12, 2):
        first, second = (root / "images" / f"{'sub/' if n == 1 else ''}train{n}.png" for n in (i, i + 1))
        cv2.imwrite(str(second), cv2.convertScaleAbs(imread(first), alpha=0.95, beta=4))
    dataset = load_splits(root)["train"]
    for seed in range(4):
        for part in split_dataset(dataset, SplitConfig(50, seed, group="similar")).values():
            pairs = Counter(int(image.file_name.rpartition("train")[2][:-4]) // 2 for image in part.images)
            assert set(pairs.values()) == {2}


@pytest.mark.parametrize("percent", [-1, 101, float("nan")])
def test_the_share_is_checked(percent: float) -> None:
    with pytest.raises(ParameterError, match="from 0 to 100"):
        SplitConfig(percent)


def test_what_can_not_be_divided() -> None:
    with pytest.raises(ParameterError, match="regular expression"):
        SplitConfig(group="(")
    with pytest.raises(DatasetError, match="at least two"):
        split_dataset(made([[0]]), SplitConfig())
    with pytest.raises(DatasetError, match="in 1 group:"):
        split_dataset(made([[0]] * 4), SplitConfig(group="folder"))


def test_merge_keeps_ids_that_are_free_and_lists_no_image_twice(tmp_path: Path) -> None:
    root = sets.make(tmp_path)
    content = sets.content(["val0.png", "train0.png", "val2.png"], first_id=1)  # ids of train, and one of its images
    sets.save(root, "val", content)
    merged = merge(load_splits(root))
    assert [image.id for image in merged.images[:4]] == [1, 2, 3, 4] and len(merged.images) == 6
    assert len({image.id for image in merged.images}) == 6
    assert len({annotation.id for annotation in merged.annotations}) == len(merged.annotations) == 15 + 5
    assert merged.info == {"info": {"year": 2026}}


@pytest.mark.parametrize("into", [True, False])
def test_an_image_in_two_splits_keeps_the_annotations_of_both(
    tmp_path: Path, into: bool, caplog: pytest.LogCaptureFixture
) -> None:
    root = sets.make(tmp_path / "set", train=4, val=3)
    train, val = sets.load(root, "train"), sets.load(root, "val")
    val["images"][0] |= {"file_name": "train0.png", "license": 3}  # one annotation differs, one is there twice
    val["annotations"][0]["segmentation"][0][0] += 1
    val["annotations"].append(val["annotations"][1] | {"id": 5000})
    val["images"][1]["file_name"] = "train3.png"  # background in train
    sets.save(root, "val", val)
    parts = split_into(tmp_path / "new", root, SplitConfig(50)) if into else split_in_place(root, SplitConfig(50))
    message = "2 images listed again in another split: 4 identical annotations kept once, 7 different ones added"
    assert message in caplog.text
    found = load_splits(tmp_path / "new" if into else root)
    assert sum(len(part.images) for part in found.values()) == 5
    assert sum(len(part.annotations) for part in parts.values()) == 15 + 7
    counts = {
        image.file_name: len(part.of(image))
        for part in found.values()
        for image in part.images
        if image.file_name in ("train0.png", "train3.png")
    }
    assert counts == {"train0.png": 7, "train3.png": 5}
    assert [i.extra for part in found.values() for i in part.images if i.file_name == "train0.png"] == [{"license": 3}]
    assert train["annotations"][0]["segmentation"] != val["annotations"][0]["segmentation"]


def test_an_image_of_two_sizes_is_refused(tmp_path: Path) -> None:
    root = sets.make(tmp_path)
    val = sets.load(root, "val")
    val["images"][2] |= {"file_name": "train0.png", "width": 63}
    sets.save(root, "val", val)
    with pytest.raises(DatasetError, match=r"instance_val.json: image 'train0.png' is 63 x 48, but 64 x 48 in another"):
        split_in_place(root, SplitConfig())


def test_in_place_keeps_every_earlier_state(tmp_path: Path) -> None:
    """F59, B32: the files that were there stay as .bak, .bak2 …"""
    root = sets.make(tmp_path, train=6, val=2)
    folder = root / "annotations"
    states = []
    for seed in range(3):
        states.append({p.name: p.read_text() for p in folder.glob("instance_*.json")})
        parts = split_in_place(root, SplitConfig(50, seed))
        assert len(parts["train"].images) == len(parts["val"].images) == 4
        again = load_splits(root)
        assert [i.file_name for i in again["val"].images] == [i.file_name for i in parts["val"].images]
    for number, state in enumerate(states):
        for name, text in state.items():
            assert (folder / f"{name}.bak{number + 1 if number else ''}").read_text() == text
    assert sorted(p.name for p in root.iterdir()) == ["annotations", "images"]
    info = json.loads((folder / "instance_train.json").read_text())["info"]
    assert info == {"year": 2026}


def test_one_of_the_files_is_enough(tmp_path: Path) -> None:
    root = sets.make(tmp_path, train=8)
    (root / "annotations" / "instance_val.json").unlink()
    parts = split_in_place(root, SplitConfig(25))
    assert len(parts["val"].images) == 2 and (root / "annotations" / "instance_val.json").exists()
    assert not (root / "annotations" / "instance_val.json.bak").exists()


def with_coco_names(root: Path) -> Path:
    for path in (root / "annotations").iterdir():
        path.rename(path.with_name(path.name.replace("instance_", "instances_")))
    return root


@pytest.mark.parametrize("only_train", [False, True])
def test_in_place_files_keep_their_names(tmp_path: Path, only_train: bool) -> None:
    root = with_coco_names(sets.make(tmp_path, train=6, val=2))
    names = ["instances_train.json", "instances_train.json.bak", "instances_val.json", "instances_val.json.bak"]
    if only_train:
        (root / "annotations" / names.pop(2)).unlink()
        names[2] = "instances_val.json"
    split_in_place(root, SplitConfig(50))
    assert sorted(path.name for path in (root / "annotations").iterdir()) == names
    count = 3 if only_train else 4
    assert {split: len(d.images) for split, d in load_splits(root).items()} == {"train": count, "val": count}


@pytest.mark.parametrize("prefix", ["instance", "instances"])
def test_a_new_folder_has_the_names_of_the_original(tmp_path: Path, prefix: str) -> None:
    root = sets.make(tmp_path / "old")
    if prefix == "instances":
        with_coco_names(root)
    split_into(tmp_path / "new", root, SplitConfig(50))
    names = sorted(path.name for path in (tmp_path / "new" / "annotations").iterdir())
    assert names == [f"{prefix}_train.json", f"{prefix}_val.json"]


def test_errors_change_nothing(tmp_path: Path) -> None:
    root = sets.make(tmp_path)
    content = sets.load(root, "train")
    content["annotations"][0]["image_id"] = 99
    sets.save(root, "train", content)
    before = {p: p.read_bytes() for p in root.rglob("*.json")}
    with pytest.raises(DatasetError, match="annotation 1000 is of image 99"):
        split_in_place(root, SplitConfig())
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and p.suffix != ".png"} == before


def test_a_failure_while_writing_leaves_the_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sets.make(tmp_path)
    before = {p.name: p.read_bytes() for p in (root / "annotations").iterdir()}
    calls = []

    def write(dataset: Dataset, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        path.write_text("{}")

    monkeypatch.setattr(coco_json, "write", write)
    with pytest.raises(KeyboardInterrupt):
        split_in_place(root, SplitConfig())
    assert {p.name: p.read_bytes() for p in (root / "annotations").iterdir()} == before
    assert sorted(p.name for p in root.iterdir()) == ["annotations", "images"]


def test_into_a_new_folder(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "old")
    shutil.copy(root / "annotations" / "instance_val.json", root / "annotations" / "instance_test.json")
    (root / "annotations" / "instance_val.json").unlink()
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    split_into(tmp_path / "new", root, SplitConfig(50))
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    new = load_splits(tmp_path / "new")
    assert [len(new[name].images) for name in ("train", "val", "test")] == [2, 2, 3]


def test_other_layouts_need_a_new_folder(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "old")
    (root / "annotations" / "instance_val.json").unlink()
    (root / "annotations" / "instance_train.json").rename(root / "labels.json")
    with pytest.raises(DatasetError, match="name a folder for the new data set"):
        split_in_place(root, SplitConfig())
    assert len(split_into(tmp_path / "new", root, SplitConfig(50))["val"].images) == 2
