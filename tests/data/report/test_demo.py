"""Images with annotations drawn in: the right ones, where they belong, whatever is wrong with the set."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.report.demo import demo_images
from maskline.data.report.thumbnails import FAULTY, PADDING, STATED, Shot, Thumbnail, thumbnails
from maskline.data.shapes import Segmentation, to_rle
from maskline.errors import OutputError
from maskline.inputs import read_image
from maskline.instances import ByteArray
from maskline.render import draw

GREY = 96


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.asarray([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def dataset(folder: Path, names: Sequence[str], size: tuple[int, int] = (60, 90)) -> Dataset:
    """Grey images of ``(height, width)``, each with a rectangle of class 0 and a larger one of class 1."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (GREY,) * 3).save(folder / name)
    images = [ImageRecord(number, name, size[1], size[0]) for number, name in enumerate(names)]
    annotations = [
        Annotation(2 * number + label, number, label, (rectangle(10 + 30 * label, 20, 30 + 40 * label, 50),))
        for number in range(len(names))
        for label in range(2)
    ]
    return Dataset("train", folder, images, annotations, [Category(0, "left"), Category(1, "right")])


# ---- whole images


def test_first_images_in_their_folders(tmp_path: Path) -> None:
    """F57, B73: train and val have folders of their own."""
    found = dataset(tmp_path / "images", [f"sub/{number}.png" for number in range(12)])
    assert demo_images(found, tmp_path / "demo") == [f"train/sub/{number}.png" for number in range(10)]
    files = sorted(path.relative_to(tmp_path / "demo").as_posix() for path in (tmp_path / "demo").rglob("*.*"))
    assert files == sorted(f"train/sub/{number}.png" for number in range(10))
    assert demo_images(replace(found, split="val"), tmp_path / "demo", most=1) == ["val/sub/0.png"]


