"""Files that a result writes: their form, their names, and what is left when writing fails."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fixtures.results import NAMES, SIZE, files, make, make_instances
from PIL import Image
from pycocotools import mask as coco

from maskline.errors import OutputError, ParameterError, UnknownNameError
from maskline.instances import Instances
from maskline.outputs import result as result_module
from maskline.outputs.paths import IMAGE_FORMATS, Stems
from maskline.outputs.result import Result

# JSON files


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("indent", [None, 0, 1, 4])
@pytest.mark.parametrize("ensure_ascii", [False, True])
@pytest.mark.parametrize("path", [None, "照片.jpg", "not\udcffunicode.jpg", 'quo"te.jpg'])
def test_the_file_is_what_json_dumps_would_write(
    n: int, indent: int | None, ensure_ascii: bool, path: str | None, tmp_path: Path
) -> None:
    """F30, F33, B09: the standard library's text, but a row of a mask on one line."""
    result = make(path, n=n)
    written = result.save_to_json(tmp_path / "out.json", indent, ensure_ascii).read_text(encoding="utf-8")
    naive = (
        json.dumps(result.json["res"], indent=indent, ensure_ascii=ensure_ascii)
        .encode("utf-8", "backslashreplace")
        .decode()
    )
    assert json.loads(written) == json.loads(naive) and list(json.loads(written)) == list(json.loads(naive))
    joined = re.sub(r"(?<=[\[\d,])\s+(?=[\d\]\[])", "", naive)  # of the naive text, rows on one line
    assert re.sub(r"\s+", "", written) == re.sub(r"\s+", "", joined)
    if indent == 4 and n:
        assert '\n    "masks": [\n        [\n            [' in written and written.endswith("]\n        ]\n    ]\n}")
        assert len(written.splitlines()) < 40 + sum(len(mask) + 10 for mask in result["masks"])
    if indent is None:
        assert "\n" not in written


def test_an_empty_mask_can_be_written() -> None:
    assert result_module._rows_text(np.zeros((4, 0), np.uint8), "\n", "\n ") == b"[[], [], [], []]"


def test_a_named_file_is_just_that_file(tmp_path: Path) -> None:
    """F34."""
    assert make("photo.jpg").save_to_json(tmp_path / "output" / "res.json") == tmp_path / "output" / "res.json"
    assert files(tmp_path / "output") == ["res.json"]


def test_masks_are_compact(tmp_path: Path) -> None:
    """B09: 20 masks of 450 x 500 pixels take two bytes a pixel, where PaddleX writes 86 MB."""
    boxes = np.tile(np.asarray([[0, 0, 450, 500]], np.float32), (20, 1))
    full, labels = np.ones((500, 450), np.uint8), np.zeros(20, np.int64)
    scores = np.ones(20, np.float32)
    found = Instances(boxes, scores, labels, (full,) * 20, np.zeros(20, np.float32), (500, 450))
    result = Result(found, NAMES, np.zeros((500, 450, 3), np.uint8))
    size = result.save_to_json(tmp_path / "x.json").stat().st_size
    assert size < 20 * 500 * (2 * 450 + 30) and size < 10e6
    assert result.save_to_json(tmp_path / "x.json", mask_format="rle").stat().st_size < 10e3


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with NumPy 2
def test_rle_is_of_the_whole_image(tmp_path: Path) -> None:
    """B09."""
    result = make()
    content = json.loads(result.save_to_json(tmp_path, mask_format="rle").read_text())
    for i, rle in enumerate(content["masks"]):
        assert rle["size"] == list(SIZE)
        np.testing.assert_array_equal(coco.decode(rle), result.instances.full_mask(i))


def test_polygons_lie_on_the_image(tmp_path: Path) -> None:
    instances = make_instances(1)
    instances.masks[0][:] = 1
    result = Result(instances, NAMES, np.zeros((*SIZE, 3), np.uint8))
    content = json.loads(result.save_to_json(tmp_path, mask_format="polygon").read_text())
    (ring,) = content["masks"][0]
    assert (min(ring[::2]), min(ring[1::2])) == (10, 6)
    assert max(ring[::2]) in (29, 30) and max(ring[1::2]) in (40, 41)


