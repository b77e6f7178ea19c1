"""Results: what they hold, print and write."""

from __future__ import annotations

import ast
import io
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.results import BOXES, NAMES, SIZE, files, make, make_instances
from PIL import Image

import maskline
from maskline.errors import MissingDependencyError, ParameterError
from maskline.outputs.paths import Stems
from maskline.outputs.result import Result

# What it holds


def test_it_reads_like_a_dict() -> None:
    """F27."""
    result = make("in/photo.jpg")
    assert isinstance(result, dict) and len(result) == 5
    assert list(result) == ["input_path", "page_index", "input_img", "boxes", "masks"]
    assert result["input_path"] == "in/photo.jpg" and result["page_index"] is None and "boxes" in result
    assert result["input_img"].shape == (*SIZE, 3)
    with pytest.raises(KeyError):
        result["box"]
    assert result == result and result != make("in/photo.jpg") and len({result, result}) == 1


def test_a_copy_can_be_changed_the_result_not() -> None:
    """F27: filtered boxes have their masks, images and files filtered too."""
    result = make()
    for copy in (dict(result), result.copy(), result | {}):
        copy["boxes"] = []
        assert type(copy) is dict and len(result["boxes"]) == 3
    changes: tuple[Callable[[], object], ...] = (
        lambda: result.__setitem__("boxes", []), lambda: result.pop("boxes"), lambda: result.update(boxes=[]),
        lambda: result.setdefault("more", 1), lambda: result.__ior__({"boxes": []}), result.clear, result.popitem,
    )  # fmt: skip
    for change in changes:
        with pytest.raises(TypeError, match=r"change a copy, dict\(result\)"):
            change()


def test_boxes_are_plain_python() -> None:
    """F28, B05, B07: the same four keys whatever the model, no NumPy numbers."""
    result = make()
    assert [list(box) for box in result["boxes"]] == [["cls_id", "label", "score", "coordinate"]] * 3
    for box in result["boxes"]:
        kinds = type(box["cls_id"]), type(box["label"]), type(box["score"]), *map(type, box["coordinate"])
        assert kinds == (int, str, float, float, float, float, float)
    assert [box["label"] for box in result["boxes"]] == NAMES
    assert result["boxes"][0]["coordinate"] == [float(np.float32(v)) for v in BOXES[0]]


