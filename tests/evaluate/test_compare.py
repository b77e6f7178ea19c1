"""Two sets of detections: which is better, and how sure that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import made

from maskline.data.dataset import Dataset
from maskline.errors import DatasetError, InputError, InputNotFoundError, ParameterError
from maskline.evaluate import detections as results
from maskline.evaluate.classes import match_classes
from maskline.evaluate.compare import Comparison, compare
from maskline.evaluate.detections import ImageDetections, truth_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return made.dataset(tmp_path_factory.mktemp("set"), 5, images=30)


def saved(data: Dataset, path: Path, seed: int, junk: int = 4, keep: float = 1.0) -> Path:
    """Detections of a model that sees a share of what another does."""
    rng, classes = np.random.default_rng(seed), match_classes(data)
    found: dict[Any, ImageDetections] = {}
    for image in data.images:
        truth = truth_of(data, image, classes)
        one = made.noisy(truth.masks, truth.labels.tolist(), truth.size, rng, junk)
        found[image.id] = one.select(np.flatnonzero(rng.random(len(one)) < keep))
    return results.write(path, found, [category.id for category in data.categories])


@pytest.fixture
def good(data: Dataset, tmp_path: Path) -> Path:
    return saved(data, tmp_path / "good.json", 1)


def row(done: Comparison, name: str = "AP") -> Any:
    return next(difference for difference in done.differences if difference.name == name)


def test_a_model_with_itself(data: Dataset, good: Path) -> None:
    done = compare(good, good, data, resamples=50)
    for one in done.differences:
        assert one.a == one.b and (one.difference, one.low, one.high, one.b_better) == (0, 0, 0, 0.5)
        assert one.verdict == "no clear difference"
    assert [one.name for one in done.differences] == ["AP", "AP50", "AP75", "bbox_AP"]


def test_figures_are_those_of_the_whole_set(data: Dataset, good: Path, tmp_path: Path) -> None:
    other = saved(data, tmp_path / "b.json", 2)
    done = compare(good, other, data, resamples=10)
    for path, side in ((good, "a"), (other, "b")):
        found = results.read(path, data, match_classes(data))
        masks = made.reference(made.coco_file(data), data, found, "mask")
        boxes = made.reference(made.coco_file(data), data, found, "box")
        expected = {"AP": masks["AP"], "AP50": masks["AP50"], "AP75": masks["AP75"], "bbox_AP": boxes["AP"]}
        assert {one.name: getattr(one, side) for one in done.differences} == pytest.approx(expected, abs=1e-12)


def test_a_clear_difference_is_found(data: Dataset, good: Path, tmp_path: Path) -> None:
    """A model that misses half of what the other finds; the same the other way round, mirrored."""
    worse = saved(data, tmp_path / "worse.json", 1, keep=0.4)
    done, back = compare(worse, good, data, resamples=300), compare(good, worse, data, resamples=300)
    one, mirrored = row(done), row(back)
    assert 0 < one.low < one.difference < one.high and one.b_better > 0.95 and one.verdict == "B is better"
    assert (mirrored.low, mirrored.high) == pytest.approx((-one.high, -one.low)) and mirrored.verdict == "A is better"


def test_the_interval_covers_the_difference_of_equals(data: Dataset, tmp_path: Path) -> None:
    """Models that differ by chance alone: 0 is nearly always inside."""
    inside = 0
    for seed in range(12):
        a, b = (saved(data, tmp_path / f"{name}.json", 100 + 2 * seed + name) for name in (0, 1))
        one = row(compare(a, b, data, resamples=150, seed=seed))
        assert one.low < one.high
        inside += one.low <= 0 <= one.high
    assert inside >= 9


def test_seeds(data: Dataset, good: Path, tmp_path: Path) -> None:
    other = saved(data, tmp_path / "b.json", 2)
    first, again, another = (compare(good, other, data, resamples=40, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert row(first).low != row(another).low and row(first).difference == row(another).difference


def test_summary_and_json(data: Dataset, good: Path, tmp_path: Path) -> None:
    done = compare(good, saved(data, tmp_path / "b.json", 2), data, resamples=20)
    lines = done.summary().splitlines()
    assert lines[1].startswith("AP ") and f"{row(done).a:.4f}" in lines[1] and "30" in lines[-1]
    content = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert content["differences"]["AP"]["difference"] == row(done).difference and content["level"] == 95


def test_nothing_to_find(tmp_path: Path) -> None:
    data = made.dataset(tmp_path, 0, images=2)
    bare = Dataset("val", tmp_path, data.images, [], data.categories)
    path = saved(bare, tmp_path / "a.json", 1)
    done = compare(path, path, bare, resamples=10)
    assert row(done).a is None and "nothing to measure" in done.summary()
    json.dumps(done.to_dict(), allow_nan=False)
    with pytest.raises(DatasetError, match="no images"):
        compare(path, path, Dataset("val", tmp_path, [], [], data.categories))


def test_no_detections_at_all(data: Dataset, good: Path, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    one = row(compare(tmp_path / "none.json", good, data, resamples=20))
    assert one.a == 0 and one.low > 0


DOT = made.placed(np.ones((1, 1), np.uint8), 3, 3)
RECORD = {"image_id": 1, "category_id": 0, "score": 0.5, "segmentation": {"size": [60, 80], "counts": DOT}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable JSON"),
        ('{"a": 1}', "is not a list"),
        ([1], "record 0 can't be used"),
        ([{}], "record 0 can't be used: it has no 'image_id'"),
        ([RECORD | {"image_id": 99}], "no image with the id 99; is it from another split"),
        ([RECORD | {"image_id": [1]}], "record 0"),
        ([RECORD | {"category_id": 7}], "no category with the id 7"),
        ([RECORD | {"score": "x"}], "record 0"),
        ([RECORD | {"score": float("nan")}], "its score is nan"),
        ([RECORD | {"segmentation": [[1, 2, 3, 4, 5, 6]]}], "record 0"),
        (
            [RECORD | {"segmentation": {"size": [1, 1], "counts": "0"}}],
            r"expected compressed RLE of \[60, 80\]",
        ),
        ([RECORD | {"segmentation": {"size": [60, 80], "counts": [4800]}}], "expected compressed RLE"),
        ([RECORD | {"segmentation": {"size": [60, 80], "counts": "é"}}], "record 0"),
        ([RECORD | {"segmentation": {"size": [60, 80], "counts": "zzzzzzzz"}}], "RLE counts"),
        ([RECORD | {"bbox": [1, 2]}], "its box is"),
        ([RECORD | {"bbox": 3}], "record 0"),
    ],
)
def test_files_that_cannot_be_used(data: Dataset, good: Path, tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message) as raised:
        compare(path, good, data)
    assert "\n" not in str(raised.value)


def test_paths_and_numbers(data: Dataset, good: Path, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"has no detections\.json"):
        compare(tmp_path / "nowhere", good, data)
    with pytest.raises(ParameterError, match="resamples"):
        compare(good, good, data, resamples=0)
    with pytest.raises(ParameterError, match="max_detections"):
        compare(good, good, data, max_detections=0)