@pytest.mark.parametrize("mask_format", ["list", "rle", "polygon"])
def test_no_detections_can_be_written(mask_format: str, tmp_path: Path) -> None:
    """F80."""
    content = json.loads(make(n=0).save_to_json(tmp_path, mask_format=mask_format).read_text())
    assert content == {"input_path": None, "page_index": None, "boxes": [], "masks": []}


def test_an_unknown_mask_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'polygon'"):
        make().save_to_json(tmp_path, mask_format="polygons")
    assert not files(tmp_path)


# Images


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("a.jpg", "a_res.jpg"),
        ("a.JPG", "a_res.JPG"),
        ("a.webp", "a_res.webp"),
        ("a.bmp", "a_res.bmp"),
        ("a.ppm", "a_res.ppm"),
        ("a.ras", "a_res.png"),
        ("a.sr", "a_res.png"),
        ("a.pgm", "a_res.png"),
        ("a.pdf", "a_res.png"),
        ("a", "a_res.png"),
        ("http://host/a.jpg?x=1", "a_res.png"),
    ],
)
def test_the_image_has_the_suffix_of_the_input_if_that_can_be_written(given: str, written: str, tmp_path: Path) -> None:
    """F31, B60: where Pillow can't write it, PNG."""
    path = make(given).save_to_img(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / written
    with Image.open(path) as image:
        assert image.size == (80, 60) and image.mode == "RGB"


@pytest.mark.parametrize("suffix", sorted(IMAGE_FORMATS))
def test_an_image_file_can_be_named(suffix: str, tmp_path: Path) -> None:
    """F31."""
    path = make(n=0).save_to_img(str(tmp_path / "deep" / f"x{suffix}"))
    with Image.open(path) as image:
        assert image.size == (80, 60)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 50).max() <= 2


def test_the_image_has_the_right_colours(tmp_path: Path) -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    image[..., 2] = 255  # BGR
    with Image.open(Result(make_instances(0), NAMES, image).save_to_img(tmp_path)) as photo:
        assert photo.getpixel((5, 5)) == (255, 0, 0)


# Where files go


@pytest.mark.parametrize("name", ["x.txt", "x.json", "x.pdf", "x.mp4", "x.pgm", "x.json.gz"])
def test_an_image_is_not_written_to_a_file_of_another_kind(name: str, tmp_path: Path) -> None:
    """B60."""
    with pytest.raises(ParameterError, match="expected a folder .*, or a file ending in .*jpg") as caught:
        make().save_to_img(tmp_path / name)
    assert name in str(caught.value) and not files(tmp_path)


@pytest.mark.parametrize("name", ["x.txt", "x.jpg", "x.json.gz"])
def test_json_is_not_written_to_a_file_of_another_kind(name: str, tmp_path: Path) -> None:
    """B60."""
    with pytest.raises(ParameterError, match=r"or a file ending in \.json"):
        make().save_to_json(tmp_path / name)
    assert not files(tmp_path)


@pytest.mark.parametrize("name", ["x.txt", "x.jpg", "x.json"])
def test_save_all_takes_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected a folder"):
        make().save_all(tmp_path / name)
    assert not files(tmp_path)


@pytest.mark.parametrize("name", ["out", "run.v2", "run.2024-01-01", "x.json/", "x.txt/"])
def test_what_else_is_a_folder(name: str, tmp_path: Path) -> None:
    """F30, F31."""
    make("photo.jpg").save_all(f"{tmp_path}/{name}")
    assert files(tmp_path / name) == ["photo_res.jpg", "photo_res.json"]


def test_a_folder_that_exists_is_one_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    make("photo.jpg").save_all(tmp_path / "x.txt")
    assert len(files(tmp_path / "x.txt")) == 2


