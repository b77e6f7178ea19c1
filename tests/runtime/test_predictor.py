"""The predictor: order, batches, thresholds, arguments."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures import tiny
from fixtures.narrow import imread

import maskline
from maskline import Predictor, Result, catalog, create_model, create_pipeline
from maskline.errors import (
    DeviceError,
    DownloadError,
    InputError,
    InputNotFoundError,
    ModelError,
    ParameterError,
    UnknownNameError,
)

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Predictor:
    return create_model(model_dir=tiny_model_dir, threshold=0.3)


def images() -> list[np.ndarray]:
    """Photos and parts of them, of five sizes."""
    photo = imread(PHOTO)
    return [photo, photo[:200, :300].copy(), cv2.resize(photo, (97, 53)), photo[:, :100].copy(), photo[::-1].copy()]


def assert_same(a: Result, b: Result) -> None:
    np.testing.assert_array_equal(a.instances.boxes, b.instances.boxes)
    np.testing.assert_array_equal(a.instances.scores, b.instances.scores)
    np.testing.assert_array_equal(a.instances.labels, b.instances.labels)
    for one, other in zip(a.instances.masks, b.instances.masks, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_a_batch_gives_what_its_images_give_one_by_one(model: Predictor, size: int) -> None:
    alone = [next(model.predict(image)) for image in images()]
    together = list(model.predict(images(), batch_size=size))
    assert len(together) == 5 and any(len(r.instances) for r in together)
    for a, b in zip(alone, together, strict=True):
        assert_same(a, b)


def test_predict_is_a_lazy_generator_in_order(model: Predictor) -> None:
    seen = []

    def stream() -> Iterator[np.ndarray]:
        for i, image in enumerate(images()):
            seen.append(i)
            yield image

    results = model.predict(stream())
    lazy = inspect.isgenerator(results)
    assert lazy and seen == []
    next(results)
    assert seen == [0]
    assert [r["input_img"].shape for r in results] == [i.shape for i in images()[1:]]


def test_array_and_file_give_the_same(model: Predictor) -> None:
    from_file, from_array = model.predict([str(PHOTO), imread(PHOTO)])
    assert_same(from_file, from_array)
    assert from_file["input_path"] == str(PHOTO) and from_array["input_path"] is None


def test_colours_reach_the_network_in_the_right_order(model: Predictor) -> None:
    photo = imread(PHOTO)
    right, swapped = model.predict([photo, photo[..., ::-1].copy()])
    assert not np.array_equal(right.instances.scores, swapped.instances.scores)


def test_thresholds(model: Predictor, tiny_model_dir: Path) -> None:
    def scores(**options: object) -> np.ndarray:
        return next(model.predict(str(PHOTO), **options)).instances.scores  # type: ignore[arg-type]

    everything = scores(threshold=0)
    assert len(everything) == tiny.CONFIG.max_detections
    assert (scores(threshold=0.7) > 0.7).all()
    assert len(scores(threshold=1)) == 0
    exact = float(everything[3])
    assert (scores(threshold=exact) > exact).all()
    assert len(scores(threshold=0.7)) < len(scores()) == (everything > np.float32(0.3)).sum()
    # predict > create_model > the model's own, which is 0.6
    own = create_model(model_dir=tiny_model_dir)
    assert own.threshold == 0.6
    assert len(next(own.predict(str(PHOTO))).instances) == (everything > np.float32(0.6)).sum()


def test_threshold_for_each_class(model: Predictor) -> None:
    found = next(model.predict(str(PHOTO), threshold={"cat": 1.0, 1: 0.0})).instances
    everything = next(model.predict(str(PHOTO), threshold=0)).instances
    rows = zip(everything.scores, everything.labels, strict=True)
    expected = [(s, c) for s, c in rows if c == 1 or (c == 2 and s > np.float32(0.6))]
    assert list(zip(found.scores, found.labels, strict=True)) == expected
    with pytest.raises(UnknownNameError, match="did you mean 'bird'"):
        model.predict(str(PHOTO), threshold={"brid": 0.5})


@pytest.mark.parametrize("threshold", [2, -0.1, "0.5", True, float("nan"), [0.5], {"cat": 3}])
def test_bad_thresholds(model: Predictor, tiny_model_dir: Path, threshold: object) -> None:
    message = "^threshold( of 'cat')? is .*: expected a number from 0 to 1$"
    with pytest.raises(ParameterError, match=message):
        model.predict(str(PHOTO), threshold=threshold)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=message):
        create_model(model_dir=tiny_model_dir, threshold=threshold)  # type: ignore[arg-type]


def test_options_hold_for_one_call(model: Predictor) -> None:
    list(model.predict(images(), batch_size=3, threshold=0.9, grow_boxes=True))
    assert (model.batch_size, model.threshold, model.grow_boxes) == (1, 0.3, False)


def test_bad_arguments_are_reported_at_once(model: Predictor) -> None:
    for bad in (0, -1, 1.5, "2", True):
        with pytest.raises(ParameterError, match="batch_size is"):
            model.predict(str(PHOTO), batch_size=bad)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="on_error is 'ignore'"):
        model.predict(str(PHOTO), on_error="ignore")
    with pytest.raises(ParameterError, match="needs an input"):
        model.predict()
    with pytest.raises(TypeError, match="unexpected keyword"):
        model.predict(str(PHOTO), layout_nms=True)  # type: ignore[call-arg]
    with pytest.raises(DeviceError, match="is not available"):
        model.predict(str(PHOTO), device="npu:0")


def test_old_and_other_spellings(model: Predictor, tiny_model_dir: Path) -> None:
    expected = next(model.predict(str(PHOTO)))
    assert_same(next(model(str(PHOTO))), expected)
    assert_same(next(model.predict(x=str(PHOTO))), expected)
    assert_same(next(model.predict(str(PHOTO), device="cpu")), expected)
    assert_same(next(create_model(str(tiny_model_dir), threshold=0.3).predict(str(PHOTO))), expected)
    graph = tiny_model_dir / "inference.onnx"
    assert_same(next(create_model("Mask-RT-DETR-S", graph, threshold=0.3).predict(str(PHOTO))), expected)
    model.close()


def test_grown_boxes_hold_their_masks(model: Predictor) -> None:
    cut = next(model.predict(str(PHOTO))).instances
    grown = next(model.predict(str(PHOTO), grow_boxes=True)).instances
    assert (cut.outside > 0).any() and not grown.outside.any()
    assert (grown.boxes[:, :2] <= cut.boxes[:, :2]).all() and (grown.boxes[:, 2:] >= cut.boxes[:, 2:]).all()
    for i in range(len(cut)):
        assert (grown.full_mask(i) >= cut.full_mask(i)).all()


def test_errors_come_at_their_turn_or_are_skipped(model: Predictor, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    sources = [str(PHOTO), str(tmp_path / "bad.png"), str(PHOTO)]
    results = model.predict(sources)
    next(results)
    with pytest.raises(InputError, match=r"bad\.png"):
        next(results)
    assert len(list(model.predict(sources, on_error="skip"))) == 2
    with pytest.raises(InputNotFoundError):
        next(model.predict(str(tmp_path / "missing.jpg")))


def test_results_can_be_pickled(model: Predictor) -> None:
    result = next(model.predict(str(PHOTO)))
    again = pickle.loads(pickle.dumps(result))
    assert_same(again, result)
    assert again["boxes"] == result["boxes"]


def test_create_pipeline(tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = {"model_name": "Mask-RT-DETR-S", "model_dir": str(tiny_model_dir), "batch_size": 2, "threshold": 0.4}
    config = {"pipeline_name": "instance_segmentation", "SubModules": {"InstanceSegmentation": module}}
    pipeline = create_pipeline(config=config, device="cpu")
    assert (pipeline.batch_size, pipeline.threshold, pipeline.device) == (2, 0.4, "cpu")
    assert all(box["score"] > 0.4 for box in next(pipeline.predict(str(PHOTO)))["boxes"])
    create_pipeline("other.yaml", config=config)
    assert "config is used" in caplog.text
    old = tmp_path / "old.yaml"
    old.write_text(
        f"Global:\n  pipeline_name: instance_segmentation\nPipeline:\n  model: {tiny_model_dir}\n  batch_size: 3\n"
    )
    assert create_pipeline(str(old)).batch_size == 3
    with pytest.raises(ParameterError, match="needs a pipeline name"):
        create_pipeline()


def test_models_that_are_not_there(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        create_model("Mask-RT-DETR")
    with pytest.raises(ModelError, match="holds Mask-RT-DETR-S, not Mask-RT-DETR-H"):
        create_model("Mask-RT-DETR-H", tiny_model_dir)
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    with pytest.raises(DownloadError, match=r"Mask-RT-DETR-H_pretrained\.pdparams"):
        create_model("Mask-RT-DETR-H")


def test_an_official_model_is_exported_once(pdparams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weights in the cache, and the export itself stood in for."""
    made = []
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / pdparams.name).symlink_to(pdparams)

    def export(spec: catalog.Model, weights: Path, output: Path, **_: object) -> Path:
        made.append((spec.name, weights.name, output))
        output.mkdir(parents=True)
        (output / "inference.onnx").write_bytes(b"")
        return output

    monkeypatch.setattr("maskline.exporting.make.export_weights", export)
    for _ in range(2):
        with pytest.raises(ModelError):  # the stand-in wrote no graph
            create_model("Mask-RT-DETR-S")
    assert made == [("Mask-RT-DETR-S", pdparams.name, tmp_path / "models" / "Mask-RT-DETR-S")]


