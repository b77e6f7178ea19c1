"""Data sets are found in the layouts people have, and written so that nothing is overwritten or half there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fixtures import sets

from maskline._files import back_up, new_folder
from maskline.data.categories import unify_categories
from maskline.data.file_tree import split_of
from maskline.data.formats import coco
from maskline.data.formats.coco.layout import find_annotation_files
from maskline.data.image_files import copy_images, unique_names
from maskline.data.reading import load_splits
from maskline.data.reading import read_dataset as read_any
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError, OutputError


def test_the_layout_of_paddlex_also_below(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "parent" / "set")
    for given in (root, tmp_path / "parent", tmp_path):
        reading = read_any(given)
        assert list(reading.splits) == ["train", "val"] and not reading.faults
        assert all(dataset.folder == root / "images" for dataset in reading.splits.values())


def test_a_nested_copy_does_not_confuse(tmp_path: Path) -> None:
    """B74."""
    root = sets.make(tmp_path / "set")
    shutil.copytree(root, root / "backup")
    (root / "old" / "images").mkdir(parents=True)
    assert find_annotation_files(Source.of(root))["train"] == "annotations/instance_train.json"
    (fault, other) = read_any(root).faults
    assert fault.code == other.code == "file-repeated" and fault.file == "backup/annotations/instance_train.json"
    assert fault.what == "15 instances in 3 images"


def test_coco_s_own_layout(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "made")
    for split in ("train", "val"):
        target = tmp_path / "coco" / f"{split}2017"
        for image in read_any(root).splits[split].images:
            (target / image.file_name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "images" / image.file_name, target / image.file_name)
        annotations = tmp_path / "coco" / "annotations" / f"instances_{split}2017.json"
        annotations.parent.mkdir(exist_ok=True)
        shutil.copy(root / "annotations" / f"instance_{split}.json", annotations)
        shutil.copy(annotations, annotations.with_name(f"person_keypoints_{split}2017.json"))
    splits = read_any(tmp_path / "coco").splits
    assert {split: dataset.folder.name for split, dataset in splits.items()} == {"train": "train2017", "val": "val2017"}
    assert all(dataset.path(image).is_file() for dataset in splits.values() for image in dataset.images)


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "made")
    for split, name in (("train", "train"), ("val", "valid")):
        folder = tmp_path / "set" / name
        shutil.copytree(root / "images", folder)
        shutil.copy(root / "annotations" / f"instance_{split}.json", folder / "_annotations.coco.json")
    splits = read_any(tmp_path / "set").splits
    assert {split: dataset.folder.name for split, dataset in splits.items()} == {"train": "train", "val": "valid"}


def test_one_file_for_a_set_that_is_not_split(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "made")
    (root / "annotations" / "instance_val.json").unlink()
    file = (root / "annotations" / "instance_train.json").rename(root / "labels.json")
    for given in (root, file):
        (split,) = read_any(given).splits.values()
        assert split.split == "all" and split.folder == root / "images" and len(split.images) == 4


def test_what_lies_in_the_place_of_annotations_is_not_passed_over(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "made")
    folder = root / "annotations"
    for damage in ("in our layout", "in COCO's"):
        if damage == "in COCO's":
            (folder / "instance_train.json").rename(folder / "instances_train2017.json")
            (folder / "instance_val.json").rmdir()
            (folder / "instances_val2017.json").write_text("{")
        else:
            (folder / "instance_val.json").unlink()
            (folder / "instance_val.json").mkdir()
        assert list(find_annotation_files(Source.of(root))) == ["train", "val"], damage
        reading = read_any(root)
        assert list(reading.splits) == ["train"] and [fault.code for fault in reading.faults] == ["file"]


def test_names_too_long_for_any_file_raise_nothing(tmp_path: Path) -> None:
    root = sets.make(tmp_path)
    content = sets.load(root, "train")
    content["images"][0]["file_name"] = "x" * 5000
    sets.save(root, "train", content)
    dataset = read_any(root).splits["train"]
    assert dataset.folder == root / "images"
    with pytest.raises(DatasetError, match="is missing"):
        copy_images(dataset, tmp_path / "new")


def test_of_two_files_for_one_split_the_one_with_more_instances_is_read(tmp_path: Path) -> None:
    root = sets.make(tmp_path)
    content = sets.load(root, "train")
    (root / "annotations" / "b_train.json").write_text(json.dumps(content))
    content["annotations"] = content["annotations"][:4]
    (root / "annotations" / "a_train.json").write_text(json.dumps(content))
    (root / "annotations" / "instance_train.json").unlink()
    (root / "annotations" / "instance_val.json").rename(root / "annotations" / "val.json")
    reading = read_any(root)
    assert reading.files == ("annotations/b_train.json", "annotations/val.json")
    (fault,) = reading.faults
    assert (fault.code, fault.file) == ("file-repeated", "annotations/a_train.json")
    assert fault.what == "4 instances in 1 image"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        read_any(tmp_path / "none")
    with pytest.raises(DatasetError, match="no annotations found"):
        read_any(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="instances_train.json"):
        coco.read(Source.of(tmp_path))
    assert coco.detect(Source.of(tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "split"),
    [("instances_train2017", "train"), ("VALID", "val"), ("my-validation_set", "val"), ("test", "test")]
    + [(name, None) for name in ("rain", "trainval", "latest", "evaluation")],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_load_refuses_what_has_errors_and_reports_the_first(tmp_path: Path) -> None:
    root = sets.make(tmp_path)
    content = sets.load(root, "train")
    for annotation in content["annotations"][:7]:
        annotation["segmentation"] = None
    sets.save(root, "train", content)
    with pytest.raises(DatasetError, match=r"(?s)^7 errors in the data set; .*annotation 1000.*and 2 more$"):
        load_splits(root)


def test_write_and_read_again(tmp_path: Path) -> None:
    splits = load_splits(sets.make(tmp_path / "old"))
    (tmp_path / "new").mkdir()
    assert coco.write(splits, tmp_path / "new") == []
    again = load_splits(tmp_path / "new")
    for split, dataset in splits.items():
        assert [i.file_name for i in again[split].images] == [i.file_name for i in dataset.images]
        for old, new in zip(dataset.images, again[split].images, strict=True):
            assert dataset.path(old).read_bytes() == again[split].path(new).read_bytes()
            assert (dataset.instances(old).full_masks() == again[split].instances(new).full_masks()).all()


def test_images_of_one_name_in_two_folders_both_stay(tmp_path: Path) -> None:
    train = load_splits(sets.make(tmp_path / "a"))["train"]
    other = load_splits(sets.make(tmp_path / "b"))["train"]
    names = unique_names({"train": train, "val": other})
    assert names["train"][1] == "train0.png" and names["val"][1] == "val/train0.png"
    flat = unique_names({"train": train, "val": other}, flat=True)
    assert flat["train"][2] == "sub_train1.png" and flat["val"][2] == "val_sub_train1.png"
    assert len({*flat["train"].values(), *flat["val"].values()}) == 8
    shared = unique_names({"train": train, "val": train})
    assert shared["train"] == shared["val"]  # the same files


def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    dataset = load_splits(sets.make(tmp_path))["train"]
    (tmp_path / "images" / "train0.png").unlink()
    with pytest.raises(DatasetError, match=r"train0.png is missing"):
        copy_images(dataset, tmp_path / "new")


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x" and len(list((tmp_path / "a").iterdir())) == 1
    for error in (DatasetError("x"), KeyboardInterrupt(), ZeroDivisionError()):
        with pytest.raises(type(error)), new_folder(tmp_path / "c") as folder:
            (folder / "file").write_text("x")
            raise error
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    with pytest.raises(OutputError, match="already exists"), new_folder(tmp_path / "a"):
        pytest.fail("entered")
    with pytest.raises(OutputError, match="c can't be written"), new_folder(tmp_path / "c"):
        raise OSError(28, "No space left on device")


def test_backups_are_numbered(tmp_path: Path) -> None:
    """B32."""
    path = tmp_path / "a.json"
    assert back_up(path) is None
    for number, expected in enumerate(("a.json.bak", "a.json.bak2", "a.json.bak3")):
        path.write_text(str(number))
        assert back_up(path) == tmp_path / expected
    assert [p.read_text() for p in sorted(tmp_path.glob("*.bak*"))] == ["0", "1", "2"]


def test_unify_makes_one_list_of_classes(tmp_path: Path) -> None:
    """B29, B30: classes that one part alone has."""
    root = sets.make(tmp_path)
    content = sets.load(root, "val")
    content["categories"] = [{"id": 3, "name": "dog"}, {"id": 9, "name": "emu"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 3 if annotation["category_id"] == 7 else 9
    sets.save(root, "val", content)
    before = load_splits(root)
    after = unify_categories(before)
    assert after["train"].categories == after["val"].categories and after["val"].names == ["cat", "dog", "emu"]
    assert len({c.id for c in after["val"].categories}) == 3
    for split, dataset in before.items():
        names = [[d.names[d.labels[a.category_id]] for a in d.annotations] for d in (dataset, after[split])]
        assert names[0] == names[1]