def test_masks_boxes_and_names_without_scores(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png"])
    demo_images(found, tmp_path / "demo")
    drawn = np.asarray(Image.open(tmp_path / "demo" / "train" / "a.png"))
    expected = draw(read_image(tmp_path / "a.png"), found.instances(found.images[0]), ["left", "right"], scores=False)
    np.testing.assert_array_equal(drawn, expected)
    assert (drawn[25:45, 15:25] != GREY).any()


def test_images_that_cant_be_drawn_are_passed_over(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["missing.png", "junk.jpg", "other.png", "good.png", "also.jpg"])
    (tmp_path / "missing.png").unlink()
    (tmp_path / "junk.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("RGB", (10, 10)).save(tmp_path / "other.png")
    assert demo_images(found, tmp_path / "demo", most=2) == ["train/good.png", "train/also.jpg"]


def test_formats_without_colour_become_png(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png", "b.png", "c.jpg"])
    Image.new("L", (90, 60), GREY).save(tmp_path / "a.pgm")
    Image.new("P", (90, 60)).save(tmp_path / "b.png")
    images = [replace(found.images[0], file_name="a.pgm"), *found.images[1:]]
    written = demo_images(replace(found, images=images), tmp_path / "demo")
    assert written == ["train/a.pgm.png", "train/b.png", "train/c.jpg"]
    for name, kind in zip(written, ("PNG", "PNG", "JPEG"), strict=True):
        with Image.open(tmp_path / "demo" / name) as image:
            assert (image.format, image.mode) == (kind, "RGB")


def test_unwritable(tmp_path: Path) -> None:
    found = dataset(tmp_path / "images", ["a.png"])
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(OutputError, match=r"a\.png can't be written"):
        demo_images(found, tmp_path / "demo")


# ---- thumbnails


def pixels(thumbnail: Thumbnail | None) -> ByteArray:
    """(h, w, 3) BGR."""
    assert thumbnail is not None
    assert thumbnail.source.startswith(("data:image/webp;base64,", "data:image/jpeg;base64,"))
    data = base64.b64decode(thumbnail.source.partition(",")[2], validate=True)
    found = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    assert found.shape == (thumbnail.height, thumbnail.width, 3)
    return found


def near(image: ByteArray, colour: tuple[int, int, int], slack: int = 90) -> np.ndarray:
    """Where an image has about a colour: lossy formats blur narrow lines."""
    return np.abs(image.astype(int) - colour).sum(axis=2) < slack


def sample(found: Dataset, place: int = 0, edge: int = 120) -> Shot:
    focus = found.annotations[place]
    image = found.by_id[focus.image_id]
    others = [annotation for annotation in found.of(image) if annotation is not focus]
    return Shot(found.path(image), edge, image, focus, others, colour=(0, 200, 0))


def fault(found: Dataset, segmentation: Segmentation, box: tuple[float, float, float, float] | None = None) -> Shot:
    focus = replace(found.annotations[0], segmentation=segmentation)
    return Shot(found.path(found.images[0]), 120, found.images[0], focus, fault=True, box=box)


def test_a_sample_is_tinted_and_its_neighbours_hardly(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png"])
    (thumbnail,) = thumbnails([sample(found)])
    image = pixels(thumbnail)
    assert max(image.shape[:2]) == 120
    # The view is 64 high, cut to the image's 60, and 64 wide from the left border: x = 20, y = 35 is in the mask.
    scale = 120 / 64
    inside, other, outside = (image[round(35 * scale), round(x * scale)].astype(int) for x in (20, 50, 35))
    assert inside[1] > GREY + 25 > GREY - 25 > inside[2]
    assert np.ptp(other) < 20
    assert GREY + 5 < other.mean() < GREY + 60
    assert np.abs(outside - GREY).max() < 12
    assert near(image, (0, 200, 0)).sum() > 50


def test_in_order_none_where_nothing_can_be_shown(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png", "gone.png", "b.png"])
    (tmp_path / "gone.png").unlink()
    shots = [sample(found, place, edge) for place, edge in ((4, 40), (2, 41), (0, 42), (5, 43), (1, 44))]
    drawn = thumbnails(shots)
    edges = [None if thumbnail is None else max(thumbnail.width, thumbnail.height) for thumbnail in drawn]
    assert edges == [40, None, 42, 43, 44]
    assert drawn == thumbnails(shots)
    assert thumbnails([]) == []


def test_each_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dataset(tmp_path, ["a.png", "b.png"])
    reads: Counter[str] = Counter()

    def read(path: Path) -> ByteArray:
        reads[path.name] += 1
        return read_image(path)

    monkeypatch.setattr("maskline.data.report.thumbnails.read_image", read)
    thumbnails([sample(found, place) for place in (0, 2, 1, 3, 0)])
    assert reads == {"a.png": 1, "b.png": 1}


def test_an_image_of_another_size(tmp_path: Path) -> None:
    """Good samples do not come from it. As a fault it is shown, as far as the record goes, with its masks."""
    found = dataset(tmp_path, ["a.png"])
    Image.new("RGB", (45, 30), (GREY,) * 3).save(tmp_path / "a.png")
    image = found.images[0]
    whole = Shot(tmp_path / "a.png", 90, image, others=found.annotations, fault=True)
    first, second = thumbnails([sample(found), whole])
    assert first is None
    shown = pixels(second)
    assert shown.shape == (60, 90, 3)
    assert np.abs(shown[5, 5].astype(int) - GREY).max() < 10
    assert np.abs(shown[55, 80].astype(int) - PADDING[0]).max() < 10
    for x in (20, 55):  # the second mask lies beyond the image
        assert shown[35, x, 2] > shown[35, x, 1] + 60


def test_a_whole_image_as_it_is(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png"])
    unlisted, listed = thumbnails([Shot(tmp_path / "a.png", 30), Shot(tmp_path / "a.png", 30, found.images[0])])
    assert np.abs(pixels(unlisted).astype(int) - GREY).max() < 5
    assert unlisted == listed


def test_a_polygon_is_shown_where_it_leaves_the_image(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png"])
    (thumbnail,) = thumbnails([fault(found, (rectangle(60, 20, 110, 40),))])
    image = pixels(thumbnail)
    lines = near(image, FAULTY)
    grey = near(image, PADDING, 20)
    assert grey[:, -5:].mean() > 0.9  # beyond the border
    assert not grey[:, : image.shape[1] // 2].any()
    assert lines[:, image.shape[1] * 90 // 115 :].any()  # and the polygon goes on there


def test_the_stated_box_is_shown(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png"])
    shape = (rectangle(10, 20, 30, 50),)
    without, with_box = thumbnails([fault(found, shape), fault(found, shape, (40, 10, 30, 30))])
    assert not near(pixels(without), STATED).any()
    assert near(pixels(with_box), STATED).sum() > 50


def test_run_lengths_and_shapes_without_pixels(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.png"])
    full = to_rle((rectangle(10, 20, 30, 50),), (60, 90))
    empty = to_rle((rectangle(500, 500, 600, 600),), (60, 90))
    shown, nothing = thumbnails([fault(found, full), fault(found, empty)])
    assert near(pixels(shown), FAULTY).any()
    assert np.abs(pixels(nothing).astype(int) - GREY).max() < 10


def test_without_webp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "haveImageWriter", lambda name: not name.endswith("webp"))
    (thumbnail,) = thumbnails([sample(dataset(tmp_path, ["a.png"]))])
    assert thumbnail is not None
    assert thumbnail.source.startswith("data:image/jpeg;base64,/9j/")
    assert pixels(thumbnail).any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.one_of(st.floats(-50, 200), st.floats(-1e100, 1e100, allow_nan=False))] * 2),
        min_size=3,
        max_size=8,
    ),
    st.sampled_from([(1, 1), (1, 400), (300, 2), (60, 90)]),
    st.tuples(*[st.one_of(st.floats(-50, 200), st.floats(-1e300, 1e300, allow_nan=False))] * 4),
)
def test_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    points: list[tuple[float, float]],
    size: tuple[int, int],
    box: tuple[float, float, float, float],
) -> None:
    found = dataset(tmp_path_factory.mktemp("any"), ["a.png"], size)
    ring = np.asarray(points, np.float64)
    for thumbnail in thumbnails([fault(found, (ring,)), fault(found, (ring,), box), sample(found)]):
        assert max(pixels(thumbnail).shape[:2]) == 120