def test_masks_cover_their_windows() -> None:
    """B04: never without a pixel, also where rounding leaves no room; see `instances.outside` for what is cut."""
    result = make()
    assert [mask.shape for mask in result["masks"]] == [(35, 20), (60, 80), (8, 1)]
    assert all(mask.dtype == np.uint8 for mask in result["masks"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ParameterError, match="label 2 has no name: there are 2"):
        Result(make_instances(), NAMES[:2], np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(ParameterError, match="image has shape"):
        Result(make_instances(), NAMES, np.zeros((10, 10, 3), np.uint8))


def test_repr_is_short() -> None:
    assert repr(make("a/photo.jpg")) == "Result(photo.jpg: 3 instances, 80x60)"
    assert repr(make("a/d.tif", 2, n=1)) == "Result(d.tif page 2: 1 instance, 80x60)"
    assert repr(make(n=0)) == "Result(array: 0 instances, 80x60)"


def test_it_can_be_pickled(tmp_path: Path) -> None:
    """B59."""
    result = make("in/photo.jpg", 1, stems=Stems())
    copy = pickle.loads(pickle.dumps(result))
    assert copy.json == result.json and copy.str == result.str and copy.stem == result.stem
    np.testing.assert_array_equal(copy["input_img"], result["input_img"])
    one, other = result.save_to_json(tmp_path / "a"), copy.save_to_json(tmp_path / "b")
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_numpy_prints_as_before() -> None:
    """B12."""
    before = np.get_printoptions()
    make().print()
    assert np.get_printoptions() == before


# Text


def test_print_gives_one_line_of_plain_python(capsys: pytest.CaptureFixture[str]) -> None:
    """F27, F29, B07, B08, B59: to standard output, plain, `.str` is a text."""
    result = make("photo.jpg")
    result.print()
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1 and out == result.str + "\n" and isinstance(result.str, str)
    content = ast.literal_eval(out)
    assert list(content["res"]) == ["input_path", "page_index", "boxes", "masks"]
    assert content["res"]["masks"] == "..." and content["res"]["boxes"] == result["boxes"]
    assert "np." not in out and "\x1b" not in out


@pytest.mark.parametrize("options", [{"json_format": True}, {"format_json": True}])
def test_print_as_json(options: dict[str, bool], capsys: pytest.CaptureFixture[str]) -> None:
    """F29, B06: by either name."""
    make("photo.jpg").print(**options)
    out = capsys.readouterr().out
    assert json.loads(out)["res"]["masks"] == "..." and '\n        "boxes"' in out and "自行车" in out
    make("photo.jpg").print(**options, indent=None, ensure_ascii=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "\\u81ea" in out


def test_the_old_name_wins_and_can_turn_it_off(capsys: pytest.CaptureFixture[str]) -> None:
    """F29, B06."""
    make().print(True, format_json=False)
    assert capsys.readouterr().out.startswith("{'res'")


@pytest.mark.parametrize("as_json", [False, True])
def test_print_where_the_terminal_lacks_characters(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    make("photo\udce9.jpg").print(as_json)
    sys.stdout.flush()
    text = raw.getvalue().decode("ascii")
    content = json.loads(text) if as_json else ast.literal_eval(text)
    assert content["res"]["boxes"][1]["label"] == "自行车" and content["res"]["input_path"] == "photo\udce9.jpg"


def test_json_property() -> None:
    """F32, F33."""
    result = make("photo.jpg", 3)
    content = result.json
    assert list(content) == ["res"] and list(content["res"]) == ["input_path", "page_index", "boxes", "masks"]
    assert content["res"]["page_index"] == 3
    assert [np.asarray(m, np.uint8).tolist() for m in content["res"]["masks"]] == [m.tolist() for m in result["masks"]]
    assert type(content["res"]["masks"][0][0][0]) is int


def test_img_property() -> None:
    """F32."""
    image = make().img["res"]
    assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (80, 60)


class Untouchable(list[Any]):
    """Masks that must not be accessed."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError

    __getitem__ = __reduce_ex__ = __len__ = __iter__  # type: ignore[assignment]


def test_text_does_not_touch_image_and_masks(capsys: pytest.CaptureFixture[str]) -> None:
    """B68: nothing is copied to print."""
    result = make("photo.jpg")
    dict.update(result, masks=Untouchable(), input_img=Untouchable())
    result.print()
    result.print(json_format=True)
    assert result.str and capsys.readouterr().out.count("photo.jpg") == 2


def test_json_property_leaves_the_image_alone() -> None:
    """B68."""
    result = make("photo.jpg")
    dict.update(result, input_img=Untouchable())
    assert len(result.json["res"]["masks"]) == 3


def test_supervision() -> None:
    """`to_supervision` with the library itself: the same arrays, masks over the whole image, which it can filter."""
    supervision = pytest.importorskip("supervision")
    result = make()
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections) and found.mask.shape == (3, *SIZE) and found.mask.dtype == bool
    np.testing.assert_array_equal(found.mask, result.instances.full_masks())
    np.testing.assert_array_equal(found.xyxy, result.instances.boxes)
    np.testing.assert_array_equal(found.class_id, [0, 1, 2])
    best = found[found.confidence > 0.6]
    assert list(best["class_name"]) == NAMES[:2] and best.mask.shape == (2, *SIZE)
    image = supervision.MaskAnnotator().annotate(result["input_img"].copy(), found)
    assert (image != result["input_img"]).any()
    assert len(make(n=0).to_supervision()) == 0


def test_without_supervision_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match="pip install supervision"):
        make().to_supervision()


@pytest.mark.parametrize("threshold", [0.0, 0.999])
def test_a_grey_array_is_predicted_printed_and_saved(tiny_model_dir: Path, tmp_path: Path, threshold: float) -> None:
    """B69, F80: also where nothing is found."""
    (result,) = maskline.create_model(model_dir=tiny_model_dir).predict(np.zeros(SIZE, np.uint8), threshold=threshold)
    assert result["input_img"].shape == (*SIZE, 3) and bool(result["boxes"]) == (threshold == 0)
    result.print()
    result.save_all(tmp_path)
    assert len(files(tmp_path)) == 2 and result.img["res"].size == SIZE[::-1]