def test_a_catalog_name_is_never_taken_for_a_folder(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Mask-RT-DETR-L").symlink_to(tiny_model_dir)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DownloadError, match="Mask-RT-DETR-L_pretrained"):
        create_model("Mask-RT-DETR-L")
    (tmp_path / "mine").symlink_to(tiny_model_dir)
    assert create_model("mine").model_name == "Mask-RT-DETR-S"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_came_before_a_bad_input_is_predicted(model: Predictor, tmp_path: Path, size: int) -> None:
    (tmp_path / "bad.png").write_text("no image")
    results = model.predict([str(PHOTO), str(PHOTO), str(tmp_path / "bad.png"), str(PHOTO)], batch_size=size)
    assert next(results) and next(results)
    with pytest.raises(InputError):
        next(results)


def test_results_of_several_calls_do_not_overwrite_each_other(model: Predictor, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.jpg").write_bytes(PHOTO.read_bytes())
    first, second = (next(model.predict(str(tmp_path / name / "p.jpg"))) for name in ("a", "b"))
    second = pickle.loads(pickle.dumps(second))
    assert first.save_to_json(tmp_path / "out").name == "p_res.json"
    assert second.save_to_json(tmp_path / "out").name == "p_1_res.json"
    assert first.save_to_json(tmp_path / "out").name == "p_res.json"


def test_classes_without_a_threshold_of_their_own_keep_the_models(tiny_model_dir: Path, tmp_path: Path) -> None:
    import shutil

    import yaml

    shutil.copytree(tiny_model_dir, tmp_path / "m")
    config = yaml.safe_load((tmp_path / "m" / "inference.yml").read_text()) | {"draw_threshold": 0.7}
    (tmp_path / "m" / "inference.yml").write_text(yaml.safe_dump(config))
    model = create_model(model_dir=tmp_path / "m")
    everything = next(model.predict(str(PHOTO), threshold=0)).instances.scores
    assert len(next(model.predict(str(PHOTO), threshold={np.int64(0): 0.7})).instances) == (everything > 0.7).sum()
