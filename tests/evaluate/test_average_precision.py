"""Our figures are pycocotools' figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest
from fixtures import made
from hypothesis import given, settings
from hypothesis import strategies as st

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.reading import load_splits
from maskline.evaluate.average_precision import averages, coco_metrics, precisions
from maskline.evaluate.classes import match_classes
from maskline.evaluate.detections import ImageDetections, mask_areas, no_detections, truth_of
from maskline.evaluate.matching import Ranking, _take, bit, rank_detections

SHARED = Path(__file__).parents[3] / "shared" / "data"
Kind: TypeAlias = Literal["mask", "box"]
Found: TypeAlias = dict[Any, ImageDetections]  # by id
KINDS: tuple[Kind, ...] = ("mask", "box")
TOLERANCE = 1e-12


def figures(data: Dataset, found: Found, kind: Kind, cap: int = 100) -> dict[str, float | None]:
    classes = match_classes(data)
    truths = [truth_of(data, image, classes) for image in data.images]
    rankings = rank_detections(truths, [found[image.id] for image in data.images], len(classes.names), kind, cap)
    return coco_metrics(rankings, cap)


def some_detections(data: Dataset, seed: int, junk: int = 4) -> Found:
    rng, classes = np.random.default_rng(seed), match_classes(data)
    truths = {image.id: truth_of(data, image, classes) for image in data.images}
    return {
        key: made.noisy(t.masks, t.labels.tolist(), t.size, rng, junk, len(classes.names)) for key, t in truths.items()
    }


def assert_same(ours: dict[str, float | None], theirs: dict[str, float | None]) -> None:
    assert list(ours) == list(theirs)
    assert [v is None for v in ours.values()] == [v is None for v in theirs.values()]
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], abs=TOLERANCE), name


@pytest.mark.parametrize("name", ["nuclei", "coco_sample"])
@pytest.mark.parametrize("cap", [100, 500])
def test_equal_to_pycocotools_on_real_sets(name: str, cap: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"needs {SHARED / name}")
    data = load_splits(SHARED / name)["val"]
    some = data.select([image for image in data.images if len(data.of(image)) < 150][:10])
    found = some_detections(some, seed=3, junk=130)
    assert len(found) < len(data.images) and max(map(len, found.values())) > 100
    everything = {image.id: found.get(image.id, no_detections(image.size)) for image in data.images}
    for kind in KINDS:
        theirs = made.reference(SHARED / name / "annotations" / "instance_val.json", data, found, kind, cap)
        assert_same(figures(data, everything, kind, cap), theirs)
        assert theirs["AP"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cap=st.sampled_from([1, 3, 10, 100]), kind=st.sampled_from(KINDS))
def test_equal_to_pycocotools_on_made_up_sets(
    seed: int, cap: int, kind: Literal["mask", "box"], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Crowd regions, background images, a class without objects, tied scores, several sizes."""
    data = made.dataset(tmp_path_factory.getbasetemp(), seed)
    found = some_detections(data, seed)
    if any(map(len, found.values())):
        assert_same(figures(data, found, kind, cap), made.reference(made.coco_file(data), data, found, kind, cap))


def test_many_detections_in_an_image(tmp_path: Path) -> None:
    """More than 255, which pycocotools can't measure at once."""
    data = made.dataset(tmp_path, 1, images=1)
    found = some_detections(data, 1, junk=400)
    assert len(found[1]) > 256
    assert len(mask_areas(found[1].masks, made.SIZE)) == len(found[1])
    for cap in (100, 1000):
        assert_same(figures(data, found, "mask", cap), made.reference(made.coco_file(data), data, found, "mask", cap))


def test_of_equal_ious_the_later_object_is_taken() -> None:
    hits, ignored = _take(np.asarray([[0.6, 0.6], [0.6, 0.0]]), [0, 0], [False, False])
    assert bool(hits[0] & bit(0, 0)) and bool(hits[1] & bit(0, 0))  # the first detection left the first object free
    assert not ignored.any()
    hits, _ = _take(np.asarray([[0.6, 0.7], [0.0, 0.7]]), [0, 0], [False, False])
    assert not hits[1]


def test_objects_that_count_go_first() -> None:
    """A detection with the better IoU on one that does not count takes the one that does."""
    everywhere = int(np.bitwise_or.reduce([int(bit(a, t)) for a in range(4) for t in range(10)]))
    hits, ignored = _take(np.asarray([[0.9, 0.5]]), [everywhere, 0], [False, False])
    assert bool(hits[0] & bit(0, 0)) and not bool(ignored[0] & bit(0, 0))
    assert bool(hits[0] & bit(0, 5)) and bool(ignored[0] & bit(0, 5))  # at 0.75 only the other is in reach