def test_json_suffix_in_any_case(tmp_path: Path) -> None:
    assert make().save_to_json(tmp_path / "X.JSON") == tmp_path / "X.JSON" and files(tmp_path) == ["X.JSON"]


def test_paths_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert make("a.png").save_to_json("") == Path("a_res.json") and make("a.png").save_to_img("b.png") == Path("b.png")


def test_pages_and_arrays(tmp_path: Path) -> None:
    """F79: one name for JSON and image of an array."""
    make("in/d.tif", 0).save_all(tmp_path)
    assert files(tmp_path) == ["d_0_res.json", "d_0_res.tif"]
    array = make()
    array.save_all(tmp_path / "arrays")
    one, other = files(tmp_path / "arrays")
    assert re.fullmatch(r"\d{10}_[1-9]\d{3}_res\.json", one) and other == one.replace(".json", ".png")


def test_arrays_have_different_names() -> None:
    """F79."""
    assert len({make(n=0).stem for _ in range(2000)}) == 2000


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = make().save_to_json(tmp_path / "x.json")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


# Names that collide


def test_equal_names_in_one_run_do_not_overwrite_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """B19."""
    stems = Stems()
    run = [make(path, stems=stems) for path in ("k.png", "k.jpg", "q/k.png", "k_1.bmp")]
    with caplog.at_level(logging.WARNING, "maskline"):
        for result in run:
            result.save_all(tmp_path)
    assert files(tmp_path) == [
        *("k_1_1_res.bmp", "k_1_1_res.json", "k_1_res.jpg", "k_1_res.json"),
        *("k_2_res.json", "k_2_res.png", "k_res.json", "k_res.png"),
    ]
    for name, path in (("k", "k.png"), ("k_1", "k.jpg"), ("k_2", "q/k.png"), ("k_1_1", "k_1.bmp")):
        assert json.loads((tmp_path / f"{name}_res.json").read_text())["input_path"] == path
    assert len(caplog.records) == 1 and "several inputs are named k" in caplog.text


def test_the_same_result_overwrites_its_own_files(tmp_path: Path) -> None:
    """B19."""
    stems = Stems()
    first, second = make("k.png", stems=stems), make("q/k.png", stems=stems)
    for _ in range(2):
        second.save_to_img(tmp_path)
        first.save_all(tmp_path)
        second.save_to_json(tmp_path)
    assert files(tmp_path) == ["k_1_res.json", "k_1_res.png", "k_res.json", "k_res.png"]
    assert json.loads((tmp_path / "k_res.json").read_text())["input_path"] == "q/k.png"  # it came first
    assert make("k.png", stems=stems).save_to_json(f"{tmp_path}/.") == tmp_path / "k_1_res.json"


def test_names_are_free_in_another_folder_and_in_another_run(tmp_path: Path) -> None:
    stems = Stems()
    make("k.png", stems=stems).save_to_json(tmp_path / "a")
    assert make("k.jpg", stems=stems).save_to_json(tmp_path / "b").name == "k_res.json"
    assert make("k.jpg", stems=Stems()).save_to_json(tmp_path / "a").name == "k_res.json"
    assert make("k.gif").save_to_json(tmp_path / "a").name == "k_res.json"


def test_pages_do_not_collide_with_each_other_but_with_files(tmp_path: Path) -> None:
    """B19."""
    stems = Stems()
    names = [make(*source, stems=stems).save_to_json(tmp_path).name for source in (("d.tif", 0), ("d.tif", 1))]
    names.append(make("d_0.png", stems=stems).save_to_json(tmp_path).name)
    names.append(make("D_1.png", stems=stems).save_to_json(tmp_path).name)  # the same file on some systems
    assert names == ["d_0_res.json", "d_1_res.json", "d_0_1_res.json", "D_1_1_res.json"]


