"""PaddleX's Python API, as its documents write it, with nothing changed but the name of the package."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.narrow import imread
from PIL import Image

import maskline
from maskline import catalog, create_model, create_pipeline
from maskline.paddlex.reference import PIPELINE_YAML
from maskline.runtime.predictor import Predictor

NAME = "instance_segmentation"


@pytest.fixture
def pipeline(place: Path) -> Predictor:
    return create_pipeline(pipeline=NAME, device="cpu", threshold=0.3)


def boxes(model: Predictor, source: object, **options: object) -> list[object]:
    (result,) = model.predict(source, **options)  # type: ignore[arg-type]
    return list(result["boxes"])


def test_the_documents_first_program(place: Path) -> None:
    """F10, F14, F30, F31, F73: name or file; a generator; folders made as needed."""
    Path("my.yaml").write_text(PIPELINE_YAML)
    for source in (NAME, "./my.yaml"):
        output = create_pipeline(pipeline=source).predict("photo.jpg")
        for res in output:
            res.print()
            res.save_to_img("./output/")
            res.save_to_json("./output/")
        assert inspect.isgenerator(output)
    assert sorted(path.name for path in Path("output").iterdir()) == ["photo_res.jpg", "photo_res.json"]


def test_a_generator_does_nothing_before_its_turn(pipeline: Predictor) -> None:
    """F14: not even look for the file."""
    found = pipeline.predict(["photo.jpg", "none.jpg"])
    assert next(found)["input_path"] == "photo.jpg"
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        next(found)


def test_the_whole_configuration(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F08, F11: a model of one's own in it; it wins over a name, with a warning."""
    shutil.copytree("home/models/Mask-RT-DETR-S", "mine")
    module = {"module_name": NAME, "model_name": "Mask-RT-DETR-S", "model_dir": "mine", "threshold": 0.4}
    config = {"pipeline_name": NAME, "SubModules": {"InstanceSegmentation": module}}
    shutil.rmtree("home")
    model = create_pipeline(pipeline="other", config=config)
    assert model.threshold == 0.4 and "config is used" in caplog.text
    assert boxes(model, "photo.jpg")


def test_thresholds_in_their_order(place: Path) -> None:
    """F25, B01: predict, then create, then the file, then the model's own."""
    Path("my.yaml").write_text(PIPELINE_YAML.replace("threshold: 0.5", "threshold: 0.65"))
    assert create_pipeline("my.yaml").threshold == 0.65
    model = create_pipeline("my.yaml", threshold=0.72)
    assert model.threshold == 0.72 and create_pipeline(NAME).threshold == 0.6  # the tiny model's draw_threshold
    by_file, by_create = len(boxes(create_pipeline("my.yaml"), "photo.jpg")), len(boxes(model, "photo.jpg"))
    assert by_file > by_create > len(boxes(model, "photo.jpg", threshold=0.75))
    assert len(boxes(model, "photo.jpg", threshold=0.0)) >= by_file


def test_no_threshold_is_a_half() -> None:
    """F85: of every model that is exported without another, and of the embedded one."""
    assert create_model().threshold == 0.5
    assert inspect.signature(maskline.export).parameters["threshold"].default == 0.5


def test_devices(place: Path) -> None:
    """F12, F35, B24: by default the CPU where there is no GPU; another for one call."""
    model = create_pipeline(NAME)
    assert model.device == "cpu" and create_model("Mask-RT-DETR-S", device=None).device == "cpu"
    assert boxes(model, "photo.jpg", device="cpu", threshold=0.3)
    with pytest.raises(maskline.MasklineError, match="gpu:0"):
        model.predict("photo.jpg", device="gpu:0")


def test_create_model_as_documented(place: Path) -> None:
    """F23: name, folder, device, use_hpip, threshold."""
    model = create_model(
        model_name="Mask-RT-DETR-S", model_dir="home/models/Mask-RT-DETR-S", device="cpu", use_hpip=False, threshold=0.3
    )
    output = model.predict("photo.jpg", batch_size=1)
    for res in output:
        res.print(json_format=False)
        res.save_to_img("./output/")
        res.save_to_json("./output/res.json")
    assert Path("output/res.json").is_file() and Path("output/photo_res.jpg").is_file()


def test_the_folder_alone_says_which_model(place: Path) -> None:
    """F23, B57: also in the place of the name, as older documents have it."""
    folder = "home/models/Mask-RT-DETR-S"
    assert create_model(folder).model_name == create_model(model_dir=folder).model_name == "Mask-RT-DETR-S"


def test_every_name_is_a_model() -> None:
    """F26: offline, each says where its weights come from; none is unknown."""
    assert len([spec for spec in catalog.MODELS.values() if not spec.ours]) == 15
    for spec in catalog.MODELS.values():
        if not spec.ours:
            with pytest.raises(maskline.MasklineError, match=spec.pretrained_url):
                create_model(spec.name)


def test_what_a_model_s_name_may_be(place: Path) -> None:
    """F23: a path as such too; nothing else."""
    assert create_model(Path("home/models/Mask-RT-DETR-S")).model_name == "Mask-RT-DETR-S"
    with pytest.raises(ValueError, match="model_name is 5"):
        create_model(5)  # type: ignore[arg-type]


