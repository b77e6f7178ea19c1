"""Writers of many results: COCO, LabelMe, CSV; read back with the tools and the readers they are for."""

from __future__ import annotations

import csv
import gc
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import results
from fixtures.results import NAMES, SIZE
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from maskline.data.formats.labelme import format as labelme
from maskline.data.shapes import crop, to_rle
from maskline.data.source import Source
from maskline.errors import InputError, OutputError, ParameterError, UnknownNameError
from maskline.instances import Instances, Window
from maskline.masks import rle_decode
from maskline.outputs.coco import CocoResultsWriter, CocoWriter
from maskline.outputs.csv_table import CsvWriter
from maskline.outputs.formats import WRITERS, open_writers, writer_class
from maskline.outputs.labelme import LabelMeWriter
from maskline.outputs.paths import Stems
from maskline.outputs.result import Result
from maskline.outputs.writer import Writer
from maskline.paddlex.check_dataset import examine

BOXES = [(10.4, 5.6, 30.2, 40.8), (40.0, 20.0, 70.0, 55.0), (70.2, 50.0, 70.4, 58.0)]
PLAIN = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with NumPy 2


def disc(window: Window) -> np.ndarray:
    """An ellipse that fills a window."""
    height, width = window.size
    y, x = np.mgrid[:height, :width]
    inside = ((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2 <= 0.25
    return inside.astype(np.uint8)


def make_instances(n: int = 3) -> Instances:
    return results.instances(BOXES[:n], disc)


def make(path: Path | str | None = None, page: int | None = None, n: int = 3, stems: Stems | None = None) -> Result:
    return Result(make_instances(n), NAMES, np.full((*SIZE, 3), 50, np.uint8), path, page, stems=stems or Stems())


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three images in two folders."""
    paths = [tmp_path / "photos" / name for name in ("one/a.png", "one/b.png", "c.png")]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# All formats


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_made_before_the_first_result_nor_on_an_error(name: str, tmp_path: Path) -> None:
    """A file is there whole, or not at all: an error on the way leaves what was there before."""
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), writer_class(name).open(out):
        assert not out.exists()
        raise RuntimeError
    assert not out.exists()
    if name == "labelme":
        return
    with writer_class(name).open(out) as writer:
        writer.add(make("a.jpg"))
    before = writer.path.read_bytes()
    with pytest.raises(RuntimeError), writer_class(name).open(out) as writer:
        writer.add(make("b.jpg"))
        assert files(out) == [writer.path.name]  # what waits has no name
        raise RuntimeError
    assert writer.path.read_bytes() == before and files(out) == [writer.path.name]


@pytest.mark.parametrize("name", WRITERS)
def test_no_results_and_no_instances(name: str, tmp_path: Path) -> None:
    """F80."""
    with writer_class(name).open(tmp_path / "none"):
        pass
    with writer_class(name).open(tmp_path / "empty") as writer:
        writer.add(make("a.jpg", n=0))
    if name != "labelme":
        assert (tmp_path / "none" / writer_class(name).FILE_NAME).is_file() and writer.path.is_file()
    else:
        assert load(tmp_path / "empty" / "labelme" / "a.json")["shapes"] == []


@pytest.mark.parametrize("kind", [writer_class(name) for name in WRITERS])
def test_the_same_run_again_gives_the_same(kind: type[Writer], tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        with kind.open(tmp_path) as writer:
            writer.add(make("in/a.jpg"))
            writer.add(make("in/b.jpg", n=1))
        contents.append({p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) == (2 if kind is LabelMeWriter else 1)


@pytest.mark.parametrize("kind", [writer_class(name) for name in WRITERS])
def test_what_a_writer_refuses(kind: type[Writer], tmp_path: Path) -> None:
    writer = kind.open(tmp_path)
    writer.add(make("a.jpg"))
    other = Result(make_instances(), ["x", "y", "z"], np.zeros((*SIZE, 3), np.uint8), "b.jpg")
    with pytest.raises(ParameterError, match="different classes"):
        writer.add(other)
    assert writer.close() == writer.close() == writer.path
    with pytest.raises(ParameterError, match="is closed"):
        writer.add(make("b.jpg"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file; name a folder"):
        kind.open(tmp_path / "file")


def test_several_at_once(photos: list[Path], tmp_path: Path) -> None:
    """With copies of the images: the folder of LabelMe's files is a data set of its own."""
    with open_writers(["csv", "coco", "labelme", "coco-results", "csv"], tmp_path / "out") as writers:
        for photo in photos:
            for writer in writers:
                writer.add(make(photo))
    assert len(writers) == 4
    assert files(tmp_path / "out") == ["coco.json", "coco_results.json", "instances.csv", "labelme"]
    assert files(tmp_path / "out" / "labelme") == sorted(
        name for photo in photos for name in (photo.name, f"{photo.stem}.json")
    )


def test_an_unknown_format_is_refused_before_anything(tmp_path: Path) -> None:
    refused = pytest.raises(UnknownNameError, match="unknown export format 'labelm': did you mean 'labelme'")
    with refused, open_writers(["csv", "labelm"], tmp_path / "out"):
        pytest.fail("entered")
    with pytest.raises(ParameterError, match=r"formats is 'coco': expected a list, such as \['coco'\]"):
        open_writers("coco", tmp_path / "out").__enter__()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OutputError, match=r"coco\.json can't be written: No space left on device"):
        CocoWriter(tmp_path / "coco.json").add(make("a.jpg"))
    assert not files(tmp_path)


@pytest.mark.parametrize(("kind", "most"), [(CocoWriter, 130), (CocoResultsWriter, 130), (CsvWriter, 20)])
def test_memory_does_not_grow_with_the_results(kind: type[Writer], most: int, tmp_path: Path) -> None:
    """Large folders: a writer keeps nothing of a result, or a hash; here bytes of each of 500."""
    kept = []
    with kind.open(tmp_path) as writer:
        tracemalloc.start()
        for number in range(600):
            writer.add(make(f"in/{number}.jpg", n=1))
            if number in (99, 599):
                gc.collect()
                kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert kept[1] - kept[0] < 500 * most


# COCO


@PLAIN
def test_a_coco_file_is_a_data_set_for_pycocotools(photos: list[Path], tmp_path: Path) -> None:
    with CocoWriter(tmp_path / "out" / "coco.json") as writer:
        for path in photos:
            writer.add(make(path))
    data = COCO(writer.path)
    assert [image["file_name"] for image in data.dataset["images"]] == ["one/a.png", "one/b.png", "c.png"]
    assert data.dataset["info"]["folder"] == "../photos"
    assert data.dataset["categories"] == [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    assert len(data.anns) == 9 and len(set(data.anns)) == 9
    found = make_instances()
    for index, annotation in enumerate(data.loadAnns(data.getAnnIds(imgIds=2))):
        np.testing.assert_array_equal(data.annToMask(annotation), found.full_mask(index))
        assert annotation["area"] == found.masks[index].sum() and annotation["iscrowd"] == 0
        assert annotation["bbox"] == coco.toBbox(annotation["segmentation"]).tolist()
        assert annotation["score"] == [0.9, 0.75, 0.5][index] and annotation["category_id"] == index + 1


@pytest.mark.parametrize("mask_format", ["rle", "polygon"])
def test_a_coco_file_passes_our_own_check(mask_format: str, photos: list[Path], tmp_path: Path) -> None:
    """It can be trained on as it is: no fault of any kind in records, boxes, areas and masks."""
    root = photos[-1].parent
    with CocoWriter(tmp_path / "annotations" / "instance_train.json", mask_format=mask_format) as writer:
        for path in photos:
            writer.add(make(path))
    root.rename(tmp_path / "images")
    reading, _ = examine(tmp_path, tmp_path / "report")
    assert not [fault for fault in reading.faults if fault.split == "train"]
    dataset = reading.splits["train"]
    assert len(dataset.images) == 3 and len(dataset.annotations) == 9
    first = dataset.annotations[0]
    np.testing.assert_array_equal(rle_decode(to_rle(first.segmentation, SIZE), SIZE), make_instances().full_mask(0))


def test_masks_without_a_pixel_and_repeated_inputs_are_left_out(tmp_path: Path) -> None:
    result = make("in/a.jpg")
    result.instances.masks[1][:] = 0
    with CocoWriter(tmp_path / "coco.json") as writer:
        writer.add(result)
        writer.add(make("in/a.jpg"))
    content = load(writer.path)
    assert len(content["images"]) == 1 and [a["category_id"] for a in content["annotations"]] == [1, 3]


def test_names_of_pages_arrays_and_others(tmp_path: Path) -> None:
    array = make()
    with CocoWriter(tmp_path / "coco.json") as writer:
        for result in (make(tmp_path / "in/d.pdf", 1), array, array, make(tmp_path / 'in/x/not\udcffa"b.jpg')):
            writer.add(result)
    names = [image["file_name"] for image in load(writer.path)["images"]]
    assert names == ["d_1.png", f"{array.stem}.png", f"{array.stem}.png", 'x/not\udcffa"b.jpg']


def test_an_unknown_mask_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'polygon'"):
        CocoWriter(tmp_path / "coco.json", mask_format="polygons")


@PLAIN
def test_coco_results_load_with_their_data_set(photos: list[Path], tmp_path: Path) -> None:
    with open_writers(["coco", "coco-results"], tmp_path) as writers:
        for path in photos:
            for writer in writers:
                writer.add(make(path))
    found = COCO(tmp_path / "coco.json").loadRes(str(tmp_path / "coco_results.json"))
    assert len(found.anns) == 9
    np.testing.assert_array_equal(found.annToMask(found.anns[2]), make_instances().full_mask(1))
    record = load(tmp_path / "coco_results.json")[0]
    assert list(record) == ["image_id", "category_id", "segmentation", "bbox", "score"]
    assert record["bbox"] == [10.4, 5.6, 19.8, 35.2]


def test_coco_results_with_the_ids_of_a_data_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [("a.jpg", 7), ("one/a.jpg", "x"), ("two/b.jpg", 9)]
    truth = {
        "images": [{"file_name": name, "id": number} for name, number in images],
        "categories": [{"name": "cat", "id": 17}, {"name": "person", "id": 1}],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    with CocoResultsWriter(tmp_path / "found.json", annotations=tmp_path / "val.json") as writer:
        for name in ("in/a.jpg", "in/one/a.jpg", "in/two/b.jpg"):
            writer.add(make(name))
    records = load(writer.path)
    assert [record["image_id"] for record in records] == [7, 7, "x", "x", 9, 9]
    assert [record["category_id"] for record in records] == [1, 17] * 3
    assert "3 instances skipped: the data set lacks their classes" in caplog.text
    writer = CocoResultsWriter(tmp_path / "found.json", annotations=tmp_path / "val.json")
    for result in (make("in/c.jpg"), make("b.jpg"), make()):
        with pytest.raises(InputError, match="lists no image for the input"):
            writer.add(result)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"images": []}', '{"images": [1], "categories": []}'])
def test_a_file_that_is_not_a_data_set(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "val.json").write_text(text)
    with pytest.raises(InputError, match=r"val\.json is not a valid COCO data set") as caught:
        CocoResultsWriter(tmp_path / "found.json", annotations=tmp_path / "val.json")
    assert "\n" not in str(caught.value)


# LabelMe


def test_labelme_files_are_read_back(photos: list[Path], tmp_path: Path) -> None:
    """To the pixel; LabelMe's own keys, and a way to the image."""
    with LabelMeWriter(tmp_path / "photos" / "labelme") as writer:
        for path in photos:
            writer.add(make(path))
    content = load(writer.path / "a.json")
    assert content["imagePath"] == "../one/a.png" and content["imageData"] is None
    assert (content["imageHeight"], content["imageWidth"]) == SIZE
    dataset = labelme.read(Source.of(tmp_path / "photos")).splits["all"]
    assert sorted(image.file_name for image in dataset.images) == ["c.png", "one/a.png", "one/b.png"]
    assert {category.name for category in dataset.categories} == set(NAMES)
    for image in dataset.images:
        for index, annotation in enumerate(dataset.of(image)):
            pixels = rle_decode(to_rle(annotation.segmentation, SIZE), SIZE)
            np.testing.assert_array_equal(pixels, make_instances().full_mask(index))


def test_outlines_are_simplified_where_asked_for(photos: list[Path], tmp_path: Path) -> None:
    for tolerance in (0, 1):
        with LabelMeWriter(tmp_path / f"{tolerance}", tolerance=tolerance) as writer:
            writer.add(make(photos[0]))
    exact, simple = (load(tmp_path / name / "a.json")["shapes"] for name in ("0", "1"))
    assert len(simple[0]["points"]) < len(exact[0]["points"]) / 3
    assert len(simple[2]["points"]) >= 3  # a column of pixels stays a region
    dataset = labelme.read(Source.of(tmp_path)).splits["all"]
    pixels, _ = crop(dataset.annotations[0].segmentation, SIZE) or pytest.fail("empty")
    assert abs(int(pixels.sum()) / int(make_instances().masks[0].sum()) - 1) < 0.1
    for wrong in (-1.0, 1e30):
        with pytest.raises(ParameterError, match=r"tolerance is (-1|1e\+30): expected a number from 0 to 1000"):
            LabelMeWriter(tmp_path, tolerance=wrong)


@pytest.mark.parametrize("tolerance", [0, 1])
def test_parts_share_a_group_and_holes_are_kept(photos: list[Path], tmp_path: Path, tolerance: float) -> None:
    result = make(photos[0])
    result.instances.masks[0][15:18] = 0  # in two
    result.instances.masks[1][17, 15] = 0  # a hole
    with LabelMeWriter(tmp_path / "out", tolerance=tolerance) as writer:
        writer.add(result)
    shapes = load(writer.path / "a.json")["shapes"]
    assert [(shape["group_id"], shape["shape_type"]) for shape in shapes] == [
        (1, "polygon"),
        (1, "polygon"),
        (None, "mask"),
        (None, "polygon"),
    ]
    assert [shape["score"] for shape in shapes] == [0.9, 0.9, 0.75, 0.5]
    found = labelme.read(Source.of(tmp_path)).splits["all"].annotations
    assert len(found) == 3
    for index, annotation in enumerate(found):
        same = rle_decode(to_rle(annotation.segmentation, SIZE), SIZE) == result.instances.full_mask(index)
        assert same.all() or (tolerance and index != 1)


def test_holes_that_polygons_of_a_coco_file_lose_are_counted(
    photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = make(photos[0])
    result.instances.masks[1][17, 15] = 0
    for mask_format, message in (
        ("rle", ""),
        ("polygon", "holes are filled in 1 instance: mask_format='rle' keeps them"),
    ):
        with CocoWriter(tmp_path / f"{mask_format}.json", mask_format=mask_format) as writer:
            writer.add(result)
        assert message in caplog.text and bool(caplog.records) == bool(message)


@pytest.mark.parametrize("source", [(None, None), ("in/d.pdf", 1), ("in/d.tif", 0)])
def test_what_is_not_an_image_file_gets_one(source: tuple[str | None, int | None], tmp_path: Path) -> None:
    with LabelMeWriter(tmp_path / "out") as writer:
        writer.add(make(*source))
    sheet, image = files(writer.path)
    assert image.endswith(".png") and load(writer.path / sheet)["imagePath"] == image
    with Image.open(writer.path / image) as opened:
        assert opened.size == (80, 60) and opened.getpixel((0, 0)) == (50, 50, 50)
    assert not labelme.read(Source.of(writer.path)).faults


def test_with_copies_the_folder_is_a_data_set(photos: list[Path], tmp_path: Path) -> None:
    with LabelMeWriter(tmp_path / "out", copy_images=True) as writer:
        for path in photos:
            writer.add(make(path))
    assert files(writer.path) == ["a.json", "a.png", "b.json", "b.png", "c.json", "c.png"]
    assert (writer.path / "b.png").read_bytes() == photos[1].read_bytes()
    reading = labelme.read(Source.of(writer.path))
    assert not reading.faults and len(reading.splits["all"].annotations) == 9
    with LabelMeWriter(photos[2].parent, copy_images=True) as writer:
        writer.add(make(photos[2]))
    assert files(writer.path) == ["c.json", "c.png", "one"] and load(writer.path / "c.json")["imagePath"] == "c.png"


def test_files_next_to_their_images(photos: list[Path]) -> None:
    folder = photos[0].parent
    for _ in range(2):
        with LabelMeWriter(folder) as writer:
            writer.add(make(photos[0]))
    assert load(folder / "a.json")["imagePath"] == "a.png" and files(folder) == ["a.json", "a.png", "b.png"]


def by_hand(sheet: Path) -> None:
    content = load(sheet)
    content["shapes"][0]["points"][0][0] += 5.5
    sheet.write_text(json.dumps(content))


def flagged(sheet: Path) -> None:
    sheet.write_text(json.dumps(load(sheet) | {"flags": {"done": True}}))


def foreign(sheet: Path) -> None:
    content = load(sheet)
    del content["maskline"]
    sheet.write_text(json.dumps(content))


def damaged(sheet: Path) -> None:
    sheet.write_text("{")


@pytest.mark.parametrize("change", [by_hand, flagged, foreign, damaged])
def test_work_done_by_hand_is_never_overwritten(
    change: Callable[[Path], None], photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with LabelMeWriter(tmp_path / "out") as writer:
            writer.add(make(photos[0]))
            writer.add(make(photos[1]))
        assert not caplog.records
    change(writer.path / "a.json")
    before = (writer.path / "a.json").read_bytes()
    with LabelMeWriter(tmp_path / "out") as writer:
        writer.add(make(photos[0], n=1))
        writer.add(make(photos[1], n=1))
    assert (writer.path / "a.json").read_bytes() == before and len(load(writer.path / "b.json")["shapes"]) == 1
    assert "a.json was edited or is not from maskline" in caplog.text and ": 1 file left unchanged" in caplog.text


def test_saved_by_labelme_without_a_change_it_is_still_ours(photos: list[Path], tmp_path: Path) -> None:
    """LabelMe writes all keys again, unknown ones last, and its own version."""
    with LabelMeWriter(tmp_path / "out") as writer:
        writer.add(make(photos[0]))
    content = load(writer.path / "a.json")
    (writer.path / "a.json").write_text(json.dumps(content | {"version": "5.8.1", "imageData": "AAAA"}, indent=2))
    with LabelMeWriter(tmp_path / "out") as writer:
        writer.add(make(photos[0], n=1))
    assert len(load(writer.path / "a.json")["shapes"]) == 1


def test_an_image_that_is_there_is_not_overwritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "d_0.png")
    with LabelMeWriter(tmp_path) as writer:
        writer.add(make(tmp_path / "d.pdf", 0))
    assert files(tmp_path) == ["d_0.png"] and "from maskline: kept" in caplog.text
    with Image.open(tmp_path / "d_0.png") as image:
        assert image.size == (5, 5)


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """B19."""
    stems = Stems()
    with LabelMeWriter(tmp_path) as writer:
        for name in ("k.png", "k.jpg", "q/k.png"):
            writer.add(make(name, stems=stems))
    assert files(tmp_path) == ["k.json", "k_1.json", "k_2.json"]


# CSV


def test_a_row_for_each_instance(tmp_path: Path) -> None:
    with CsvWriter(tmp_path / "t.csv") as writer:
        for result in (make("in/a.jpg"), make('b,"x"\n.jpg', 3, n=1), make(n=0)):
            writer.add(result)
    with writer.path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "page", "index", "cls_id", "label", "score", "x1", "y1", "x2", "y2", "area"]
    assert [row["image"] for row in rows] == ["in/a.jpg"] * 3 + ['b,"x"\n.jpg']
    assert [row["page"] for row in rows] == ["", "", "", "3"] and [row["index"] for row in rows] == ["0", "1", "2", "0"]
    assert list(rows[0].values())[3:10] == ["0", "person", "0.9", "10.4", "5.6", "30.2", "40.8"]
    assert rows[1]["label"] == "自行车" and int(rows[1]["area"]) == make_instances().masks[1].sum()


def test_masks_in_the_table(tmp_path: Path) -> None:
    with CsvWriter(tmp_path / "t.csv", rle=True) as writer:
        writer.add(make("a.jpg"))
    with writer.path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for index, row in enumerate(rows):
        mask = rle_decode(row["rle"], (int(row["height"]), int(row["width"])))
        np.testing.assert_array_equal(mask, make_instances().full_mask(index))
