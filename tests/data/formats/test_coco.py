"""COCO's JSON: all that is legal is read, all that is not is reported, nothing gives a traceback."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import sets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskline.data.dataset import Dataset
from maskline.data.formats.coco import coco_json
from maskline.errors import DatasetError, DatasetNotFoundError
from maskline.masks import rle_decode

SHARED = Path(__file__).parents[4] / "shared" / "data"


def read(tmp_path: Path, content: Any) -> tuple[Dataset, list[str]]:
    dataset, faults, _ = coco_json.read(sets.save(tmp_path, "train", content), tmp_path / "images", "train")
    return dataset, [fault.code for fault in faults]


def test_every_legal_form_is_read(tmp_path: Path) -> None:
    dataset, faults = read(tmp_path, sets.content(["a.png", "sub/b.png"]))
    assert not faults
    assert [i.file_name for i in dataset.images] == ["a.png", "sub/b.png"] and dataset.names == ["cat", "dog"]
    first, background = dataset.images
    assert not dataset.of(background) and len(dataset.instances(background)) == 0
    instances = dataset.instances(first)
    assert instances.labels.tolist() == [0, 1, 1, 0, 0] and len(dataset.instances(first, crowd=False)) == 4
    np.testing.assert_array_equal(instances.full_mask(2), sets.ring_mask())
    assert instances.full_mask(0).sum() == 17 * 14
    assert instances.full_mask(3).sum() == 60 and instances.full_mask(1)[36, 34] and instances.full_mask(1)[36, 48]
    assert [a.crowd for a in dataset.annotations] == [False] * 4 + [True]


@pytest.mark.parametrize("ids", [("a", "b"), (-1, 0), (10**15, "1"), (1.0, 2.0)])
def test_ids_of_any_kind(tmp_path: Path, ids: tuple[Any, Any]) -> None:
    content = sets.content(["a.png", "b.png"])
    for image, new in zip(content["images"], ids, strict=True):
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                annotation["image_id"] = new
        image["id"] = new
    dataset, faults = read(tmp_path, content)
    assert not faults and len(dataset.of(dataset.images[0])) == 5 and {i.id for i in dataset.images} == set(ids)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = sets.content(["图/水果 1.png"])
    content["categories"][0]["name"] = "裂纹"
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    dataset, faults, _ = coco_json.read(path, tmp_path, "train")
    assert not faults and dataset.names == ["裂纹", "dog"] and dataset.images[0].file_name == "图/水果 1.png"
    assert len(dataset.annotations) == 5
    path.write_bytes(path.read_bytes()[:-9] + b"\xff\xff")
    with pytest.raises(DatasetError, match="a.json is not readable JSON"):
        coco_json.read(path, tmp_path, "train")


@pytest.mark.parametrize("given", [str, lambda key: f" {key} ", float])
def test_ids_that_differ_in_type_only_are_matched(tmp_path: Path, given: Callable[[int], Any]) -> None:
    value = sets.content(["a.png", "b.png"])
    expected, _ = read(tmp_path, value)
    for annotation in value["annotations"]:
        annotation |= {"image_id": given(annotation["image_id"]), "category_id": given(annotation["category_id"])}
    dataset, faults, _ = coco_json.read(sets.save(tmp_path, "train", value), tmp_path, "train")
    assert [(a.image_id, a.category_id) for a in dataset.annotations] == [
        (a.image_id, a.category_id) for a in expected.annotations
    ]
    assert [(fault.code, fault.what) for fault in faults] == (
        []  # 1.0 is 1, as it always was
        if given is float
        else [
            ("id-type", f"5 annotations: image_id {given(1)!r} is read as 1"),
            ("id-type", f"5 annotations: category_id {given(3)!r} is read as 3"),
        ]
    )


def test_ids_in_records_as_text_are_matched_too(tmp_path: Path) -> None:
    value = sets.content(["a.png", "b.png"])
    for record in value["images"] + value["categories"]:
        record["id"] = str(record["id"])
    dataset, faults = read(tmp_path, value)
    assert faults == ["id-type", "id-type"] and {a.image_id for a in dataset.annotations} == {"1"}


def test_an_id_is_itself_where_both_types_are_there(tmp_path: Path) -> None:
    value = sets.content(["a.png", "b.png", "c.png"])
    value["images"][1]["id"] = "1"
    for place, annotation in enumerate(value["annotations"]):
        annotation["image_id"] = ("1", 1)[place % 2]
    dataset, faults = read(tmp_path, value)
    assert faults == [] and [a.image_id for a in dataset.annotations] == ["1", 1] * 5


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    content = sets.content(["a.png", "b.png"])
    content["images"][0]["flickr_url"] = "http://example.org/ä"
    content["annotations"][0] |= {"attributes": {"occluded": True}, "bbox": [4, 4, 16.5, 14], "area": 231.0}
    dataset, _ = read(tmp_path, content)
    coco_json.write(dataset, tmp_path / "again.json")
    again, faults, _ = coco_json.read(tmp_path / "again.json", tmp_path, "train")
    assert not faults and again.info == {"info": {"year": 2026}}
    written = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert written["images"] == content["images"] and written["categories"] == content["categories"]
    assert written["annotations"][0] == content["annotations"][0]
    for old, new in zip(content["annotations"], written["annotations"], strict=True):
        assert {key: new[key] for key in ("id", "image_id", "category_id", "iscrowd")} == {
            k: old[k] for k in new if k in ("id", "image_id", "category_id", "iscrowd")
        }
    mask = rle_decode(written["annotations"][2]["segmentation"]["counts"], sets.SIZE)
    assert written["annotations"][2]["area"] == mask.sum() and written["annotations"][2]["bbox"] == [22, 10, 22, 20]


def _set(place: str, index: int, key: str, value: Any) -> Callable[[sets.Json], None]:
    def change(content: sets.Json) -> None:
        content[place][index][key] = value

    return change


def _drop(place: str, index: int, key: str) -> Callable[[sets.Json], None]:
    return lambda content: content[place][index].pop(key)


def _twice(place: str) -> Callable[[sets.Json], None]:
    return lambda content: content[place].append(copy.deepcopy(content[place][0]))


def _add(place: str, **changes: Any) -> Callable[[sets.Json], None]:
    """One more record, as the last but for some values."""
    return lambda content: content[place].append(content[place][-1] | changes)


def _rle(**changes: Any) -> Callable[[sets.Json], None]:
    return lambda content: content["annotations"][2]["segmentation"].update(changes)


BROKEN = [
    ("record", _drop("images", 0, "file_name"), 5),
    ("record", _set("images", 0, "width", 0), 5),
    ("record", _set("images", 0, "height", "48"), 5),
    ("record", _set("images", 0, "width", 10**9), 5),
    ("record", _set("images", 0, "id", None), 5),
    ("record", _set("images", 1, "id", [1]), 0),
    ("record", _set("categories", 0, "name", " "), 3),
    ("record", _set("annotations", 0, "image_id", True), 1),
    ("record", _set("annotations", 0, "category_id", float("nan")), 1),
    ("name", _set("images", 0, "file_name", "\ud800a.png"), 5),
    ("name", _set("categories", 0, "name", "\ud800"), 0),
    ("image-id", _add("images", id=1), 5),
    ("image-id", _add("images", id=1, width="x"), 5),
    ("image-id", _add("images", id=1, file_name="a.png", width=32), 5),
    ("image-listed-twice", _twice("images"), 0),
    ("image-listed-twice", _add("images", id=9, file_name="a.png"), 0),
    ("record", _add("images", id=9, file_name="a.png", width=32), 0),
    ("image-path", _set("images", 0, "file_name", "../secret.png"), 5),
    ("image-path", _set("images", 0, "file_name", "/etc/passwd"), 5),
    ("image-path", _set("images", 0, "file_name", "C:\\data\\a.png"), 5),
    ("image-listed-twice", _set("images", 1, "file_name", "./a.png"), 0),
    ("category-id", _set("categories", 1, "id", 3), 5),
    ("category-id", _add("categories", id=3, name=None), 3),
    ("category-name", _twice("categories"), 0),
    ("category-name", _set("categories", 1, "name", "cat"), 0),
    ("unknown-image", _set("annotations", 0, "image_id", 99), 1),
    ("unknown-category", _set("annotations", 0, "category_id", 99), 1),
    ("crowd", _set("annotations", 0, "iscrowd", "no"), 0),
    ("crowd", _set("annotations", 0, "iscrowd", 2), 0),
    ("box-mismatch", _set("annotations", 0, "bbox", "hello"), 0),
    ("box-mismatch", _set("annotations", 0, "bbox", [1, 2, 3, float("nan")]), 0),
    ("area-mismatch", _set("annotations", 0, "area", "x"), 0),
    ("area-mismatch", _set("annotations", 0, "area", float("inf")), 0),
    ("not-json", _set("annotations", 0, "score", float("nan")), 0),
    ("not-json", _set("images", 0, "gps", [{"lat": float("-inf")}]), 0),
    ("polygon-flat", _set("annotations", 0, "segmentation", [4, 4, 20, 4, 20, 18, 4, 18]), 0),
    ("polygon-flat", _set("annotations", 0, "segmentation", [[4, 4], [20, 4], [20, 18]]), 0),
    ("polygon-flat", _set("annotations", 0, "segmentation", [[[4, 4], [20, 4], [20, 18]]]), 0),
    ("polygon-broken", _set("annotations", 0, "segmentation", [4, 4, "x", 4, 20, 18, 4, 18]), 1),
    ("annotation-id", _twice("annotations"), -1),
    ("no-mask", _drop("annotations", 0, "segmentation"), 1),
    ("no-mask", _set("annotations", 0, "segmentation", []), 1),
    ("no-mask", _set("annotations", 0, "segmentation", "polygon"), 1),
    ("polygon-broken", _set("annotations", 0, "segmentation", [[1, 2, 3, 4]]), 1),
    ("polygon-broken", _set("annotations", 0, "segmentation", [[1, 2, 3, 4, 5, 6, 7]]), 1),
    ("polygon-broken", _set("annotations", 0, "segmentation", [[1, 2, 3, float("inf"), 5, 6]]), 1),
    ("polygon-broken", _set("annotations", 0, "segmentation", [[1, 2, 3, "4", 5, 6]]), 1),
    ("polygon-broken", _set("annotations", 0, "segmentation", [[1, 2, 3, None, 5, 6]]), 1),
    ("polygon-broken", _set("annotations", 0, "segmentation", [[1, 2, 3, 10**400, 5, 6]]), 1),
    ("polygon-broken", _set("annotations", 0, "segmentation", [[5, 1, 5, 2, 5, 3]]), 1),
    ("polygon-broken", _set("annotations", 1, "segmentation", [[1, 1, 9, 1, 9, 9], [1]]), 0),
    ("rle-broken", _rle(counts="~~~"), 1),
    ("rle-broken", _rle(counts="P"), 1),
    ("rle-broken", _rle(counts=""), 1),
    ("rle-broken", _rle(counts=[5, 5]), 1),
    ("rle-broken", _rle(counts=[-5, 48 * 64 + 5]), 1),
    ("rle-broken", _rle(counts=["1"]), 1),
    ("rle-broken", _rle(size=[64, 48]), 1),
    ("rle-broken", _rle(counts=None), 1),
]


#: What else such a fault may bring with it.
FOLLOWING = {
    "record": ("unknown-image",),  # where the image's id is what is wrong
    "image-id": ("record", "ambiguous"),
    "category-id": ("record", "ambiguous", "unknown-category"),
}


@pytest.mark.parametrize(("code", "damage", "lost"), BROKEN, ids=[f"{n}-{row[0]}" for n, row in enumerate(BROKEN)])
def test_what_is_broken_is_reported_and_the_rest_is_kept(
    tmp_path: Path, code: str, damage: Callable[[sets.Json], None], lost: int
) -> None:
    content = sets.content(["a.png", "b.png"])
    damage(content)
    dataset, faults = read(tmp_path, content)
    assert code in faults and {*faults} <= {code, *FOLLOWING.get(code, ())}
    assert code in FOLLOWING or len(faults) == 1
    assert len(dataset.annotations) == 5 - lost
    assert len({a.id for a in dataset.annotations}) == len(dataset.annotations)
    for image in dataset.images:
        dataset.instances(image)  # nothing that is left can't be used


def test_annotations_of_an_ambiguous_id_are_faults_and_belong_to_no_image(tmp_path: Path) -> None:
    content = sets.content(["a.png", "b.png", "c.png"])
    content["images"][1]["id"] = 1
    for annotation in content["annotations"]:
        annotation["image_id"] = 1
    dataset, faults, listed = coco_json.read(sets.save(tmp_path, "train", content), tmp_path, "train")
    assert [image.file_name for image in dataset.images] == ["c.png"] and not dataset.annotations and listed == (3, 10)
    assert [fault.code for fault in faults] == ["image-id"] + ["ambiguous"] * 10
    assert faults[0].what == "'a.png' and 'b.png' have the id 1, with 10 annotations"
    assert faults[0].others == (("train", "a.png"), ("train", "b.png"))


def test_classes_of_an_ambiguous_id_stay_without_its_annotations(tmp_path: Path) -> None:
    content = sets.content(["a.png"])
    content["categories"].append({"id": 3, "name": "emu"})
    content["categories"].append({"id": 8, "name": "fox"})
    dataset, faults = read(tmp_path, content)
    assert dataset.names == ["cat", "dog", "emu", "fox"] and [c.id for c in dataset.categories] == [3, 7, 9, 8]
    assert faults == ["category-id"] + ["ambiguous"] * 3 and {a.category_id for a in dataset.annotations} == {7}


def test_what_follows_from_a_refused_record_is_counted_there(tmp_path: Path) -> None:
    content = sets.content(["a.png", "b.png", "c.png"])
    content["images"][0]["width"] = -1
    content["categories"][1]["name"] = 5
    _, faults, _ = coco_json.read(sets.save(tmp_path, "train", content), tmp_path, "train")
    assert [fault.code for fault in faults] == ["record", "record"]
    assert faults[0].what.endswith("; 5 annotations of it left out too") and "; 4 annotations" in faults[1].what


@pytest.mark.parametrize("width", ["64", 64.5, None, 0, float("nan"), 10**30])
def test_a_size_that_can_not_be_read_is_that_of_the_file(tmp_path: Path, width: Any) -> None:
    root = sets.make(tmp_path)
    content = sets.load(root, "train")
    content["images"][0]["width"] = width
    dataset, (fault,), _ = coco_json.read(sets.save(root, "train", content), root / "images", "train")
    assert fault.code == "image-size" and fault.what.endswith("the file is 64 x 48")
    assert dataset.images[0].size == sets.SIZE and len(dataset.of(dataset.images[0])) == 5


def test_words_for_crowds_are_understood(tmp_path: Path) -> None:
    content = sets.content(["a.png"])
    words = ["Yes", "no", " TRUE ", "1", [1]]
    for annotation, word in zip(content["annotations"], words, strict=True):
        annotation["iscrowd"] = word
    dataset, faults = read(tmp_path, content)
    assert [a.crowd for a in dataset.annotations] == [True, False, True, True, False] and faults == ["crowd"] * 5


def test_what_is_written_is_json_whatever_was_read(tmp_path: Path) -> None:
    nan, polygons = float("nan"), {"segmentation": [[1, 1, 9, 1, 9, 9]]}
    content = sets.content(["a.png"])
    content["images"][0] |= {"foo": nan, "half": "\ud800", "old": polygons}
    content["annotations"][0] |= {"bbox": [nan] * 4, "area": nan, "score": -float("inf"), "deep": {"er": [nan, 1]}}
    content |= {"licenses": [nan], "backup": polygons}
    content["annotations"][1]["id"] = "\udc80"
    dataset, faults = read(tmp_path, content)
    assert faults == ["not-json", "box-mismatch", "area-mismatch", "not-json", "not-json"]
    coco_json.write(dataset, tmp_path / "again.json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"), parse_constant=refuse)
    image, (first, second) = again["images"][0], again["annotations"][:2]
    assert image["foo"] is None and image["half"] == "\ud800" and image["old"] == again["backup"] == polygons
    assert first["bbox"] == [4, 4, 17, 14] and first["area"] == 238 and first["deep"] == {"er": [None, 1]}
    assert first["score"] is None and again["licenses"] == [None] and second["id"] == "\udc80"


def test_a_fault_says_where_what_and_what_to_do(tmp_path: Path) -> None:
    content = sets.content(["a.png", "b.png"])
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    _, (fault,), _ = coco_json.read(sets.save(tmp_path, "train", content), tmp_path, "train")
    text = str(fault)
    for part in ("error", "instance_train.json", "annotation 1000", "[1, 2, 3, 4]", "a.png", "redraw it"):
        assert part in text
    assert fault.as_dict()["annotation_id"] == 1000 and fault.as_dict()["image_id"] == 1


def test_backslashes_are_forgiven(tmp_path: Path) -> None:
    content = sets.content(["a.png", "sub\\b.png"])
    assert read(tmp_path, content)[0].images[1].file_name == "sub/b.png"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{", '{"images": []}', '{"images": {}, "annotations": [], "categories": []}', "\x00", '"' * 9],
)
def test_what_is_not_a_data_set_gives_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError) as raised:
        coco_json.read(tmp_path / "a.json", tmp_path, "train")
    assert "a.json" in str(raised.value) and "\n" not in str(raised.value)


def test_deep_nesting_and_bytes_that_are_not_text(tmp_path: Path) -> None:
    for number, data in enumerate((b"[" * 100_000, b"\xff\xfe\xfd", b'{"a": ' * 50_000, b"1" * 5000)):
        (tmp_path / f"{number}.json").write_bytes(data)
        with pytest.raises(DatasetError):
            coco_json.read(tmp_path / f"{number}.json", tmp_path, "train")
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        coco_json.read(tmp_path / "none.json", tmp_path, "train")
    with pytest.raises(DatasetError):
        coco_json.read(tmp_path, tmp_path, "train")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = sets.save(tmp_path, "train", sets.content(["a.png"]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(coco_json.read(path, tmp_path, "train").dataset.images) == 1


def test_fuzzed_annotations_never_give_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(7)
    for _ in range(400):
        content = sets.content(["a.png", "b.png"])
        for _ in range(chance.randint(1, 4)):
            content = sets.damaged(content, chance)
        try:
            dataset, _ = read(tmp_path, content)
        except DatasetError:
            continue
        for image in dataset.images:
            dataset.instances(image)
        coco_json.write(dataset, tmp_path / "again.json")


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DatasetError):
        coco_json.read(tmp_path / "a.json", tmp_path, "train")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("name", "images", "annotations", "crowds"), [("nuclei", 67, 3018, 0), ("coco_sample", 46, 378, 6)]
)
def test_real_data(name: str, images: int, annotations: int, crowds: int) -> None:
    dataset, faults, _ = coco_json.read(
        SHARED / name / "annotations/instance_val.json", SHARED / name / "images", "val"
    )
    assert not faults and (len(dataset.images), len(dataset.annotations)) == (images, annotations)
    assert sum(a.crowd for a in dataset.annotations) == crowds
    assert all(dataset.path(image).is_file() for image in dataset.images)