def test_arguments_of_paddle_are_without_effect(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F23: pp_option and genai_config."""
    create_model("Mask-RT-DETR-S", pp_option=object(), genai_config={"a": 1})
    assert "pp_option, genai_config" in caplog.text


def test_a_camera_s_buffer_may_be_one_array(pipeline: Predictor) -> None:
    """F15, F24: filled again and again by a generator."""

    def frames() -> Iterator[np.ndarray]:
        photo = imread("photo.jpg")
        buffer = np.empty_like(photo)
        for i in range(4):
            buffer[:] = photo if i % 2 else 0
            yield buffer

    one, four = (list(pipeline.predict(frames(), batch_size=size)) for size in (1, 4))
    assert [result["boxes"] for result in one] == [result["boxes"] for result in four]
    assert one[0]["input_img"].max() == 0 < one[1]["input_img"].max()


def test_arrays_are_bgr(pipeline: Predictor) -> None:
    """F15, B13: an array gives what its file gives, and so does a PIL image, which is RGB."""
    pixels = imread("photo.jpg")
    expected = boxes(pipeline, "photo.jpg")
    assert boxes(pipeline, pixels) == expected and boxes(pipeline, Image.open("photo.jpg")) == expected
    assert boxes(pipeline, pixels[..., ::-1]) != expected


def test_whatever_holds_inputs(pipeline: Predictor) -> None:
    """F19, F20, F78, B13, B15: dicts, lists in lists, paths; in order; by any name of the argument."""
    Path("folder").mkdir()
    for name in ("b.jpg", "a.jpg"):
        shutil.copy("photo.jpg", Path("folder", name))
    source = [{"img": "photo.jpg"}, ["folder", (Path("photo.jpg"),)], Path("photo.jpg").read_bytes()]
    paths = [result["input_path"] for result in pipeline.predict(source, batch_size=2)]
    assert paths == ["photo.jpg", "folder/a.jpg", "folder/b.jpg", "photo.jpg", None]
    expected = boxes(pipeline, "photo.jpg")
    assert [list(result["boxes"]) for result in pipeline.predict(x={"img": "photo.jpg"})] == [expected]
    assert [list(result["boxes"]) for result in pipeline([{"img": "folder/a.jpg"}])] == [expected]


@pytest.mark.parametrize("batch_size", [2, 4])
def test_batches_change_nothing(pipeline: Predictor, batch_size: int) -> None:
    """F24, B21, B22, B23: images of different sizes; the size holds for one call only."""
    photo = imread("photo.jpg")
    images = [photo, photo[:200], photo[:, 100:300], cv2.resize(photo, (64, 300)), photo[::-1].copy()]
    alone = [result for image in images for result in pipeline.predict(image)]
    together = list(pipeline.predict(images, batch_size=batch_size))
    for a, b in zip(alone, together, strict=True):
        assert a["boxes"] == b["boxes"]
        assert all(np.array_equal(m, n) for m, n in zip(a["masks"], b["masks"], strict=True))
    assert pipeline.batch_size == 1
    with pytest.raises(ValueError, match="batch_size is 0"):
        pipeline.predict("photo.jpg", batch_size=0)


def test_unknown_arguments_are_refused(place: Path) -> None:
    """B25."""
    for call in (create_model, create_pipeline):
        with pytest.raises(TypeError, match="layout_nms"):
            call("Mask-RT-DETR-S", layout_nms=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="tresh"):
        create_pipeline(NAME).predict("photo.jpg", tresh=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("threshold", [2, -0.1, "0.5", {"dog": 2}, {"no such class": 0.5}, float("nan")])
def test_thresholds_are_checked(pipeline: Predictor, threshold: object) -> None:
    """B26."""
    with pytest.raises(ValueError, match=r"threshold|no such class"):
        pipeline.predict("photo.jpg", threshold=threshold)  # type: ignore[arg-type]


def test_nothing_found(pipeline: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    """F80: print, JSON, image, arrays."""
    (result,) = pipeline.predict("photo.jpg", threshold=0.999)
    result.print(json_format=True)
    assert json.loads(capsys.readouterr().out)["res"]["boxes"] == []
    result.save_all("output")
    assert json.loads(Path("output/photo_res.json").read_text())["masks"] == []
    assert imread("output/photo_res.jpg").shape == imread("photo.jpg").shape
    assert result.instances.full_masks().shape == (0, *result["input_img"].shape[:2])


def test_starting_says_nothing(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """B12, B56, B75: no warning, no folder made, numpy left as it is."""
    options = np.get_printoptions()
    before = set(Path("home").iterdir())
    create_model("Mask-RT-DETR-S")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert set(Path("home").iterdir()) == before and np.get_printoptions() == options


def test_onnxruntime_is_an_engine(place: Path) -> None:
    """B55, F52."""
    assert boxes(create_pipeline(NAME, engine="onnxruntime", threshold=0.3), "photo.jpg")
