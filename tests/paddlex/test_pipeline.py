"""Pipeline configurations in all their forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskline.errors import InputNotFoundError, ParameterError, UnknownNameError
from maskline.paddlex.pipeline import PipelineConfig, load_pipeline

NEW = """
pipeline_name: instance_segmentation

SubModules:
  InstanceSegmentation:
    module_name: instance_segmentation
    model_name: Mask-RT-DETR-L
    model_dir: null
    batch_size: 4
    threshold: 0.25
"""
OLD = """
Global:
  pipeline_name: instance_segmentation
  input: https://example.com/a.png

Pipeline:
  model: Mask-RT-DETR-M
  batch_size: 2
  device: "gpu"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_a_chinese_windows(tmp_path: Path) -> None:
    """F06: PaddleX reads GBK too."""
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(NEW.replace("model_dir: null", "model_dir: 模型").encode("gbk"))
    assert load_pipeline(path).model_dir == "模型"


def test_by_name() -> None:
    """F10."""
    assert load_pipeline("instance_segmentation") == PipelineConfig("Mask-RT-DETR-S")


def test_new_form(tmp_path: Path) -> None:
    """F06, F73."""
    assert load_pipeline(write(tmp_path, NEW)) == PipelineConfig("Mask-RT-DETR-L", None, 4, 0.25)


def test_old_form(tmp_path: Path) -> None:
    """F07, B65."""
    assert load_pipeline(str(write(tmp_path, OLD))) == PipelineConfig(
        "Mask-RT-DETR-M", None, 2, None, "gpu", input="https://example.com/a.png"
    )
    local = OLD.replace("Mask-RT-DETR-M", str(tmp_path))
    assert load_pipeline(write(tmp_path, local)) == PipelineConfig(
        None, str(tmp_path), 2, None, "gpu", input="https://example.com/a.png"
    )


def test_dict_and_defaults() -> None:
    assert load_pipeline({"pipeline_name": "instance_segmentation"}) == PipelineConfig()
    module = {"model_dir": "None", "model_name": "Mask-RT-DETR-X"}
    assert load_pipeline({"SubModules": {"InstanceSegmentation": module}}) == PipelineConfig("Mask-RT-DETR-X")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("instance_segmentaton", "did you mean 'instance_segmentation'"),
        ({"pipeline_name": "OCR"}, "unknown pipeline_name"),
        ({"Submodules": {}}, "did you mean 'SubModules'"),
        ({"SubModules": {"InstanceSegmentation": {"treshold": 0.5}}}, "did you mean 'threshold'"),
        ({"Pipeline": {"modle": "x"}}, "did you mean 'model'"),
    ],
)
def test_unknown_names_name_the_nearest(source: object, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        load_pipeline(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["{broken", "just text", "SubModules: 3", "SubModules:\n  InstanceSegmentation: x"])
def test_unusable_files(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParameterError, match="pipeline.yaml"):
        load_pipeline(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no configuration file"):
        load_pipeline(tmp_path / "none.yaml")


def test_the_old_form_s_input_is_what_to_predict_by_default(tmp_path: Path) -> None:
    """F07."""
    assert load_pipeline(write(tmp_path, OLD)).input == "https://example.com/a.png"


def test_texts_that_spell_values(tmp_path: Path) -> None:
    """F06: as PaddleX reads them; a folder knows its own model (B57)."""
    module = {"model_dir": "m", "batch_size": "2", "threshold": "None"}
    assert load_pipeline({"SubModules": {"InstanceSegmentation": module}}) == PipelineConfig(None, "m", 2, None)
    assert load_pipeline(write(tmp_path, NEW.replace("0.25", "25e-2"))).threshold == 0.25


def test_a_key_twice(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="threshold is set twice"):
        load_pipeline(write(tmp_path, NEW + "    threshold: 0.5\n"))


def test_acceleration_in_the_module_wins_over_the_top() -> None:
    """F13, F52: the deepest level wins; mappings are merged."""
    module = {"use_hpip": "False", "hpi_config": {"backend": "openvino"}, "engine": "openvino"}
    found = load_pipeline(
        {
            "use_hpip": True,
            "hpi_config": {"backend": "onnxruntime", "auto_config": False},
            "engine_config": {"precision": "fp16"},
            "SubModules": {"InstanceSegmentation": module | {"use_hpip": False}},
        }
    )
    assert found.use_hpip is False and found.engine == "openvino" and found.engine_config == {"precision": "fp16"}
    assert found.hpi_config == {"backend": "openvino", "auto_config": False}
    assert load_pipeline({"use_hpip": True}).use_hpip is True and load_pipeline({}).use_hpip is None


def test_acceleration_of_the_wrong_kind() -> None:
    for config in ({"use_hpip": "maybe"}, {"hpi_config": 3}, {"engine": 3}):
        with pytest.raises(ParameterError, match=next(iter(config))):
            load_pipeline(config)


@pytest.mark.parametrize(
    ("serving", "expected"), [({}, True), ({"visualize": False}, False), ({"visualize": None, "extra": {}}, True)]
)
def test_images_in_the_answers_of_a_service(serving: dict[str, object], expected: bool) -> None:
    """F42: Serving.visualize; what is for other pipelines is accepted."""
    assert load_pipeline({"Serving": serving}).visualize is expected


def test_the_service_s_keys_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="'visualise'.*did you mean 'visualize'"):
        load_pipeline({"Serving": {"visualise": False}})
    with pytest.raises(ParameterError, match="Serving: visualize"):
        load_pipeline({"Serving": {"visualize": "sometimes"}})
