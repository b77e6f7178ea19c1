"""Evaluating functions and models: what counts, what is reported, what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import made
from hypothesis import given, settings
from hypothesis import strategies as st

import maskline
from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.formats import coco
from maskline.errors import DatasetError, OutputError, ParameterError, UnknownNameError
from maskline.evaluate import Evaluation, evaluate, evaluate_model, evaluate_stream, load_split
from maskline.evaluate import detections as results
from maskline.evaluate.classes import match_classes
from maskline.evaluate.detections import detections_of, truth_of
from maskline.instances import ByteArray, Instances

NONE = made.instances([], [], [])


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return made.dataset(tmp_path, 3)


class Truth:
    """Predicts what is there, image by image in the order of the set."""

    def __init__(self, data: Dataset, shift: int = 0, chance: float = 1) -> None:
        self.data, self.shift, self.rng, self.chance = data, shift, np.random.default_rng(0), chance
        self.images = iter(data.images)

    def __call__(self, pixels: ByteArray) -> Instances:
        found = self.data.instances(next(self.images), crowd=False)
        kept = [n for n in range(len(found)) if self.rng.random() < self.chance]
        masks = [self.shifted(found.masks[n], *found.window(n)) for n in kept]
        scores = np.linspace(0.9, 0.6, len(kept)).tolist()
        return made.instances(masks, found.labels[kept].tolist(), scores)

    def shifted(self, mask: np.ndarray, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, int, int]:
        left = min(left + self.shift, made.SIZE[1] - 1)
        return mask[:, : made.SIZE[1] - left], top, left


def test_perfect(data: Dataset) -> None:
    done = evaluate(Truth(data), data)
    assert done.ap == 1
    assert all(value == 1 for name, value in done.metrics.items() if value is not None and name[-2:] not in ("R1",))
    assert done.best is not None and done.best.f1 == 1
    assert (done.confusion == np.diag(np.diag(done.confusion))).all()
    assert done.worst == () and done.skipped == () and done.notes == ()
    assert done.counts.background_images == 2 and done.counts.images == 6
    assert done.counts.instances + done.counts.crowd_regions == len(data.annotations)
    rare = done.classes[2]
    assert set(rare.metrics.values()) == {None} and rare.curve is None and rare.best is None


def test_nothing_found(data: Dataset) -> None:
    done = evaluate(lambda _: NONE, data)
    assert done.ap == 0 and done.metrics["bbox_AP"] == 0
    assert done.best is None and done.threshold == 0.5
    assert done.confusion[:, :-1].sum() == 0
    assert done.confusion[:, -1].sum() == done.counts.instances
    assert all(outcome.quality == 0 for outcome in done.worst)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_shifted_masks_are_never_better(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = made.dataset(tmp_path_factory.getbasetemp(), seed, most=4, crowds=False)
    values = [evaluate(Truth(data, shift), data).ap for shift in (0, 2, 5, 60)]
    assert values[0] == 1 and values[3] < 0.2
    assert values[0] >= values[1] >= values[2]


def test_background_images_count(data: Dataset) -> None:
    """B41: detections in them are false positives, which those who leave such images out never see."""
    square = np.ones((9, 9), np.uint8)

    truth = Truth(data)

    def predict(pixels: ByteArray) -> Instances:
        found = truth(pixels)
        return found if len(found) else made.instances([(square, 3, 3)] * 2, [0, 1], [0.99, 0.98])

    background = [image for image in data.images if not data.of(image)]
    assert len(background) == 2
    done, without = evaluate(predict, data), evaluate(Truth(data), data)
    assert done.ap < without.ap
    assert done.confusion[-1, :2].tolist() == [2, 2]
    assert {outcome.image_id for outcome in done.worst} == {image.id for image in background}


def test_images_that_cannot_be_used(data: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    data.path(data.images[0]).write_bytes(b"no image")
    data.path(data.images[1]).unlink()
    wrong = replace(data.images[3], width=100)
    data = replace(data, images=[*data.images[:3], wrong, *data.images[4:]])
    left = replace(data, images=[data.images[2], *data.images[4:]])
    done = evaluate(Truth(left), data)
    assert [skipped.file for skipped in done.skipped] == ["image0.png", "image1.png", "image3.png"]
    assert "it is 80 x 60, but listed as 100 x 60" in done.skipped[2].reason
    assert done.counts.images == 3 and done.ap == 1
    assert done.notes[0].startswith("images left out: 3, the first: image0.png: ")


def test_no_image_at_all(data: Dataset) -> None:
    for image in data.images:
        data.path(image).unlink()
    with pytest.raises(DatasetError, match=r"none of 6 images of 'val' can be used: image0.png: "):
        evaluate(lambda _: NONE, data)
    with pytest.raises(DatasetError, match="none of 0 images"):
        evaluate(lambda _: NONE, replace(data, images=[]))


def test_streams_may_look_ahead(data: Dataset) -> None:
    """As a predictor that runs batches does: it takes several images, then gives several results."""

    def predict(images: Iterator[ByteArray]) -> Iterator[Instances]:
        truth = Truth(data)
        held = []
        for pixels in images:
            held.append(pixels)
            if len(held) == 4:
                yield from map(truth, held)
                held = []
        yield from map(truth, held)

    assert evaluate_stream(predict, data).ap == 1


def test_as_many_results_as_images(data: Dataset) -> None:
    with pytest.raises(ParameterError, match="predict returned 5 results for 6 images"):
        evaluate_stream(lambda images: [NONE for _ in images][:5], data)
    with pytest.raises(ParameterError, match="more results than it got images"):
        evaluate_stream(lambda images: [*(NONE for _ in images), NONE], data)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (replace(NONE, size=(60, 81)), r"image0.png is for \(60, 81\) .* expected \(60, 80\)"),
        (
            made.instances([(np.ones((2, 2), np.uint8), 0, 0)], [3], [0.5]),
            "has the label 3: expected a class from 0 to 2",
        ),
        (made.instances([(np.ones((2, 2), np.uint8), 0, 0)], [-1], [0.5]), "has the label -1"),
        (made.instances([(np.ones((2, 2), np.uint8), 0, 0)], [0], [np.nan]), "NaN"),
    ],
)
def test_predictions_that_do_not_fit(data: Dataset, broken: Instances, expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        evaluate(lambda _: broken, data)


def test_classes_go_by_name(data: Dataset) -> None:
    """Another order, a class more: the same figures, and a note."""
    own, truth = ["bird", "dog", "cat"], Truth(data)

    def predict(pixels: ByteArray) -> Instances:
        found = truth(pixels)
        return replace(found, labels=np.asarray([own.index(made.NAMES[label]) for label in found.labels], np.int64))

    done = evaluate(predict, data, labels=own)
    assert done.ap == 1
    assert done.notes == (
        "the model does not know 'rare', so all their objects are missed",
        "the data set has no 'bird': detections of these are left out (0 of them)",
    )


def test_detections_of_foreign_classes_are_left_out(data: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    square = made.instances([(np.ones((9, 9), np.uint8), 3, 3)], [0], [0.9])
    with caplog.at_level(logging.WARNING):
        done = evaluate(lambda _: square, data, labels=["cats", "dog"])
    assert done.counts.foreign_predictions == 6 and done.counts.predictions == 0
    assert "is 'cats' meant for 'cat'?" in done.notes[0] and "(6 of them)" in done.notes[1]
    assert "'cats'" in caplog.text  # reported before the hours that predicting may take


def test_no_class_in_common(data: Dataset) -> None:
    with pytest.raises(ParameterError) as caught:
        match_classes(data, ["Cat", "Doggy", "x"])
    message = str(caught.value)
    assert "'Cat', 'Doggy', 'x'" in message and "'cat', 'dog', 'rare'" in message
    assert "is 'Cat' meant for 'cat'" in message and "never matched by their order" in message
    assert "\n" not in message
    with pytest.raises(ParameterError, match="two classes called 'cat'"):
        match_classes(data, ["cat", "cat"])
    with pytest.raises(ParameterError) as caught:
        match_classes(data, [f"c{n}" for n in range(300)])
    assert "and 288 more" in str(caught.value)


def test_categories_of_one_name_are_one_class(data: Dataset) -> None:
    twice = replace(data, categories=[Category(0, "cat"), Category(1, "cat"), Category(2, "rare")])
    done = evaluate(Truth(twice), twice)
    assert done.names == ["cat", "rare"] and done.ap == 1


def test_crowded_images_are_reported(tmp_path: Path) -> None:
    """12 objects, 10 detections: the figures are COCO's, and a note says what they can't show."""
    data = made.dataset(tmp_path, 0, images=1)
    dot = np.ones((3, 3), np.uint8)
    spots = [(dot, 5 + 10 * (n % 4), 5 + 10 * (n // 4)) for n in range(12)]
    annotations = [Annotation(n, 1, 0, made.placed(*spot)) for n, spot in enumerate(spots)]
    data = replace(data, annotations=annotations)
    found = made.instances(spots, [0] * 12, np.linspace(0.9, 0.5, 12).tolist())
    done = evaluate(lambda _: found, data, max_detections=10)
    assert done.metrics["AR10"] == pytest.approx(10 / 12) and done.ap < 0.9
    assert (done.counts.crowded_images, done.counts.beyond_reach) == (1, 2)
    assert "images with more than 10 objects of a class: 1;" in done.notes[0] and "16.7%" in done.notes[0]
    assert evaluate(lambda _: found, data).ap == 1
    assert evaluate(lambda _: found, data).notes == ()


@pytest.mark.parametrize(
    "wrong", [{"max_detections": 0}, {"max_detections": True}, {"threshold": 1.5}, {"threshold": "x"}]
)
def test_options_out_of_range(data: Dataset, wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        evaluate(lambda _: NONE, data, **wrong)


def test_result_is_json(data: Dataset, tmp_path: Path) -> None:
    """B42, B43: all figures, by class too."""
    done = evaluate(Truth(data, 1, 0.7), data, tmp_path / "out", title="m")
    content = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert content["metrics"]["AP"] == done.ap and content["metrics"]["bbox_AP"] is not None
    rare = content["classes"][2]
    assert rare.pop("name") == "rare" and {rare.pop(key) for key in ("instances", "images", "predictions")} == {0}
    names = {"AP", "AP50", "AP75", "bbox_AP", "threshold", "precision", "recall", "f1"}
    assert rare == dict.fromkeys(names)
    assert len(content["curves"]["recall"]) == len(content["curves"]["classes"]["cat"]["0.50"]) == 101
    assert content["curves"]["classes"]["rare"] is None
    assert sum(cell["count"] for cell in content["confusion"]["cells"]) == done.confusion.sum()
    for path in content["files"].values():
        assert (tmp_path / "out" / path).is_file()


def test_best_thresholds_are_those_of_a_search(data: Dataset) -> None:
    """The F1 of the threshold is what counting at that threshold gives, and no other score gives more."""
    done = evaluate(Truth(data, 3, 0.8), data)

    def f1(threshold: float) -> float:
        at = evaluate(Truth(data, 3, 0.8), data, threshold=threshold).confusion
        right = np.trace(at[:-1, :-1])
        return float(2 * right / (at[:, :-1].sum() + at[:-1].sum()))

    assert done.best is not None
    assert done.threshold == done.best.threshold
    assert f1(done.threshold) == pytest.approx(done.best.f1)
    assert max(f1(threshold) for threshold in np.linspace(0, 0.95, 20)) <= done.best.f1 + 1e-9


def test_detections_survive_their_file(data: Dataset, tmp_path: Path) -> None:
    classes = match_classes(data)
    found = {}
    for number, image in enumerate(data.images):
        truth = truth_of(data, image, classes)
        one = made.noisy(truth.masks, truth.labels.tolist(), truth.size, np.random.default_rng(number))
        found[image.id] = one
    path = results.write(tmp_path / "evaluate" / "detections.json", found, [c.id for c in data.categories])
    for place in (path, path.parent, tmp_path):
        again = results.read(place, data, classes)
        assert list(again) == [image.id for image in data.images]
        for key, one in found.items():
            for name in ("labels", "boxes", "scores"):
                assert (getattr(again[key], name) == getattr(one, name)).all()
            assert again[key].masks == one.masks
    assert json.loads(path.read_text())[0].keys() == {"image_id", "category_id", "score", "bbox", "segmentation"}


def test_scores_are_short_and_keep_their_order() -> None:
    scores = np.sort(np.random.default_rng(0).random(500).astype(np.float32))[::-1]
    dot = (np.ones((1, 1), np.uint8), 0, 0)
    data = Dataset("val", Path(), [ImageRecord(1, "a", 80, 60)], [], [Category(1, "cat")])
    found, _ = detections_of(made.instances([dot] * 500, [0] * 500, scores.tolist()), match_classes(data))
    assert (found.scores.astype(np.float32) == scores).all()
    assert max(len(repr(score)) for score in found.scores.tolist()) < 13


def test_summary(data: Dataset) -> None:
    done = evaluate(Truth(data, 2, 0.8), data)
    text = done.summary()
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["AP", "AP50", "AP75"] and lines[1].split()[1] == f"{done.ap:.4f}"
    assert "images: 6 (2 background)" in text and "best threshold" in text
    assert "rare" not in text and "cat" in text
    hostile = replace(done, classes=tuple(replace(c, name="a\x1b[31mb\n") for c in done.classes))
    assert "\x1b" not in hostile.summary() and "a?[31mb?" in hostile.summary()


def test_output_that_cannot_be_written(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        evaluate(Truth(data), data, tmp_path / "file" / "out")


def test_splits(tmp_path: Path) -> None:
    data = made.dataset(tmp_path, 0)
    (tmp_path / "set").mkdir()
    coco.write({"train": data, "val": data}, tmp_path / "set")
    assert len(load_split(tmp_path / "set").images) == len(load_split(str(tmp_path / "set")).images) == 6
    with pytest.raises(ParameterError, match="path is None: expected a path"):
        load_split(None)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown split 'test' in .*/set: .*known: train, val"):
        load_split(tmp_path / "set", "test")
    single = load_split(tmp_path / "set" / "annotations" / "instances_val.json")
    assert len(single.images) == 6
    with pytest.raises(DatasetError, match="does not exist"):
        load_split(tmp_path / "nowhere")


def test_model(data: Dataset, tiny_model_dir: Path, tmp_path: Path) -> None:
    """A real exported model: its names lead to the set's, batches change nothing, files are there."""
    predictor = maskline.create_model(model_dir=tiny_model_dir, device="cpu")
    named = replace(data, categories=[Category(n, name) for n, name in enumerate(predictor.labels)])
    done: list[Evaluation] = [
        evaluate_model(predictor, named, tmp_path / str(size), batch_size=size, max_detections=7) for size in (1, 4)
    ]
    assert done[0].metrics == done[1].metrics
    assert done[0].counts.predictions > 50 and "AR7" in done[0].metrics
    assert done[0].speed.predict > 0
    texts = [(tmp_path / size / "evaluate" / "detections.json").read_text() for size in ("1", "4")]
    assert texts[0] == texts[1]