def test_a_crowd_region_can_be_taken_again() -> None:
    everywhere = int(np.bitwise_or.reduce([int(bit(a, t)) for a in range(4) for t in range(10)]))
    hits, ignored = _take(np.asarray([[0.9], [0.9]]), [everywhere], [True])
    assert (hits == ignored).all() and hits.all()
    hits, _ = _take(np.asarray([[0.9], [0.9]]), [everywhere], [False])
    assert hits[0] and not hits[1]


def ranking(tmp_path: Path, seed: int, images: int = 6) -> Ranking:
    data = made.dataset(tmp_path, seed, images)
    classes = match_classes(data)
    truths = [truth_of(data, image, classes) for image in data.images]
    return rank_detections(truths, list(some_detections(data, seed).values()), 3, "mask", 100)[0]


@pytest.mark.parametrize("seed", range(5))
def test_averages_are_means_of_precisions(tmp_path: Path, seed: int) -> None:
    one = ranking(tmp_path, seed)
    assert averages(one, np.ones((2, 6))) == pytest.approx(np.tile(precisions(one).mean(axis=1), (2, 1)), abs=1e-15)


def test_weights_repeat_images(tmp_path: Path) -> None:
    """An image that weighs 3 counts as three images of its kind; one that weighs 0 is not there."""
    weights = np.asarray([3, 0, 1, 2, 1, 0])
    data = made.dataset(tmp_path, 7)
    found = {
        key: replace(one, scores=one.scores - 1e-3 * key - 1e-5 * np.arange(len(one)))  # so that none tie
        for key, one in some_detections(data, 7).items()
    }
    images: list[ImageRecord] = []
    annotations: list[Annotation] = []
    repeated: Found = {}
    for image, times in zip(data.images, weights.tolist(), strict=True):
        for turn in range(times):
            key = 100 * int(image.id) + turn
            images.append(ImageRecord(key, image.file_name, image.width, image.height))
            repeated[key] = found[image.id]
            for a in data.of(image):
                annotations.append(Annotation(len(annotations) + 1, key, a.category_id, a.segmentation, crowd=a.crowd))
    more = Dataset("val", tmp_path, images, annotations, data.categories)
    theirs = made.reference(made.coco_file(more), more, repeated, "mask")
    classes = match_classes(data)
    truths = [truth_of(data, image, classes) for image in data.images]
    ours = [
        averages(r, weights[None].astype(float))[0]
        for r in rank_detections(truths, list(found.values()), 3, "mask", 100)
    ]
    known = [values.mean() for values in ours if not np.isnan(values).any()]
    assert np.mean(known) == pytest.approx(theirs["AP"], abs=TOLERANCE)


def test_nothing_to_find_is_none_not_zero(tmp_path: Path) -> None:
    data = Dataset("val", tmp_path, [ImageRecord(1, "a.png", 80, 60)], [], [Category(1, "cat")])
    found = {
        1: ImageDetections(
            np.zeros(1, np.int64), np.ones((1, 4)), np.ones(1), (made.placed(np.ones((1, 1)), 0, 0),), (60, 80)
        )
    }
    assert set(figures(data, found, "mask").values()) == {None}
    assert set(figures(data, {1: no_detections((60, 80))}, "box").values()) == {None}


def test_objects_without_detections_are_zero(tmp_path: Path) -> None:
    data = made.dataset(tmp_path, 0)
    values = figures(data, {image.id: no_detections(image.size) for image in data.images}, "mask")
    assert values["AP"] == values["AR100"] == 0


def test_a_mask_without_pixels_is_an_object_that_is_missed(tmp_path: Path) -> None:
    empty = made.placed(np.zeros((0, 0), np.uint8), 0, 0)
    square = made.placed(np.ones((10, 10), np.uint8), 5, 5)
    data = Dataset(
        "val",
        tmp_path,
        [ImageRecord(1, "a.png", 80, 60)],
        [Annotation(1, 1, 0, empty), Annotation(2, 1, 0, square)],
        [Category(0, "cat")],
    )
    found = {1: ImageDetections(np.zeros(1, np.int64), np.asarray([[5.0, 5, 10, 10]]), np.ones(1), (square,), (60, 80))}
    assert figures(data, found, "mask")["AR100"] == 0.5