@pytest.mark.parametrize("letter", ["x", "图", "\U0001f600"])
@pytest.mark.parametrize("count", [230, 245, 246, 250])
@pytest.mark.parametrize("page", [None, 12345])
def test_long_names_are_cut_to_fit(tmp_path: Path, letter: str, count: int, page: int | None) -> None:
    """With each ending, and with a number where others are cut to the same."""
    each = len(os.fsencode(letter))
    name = letter * (count // each)
    stems = Stems()
    for ending in ("a", "b", "c"):
        result = make(f"in/{name}{ending}.tiff", page, 1, stems=stems)
        result.save_all(tmp_path)
        result.save_all(tmp_path)  # the same files again
    names = files(tmp_path)
    assert len(names) == 6 and len({name.rpartition(".")[0] for name in names}) == 3
    assert max(len(os.fsencode(name)) for name in names) <= 255
    number = "" if page is None else f"_{page}"
    assert all(name.startswith(letter * (200 // each)) and number in name for name in names)
    if page is None and each * (count // each) + 1 <= 246:
        assert f"{name}a_res.json" in names  # whole where it fits


def test_a_long_name_keeps_its_page(tmp_path: Path) -> None:
    stems = Stems()
    saved = [make(f"{'x' * 250}.pdf", page, 1, stems=stems).save_to_json(tmp_path).name for page in (0, 9, 10, 1234)]
    assert [name[-14:] for name in saved] == ["xxx_0_res.json", "xxx_9_res.json", "xx_10_res.json", "_1234_res.json"]
    again = make(f"other/{'x' * 250}.pdf", 9, 1, stems=stems).save_to_json(tmp_path).name
    assert again.endswith("xxx_9_1_res.json") and len(again) <= 255


def test_many_equal_names_and_threads(tmp_path: Path) -> None:
    """B19."""
    stems = Stems()
    claimed: list[str] = []

    def claim(first: int) -> None:
        claimed.extend(stems.claim(tmp_path, "image", f"{i}") for i in range(first, 4000, 8))

    threads = [threading.Thread(target=claim, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(claimed)) == 4000
    assert stems.claim(tmp_path, "image", "17") in claimed


def test_names_cost_little() -> None:
    """Large folders: a name costs less than 200 bytes, whatever its length."""
    stems, folder = Stems(), Path("out")
    tracemalloc.start()
    for i in range(5000):
        stems.claim(folder, f"{'x' * 100}{i}", f"{'y' * 200}{i}")
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 5000 * 200


# Failures


def test_a_failing_write_leaves_nothing_and_spares_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(n=1).save_to_json(tmp_path / "x.json")
    before = old.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(result_module, "_rows_text", full)
        patched.setattr(Image.Image, "save", full)
        for write, name in ((make().save_to_json, "x.json"), (make().save_to_img, "x.png")):
            with pytest.raises(OutputError, match=f"{name} can't be written: No space left on device") as caught:
                write(tmp_path / name)
            assert isinstance(caught.value, OSError) and "\n" not in str(caught.value)
    assert files(tmp_path) == ["x.json"] and old.read_bytes() == before


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(result_module, "_rows_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make().save_to_json(tmp_path)
    assert not files(tmp_path)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken_res.json").mkdir()
    for result, target in (
        (make("a.png"), tmp_path / "file"),
        (make("a.png"), tmp_path / "file" / "deep" / "x.json"),
        (make("taken.png"), tmp_path),
        (make("a.png"), tmp_path / "nul\0byte" / "x.json"),
    ):
        with pytest.raises(OutputError, match="can't be written: ") as caught:
            result.save_to_json(target)
        assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["file", "taken_res.json"]


def test_an_image_too_large_for_its_format(tmp_path: Path) -> None:
    size = (2, 17_000)
    nothing = Instances(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (), np.zeros(0, np.float32), size
    )
    with pytest.raises(OutputError, match=r"a_res\.webp can't be written"):
        Result(nothing, NAMES, np.zeros((*size, 3), np.uint8), "a.webp").save_to_img(tmp_path)
    assert not files(tmp_path)
