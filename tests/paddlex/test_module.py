"""A module's configuration: where it comes from, its defaults, its faults, and the table in docs/config.md."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskline import catalog
from maskline.errors import InputError, InputNotFoundError, ParameterError, UnknownNameError
from maskline.paddlex.module import FOLDERS, ModuleConfig, SplitSection, load

DOCUMENT = (Path(__file__).parents[2] / "docs" / "config.md").read_text(encoding="utf-8")
REFERENCE_FILE = """
Global:
  model: SOLOv2
  mode: check_dataset # check_dataset/train/evaluate/predict
  dataset_dir: "/paddle/dataset/paddlex/instance_seg/instance_seg_coco_examples/"
  device: gpu:0,1,2,3
  output: "output"

CheckDataset:
  convert:
    enable: False
    src_dataset_type: null
  split:
    enable: False
    train_percent: null
    val_percent: null

Train:
  num_classes: 2
  epochs_iters: 40
  batch_size: 2
  learning_rate: 0.01
  pretrain_weight_path: https://paddle-model-ecology.bj.bcebos.com/paddlex/official_pretrained_model/SOLOv2_pretrained.pdparams
  warmup_steps: 100
  resume_path: null
  log_interval: 10
  eval_interval: 1

Evaluate:
  weight_path: "output/best_model/best_model.pdparams"
  log_interval: 10

Export:
  weight_path: https://paddle-model-ecology.bj.bcebos.com/paddlex/official_pretrained_model/SOLOv2_pretrained.pdparams

Predict:
  batch_size: 1
  model_dir: "output/best_model/inference"
  input: "https://paddle-model-ecology.bj.bcebos.com/paddlex/imgs/demo_image/general_instance_segmentation_004.png"
  kernel_option:
    run_mode: paddle
"""


def write(folder: Path, text: str, name: str = "my.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def keys(kind: Any = ModuleConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys with their defaults, MISSING where the model has it."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.default


def value(config: ModuleConfig, key: str) -> Any:
    return reduce(getattr, key.split("."), config)


# Where it comes from


@pytest.mark.parametrize(
    "path",
    [
        "Mask-RT-DETR-L",
        "mask-rt-detr-l",
        "paddlex/configs/modules/instance_segmentation/Mask-RT-DETR-L.yaml",
        "paddlex/configs/instance_segmentation/Mask-RT-DETR-L.yaml",
        "./paddlex/configs/modules/instance_segmentation/Mask-RT-DETR-L.yml",
        "/home/me/PaddleX/paddlex/configs/modules/instance_segmentation/Mask-RT-DETR-L.yaml",
        "paddlex\\configs\\modules\\instance_segmentation\\Mask-RT-DETR-L.yaml",
    ],
)
def test_a_model_is_known_without_a_file(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F77, B35: the documents' paths need no file."""
    monkeypatch.chdir(tmp_path)
    assert load(path) == load(None, ["Global.model=Mask-RT-DETR-L"])
    assert load(path).Global.model == "Mask-RT-DETR-L" and load(path).Train.batch_size == 2


def test_a_file_in_such_a_place_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path("." + FOLDERS[0])
    place.mkdir(parents=True)
    config = load(write(place, "Train: {epochs_iters: 7}", "Mask-RT-DETR-S.yaml"))
    assert config.Train.epochs_iters == 7 and config.Global.model == "Mask-RT-DETR-S"


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("none.yaml", InputNotFoundError, "no configuration file none.yaml"),
        ("configs/Mask-RT-DETR-L.yaml", InputNotFoundError, "no configuration file configs/Mask-RT-DETR-L.yaml"),
        ("folder/", InputNotFoundError, "no configuration file folder/"),
        ("x" * 5000 + ".yaml", InputNotFoundError, "no configuration file"),
        ("a\0.yaml", InputNotFoundError, "no configuration file"),
        ("Mask-RT-DETR-Q", UnknownNameError, "did you mean 'Mask-RT-DETR-"),
        ("paddlex/configs/instance_segmentation/Solo.yaml", UnknownNameError, "did you mean 'SOLOv2'"),
        ("", UnknownNameError, "unknown model ''"),
        (None, ParameterError, "Global.model is not set"),
    ],
)
def test_no_configuration(path: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(path)


def test_the_files_of_paddlex(tmp_path: Path) -> None:
    """F74, F77."""
    config = load(write(tmp_path, REFERENCE_FILE))
    given = ["Global.device=gpu:0,1,2,3", f"Global.dataset_dir={config.Global.dataset_dir}"]
    ours = load("SOLOv2", [*given, "Train.num_classes=2", "Train.learning_rate=0.01"])
    assert config == ours and config.Global.dataset_dir is not None and config.Global.device == "gpu:0,1,2,3"


@pytest.mark.parametrize(
    "text",
    ["{broken", "just text", "- a", "1", "", "\ttab: 1", "a: &x 1\nb: *x", "[" * 5000, "\x00"],
)
def test_files_that_are_not_configurations(text: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="my.yaml is not a configuration") as caught:
        load(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match="a.yaml is not a configuration"):
        load(str(tmp_path / "a.yaml"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads anything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "{}")
    Path(path).chmod(0)
    with pytest.raises(InputError, match="can't be read"):
        load(path)


# Defaults


def test_paddlex_s_defaults_but_for_its_machine() -> None:
    """B40."""
    for spec in catalog.MODELS.values():
        config = load(spec.name)
        assert config.Train.batch_size == spec.recipe.batch_size
        assert config.Train.learning_rate is config.Train.num_classes is None
        assert config.Train.pretrain_weight_path == config.Export.weight_path
        assert config.Train.pretrain_weight_path == (spec.pretrained_url or "official")
    assert config.Global.dataset_dir is None and config.Global.device is None


def test_none_is_the_default_or_nothing() -> None:
    """B72: None is the official weights."""
    config = load("SOLOv2", ["Train.batch_size=None", "Train.pretrain_weight_path='None'", "Predict.model_dir=",
                             "Global.mode=null", "Predict.threshold=None", "CheckDataset.split=None"])  # fmt: skip
    assert config.Train.batch_size == 2 and config.Global.mode == "check_dataset"
    assert config.Train.pretrain_weight_path is None
    assert config.Predict.model_dir is None and config.Predict.threshold is None
    assert config.CheckDataset.split == SplitSection()


# Overrides and values


def test_overrides_win_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, "Global: {model: SOLOv2, output: there}\nTrain: {batch_size: 4, epochs_iters: 3}\n")
    config = load(path, ["Train.batch_size=5", "Train.batch_size=6", "Predict.kernel_option.run_mode=trt_fp16"])
    assert (config.Train.batch_size, config.Train.epochs_iters, config.Global.output) == (6, 3, "there")
    assert config.Predict.kernel_option.run_mode == "trt_fp16"
    assert load(path, ["Global.model=PP-YOLOE_seg-S", "Train.batch_size=None"]).Train.batch_size == 8


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("Global.device=GPU:0, 1", "gpu:0,1"),
        ("Global.device=cpu", "cpu"),
        ("Global.output=2024", "2024"),
        ("Train.learning_rate=1", 1.0),
        ("Train.warmup_steps=0", 0),
        ("Train.amp=o1", "O1"),
        ("Train.amp=False", "OFF"),
        ("CheckDataset.split.stratify=T", True),
        ("CheckDataset.split.stratify=on", True),
        ("CheckDataset.convert.enable=0", False),
        ("CheckDataset.split.train_percent=33.5", 33.5),
        ("CheckDataset.split.group=key:scene", "key:scene"),
        ("Predict.input=[a.jpg, 7]", ["a.jpg", "7"]),
        ("Predict.threshold=0.3", 0.3),
        ("Predict.threshold={person: 0.6, 3: 0}", {"person": 0.6, 3: 0.0}),
        ("Global.model=solov2", "SOLOv2"),
    ],
)
def test_values_are_taken(override: str, expected: Any) -> None:
    found = value(load("SOLOv2", [override]), override.partition("=")[0])
    assert found == expected and type(found) is type(expected)


def test_both_spellings() -> None:
    """B72."""
    config = load("SOLOv2", ["Predict.hpip_config={backend: onnxruntime}"])
    assert config.Predict.hpi_config == {"backend": "onnxruntime"}


def test_keys_without_effect_are_reported(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    load(write(tmp_path, REFERENCE_FILE), ["Train.dy2st=False"])
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    load("SOLOv2", ["Train.dy2st=True", "Benchmark.iters=10"])
    assert "Train.dy2st has no effect" in caplog.text and "Benchmark has no effect" in caplog.text


# Faults


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Trian.epochs_iters=1", "unknown section 'Trian': did you mean 'Train'"),
        ("Train.epoch_iters=1", "unknown key 'epoch_iters' in Train: did you mean 'epochs_iters'"),
        (
            "CheckDataset.split.trainpercent=1",
            "unknown key 'trainpercent' in CheckDataset.split: did you mean 'train_p",
        ),
        ("mode=train", "unknown section 'mode'"),
        ("Global.mode=trian", "unknown Global.mode 'trian': did you mean 'train'"),
        ("Global.model=Mask-RT-DETR", "unknown model 'Mask-RT-DETR': did you mean 'Mask-RT-DETR-"),
        ("Train.amp=O3", "unknown Train.amp 'O3'"),
    ],
)
def test_unknown_names_name_the_nearest(override: str, message: str) -> None:
    """B34: a typing error is reported."""
    with pytest.raises(UnknownNameError, match=message):
        load("SOLOv2", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Train.epochs_iters=0", "Train.epochs_iters is 0: expected an integer from 1"),
        ("Train.epochs_iters=1.5", "Train.epochs_iters is 1.5: expected an integer"),
        ("Train.num_classes=True", "Train.num_classes is True: expected an integer"),
        ("Train.batch_size=two", "Train.batch_size is 'two': expected an integer"),
        ("Train.learning_rate=0", "Train.learning_rate is 0: expected a number above 0"),
        ("Train.learning_rate=1e999", "Train.learning_rate is inf: expected a number above 0"),
        ("Train.learning_rate=[1]", r"Train.learning_rate is \[1\]: expected a number above 0"),
        ("Train.warmup_steps=-1", "Train.warmup_steps is -1: expected an integer from 0"),
        ("CheckDataset.split.enable=maybe", "CheckDataset.split.enable is 'maybe': expected true or false"),
        (
            "CheckDataset.split.val_percent=101",
            "CheckDataset.split.val_percent is 101: expected a number from 0 to 100",
        ),
        ("CheckDataset.split=80", "CheckDataset.split is 80: expected keys and values"),
        ("CheckDataset.split.seed=0.5", "CheckDataset.split.seed is 0.5: expected an integer from 0"),
        ("Global.output=1.5", "Global.output is 1.5: expected a string"),
        ("Global.dataset_dir=[a]", r"Global.dataset_dir is \['a'\]: expected a string"),
        ("Global.device=gpu0:", "Global.device is 'gpu0:': expected a device such as cpu, gpu"),
        ("Global.device=0", "Global.device is 0: expected a device such as cpu, gpu"),
        ("Predict.threshold=2", "Predict.threshold is 2: expected a number from 0 to 1"),
        ("Predict.threshold={a: 2}", "Predict.threshold of 'a' is 2: expected a number from 0 to 1"),
        ("Predict.threshold={0.5: 1}", "Predict.threshold has the class 0.5: expected indices or names of classes"),
        ("Predict.hpi_config=x", "Predict.hpi_config is 'x': expected a mapping"),
        ("Global.mode.x=1", "unknown|Global.mode is {'x': 1}"),
        ("Global", "expected Section.key=value"),
        ("Global=None", "Global.model is not set"),
        ("Global=3", "Global is 3: expected keys and values"),
    ],
)
def test_wrong_values(override: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        load("SOLOv2", [override])
    assert "\n" not in str(caught.value)


def test_a_value_has_no_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "Global: {model: SOLOv2, mode: train}")
    with pytest.raises(ParameterError, match="override Global.mode.x: Global.mode is 'train', which has no keys"):
        load(path, ["Global.mode.x=1"])


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "Global: {model: Mask}\nTrian: {a: 1}\nTrain: {batch_size: 0, lr: 1}\n3: 4\n")
    with pytest.raises(ParameterError) as caught:
        load(path, ["nothing", "Predict.threshold=2"])
    first, *lines = str(caught.value).splitlines()
    assert first == "7 faults in the configuration:"
    for part in ("'nothing'", "'Trian'", "'3'", "'Mask'", "Train.batch_size", "'lr'", "Predict.threshold"):
        assert sum(part in line for line in lines) == 1, part


@given(st.dictionaries(
    st.sampled_from(["Global", "Train", "Predict", "CheckDataset", "Benchmark", "x"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                 lambda part: st.lists(part, max_size=3) | st.dictionaries(
                     st.sampled_from([key.split(".")[-1] for key, _ in keys()] + ["split", "convert", "?"]) | st.text(),
                     part, max_size=4)),
    max_size=4))  # fmt: skip
def test_junk_is_a_parameter_error(content: dict[str, Any]) -> None:
    overrides = [f"{section}={inner!r}" for section, inner in content.items()]
    with suppress(ParameterError):
        assert isinstance(load("SOLOv2", overrides), ModuleConfig)


# Shares of a split


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [(80.0, 20.0, (80, 20)), (80.0, None, (80, 20)), (None, 15.0, (85, 15)), (100.0, None, (100, 0)),
     (0.0, 100.0, (0, 100)), (33.3, 66.7, (33.3, 66.7))],
)  # fmt: skip
def test_shares(train: float | None, val: float | None, expected: tuple[float, float]) -> None:
    """F59, B33: one percentage is enough."""
    assert SplitSection(enable=True, train_percent=train, val_percent=val).percents() == expected
    assert SplitSection(train_percent=train, val_percent=val).percents() is None


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [(50.0, 40.0, "train_percent is 50 and val_percent is 40: expected a sum of 100, not 90"),
     (100.0, 100.0, "expected a sum of 100, not 200"), (None, None, "train_percent and val_percent are not set")],
)  # fmt: skip
def test_shares_that_can_t_be(train: float | None, val: float | None, message: str) -> None:
    """F60."""
    with pytest.raises(ParameterError, match=message):
        SplitSection(enable=True, train_percent=train, val_percent=val).percents()


# The document


def test_documented_overrides_and_commands_work() -> None:
    examples = re.findall(r"^\| `(\w+\.[\w.]+=.*)` \|", DOCUMENT, re.M)
    assert len(examples) == 8
    for example in examples:
        load("SOLOv2", [*shlex.split(example, comments=False)])
    command = shlex.split(DOCUMENT.split("```\n")[1].replace("\\\n", ""))
    assert command[:3] == ["python", "main.py", "-c"] and command[4::2] == ["-o"] * len(command[5::2])
    assert load(command[3], command[5::2]).Global.dataset_dir == "./dataset/instance_seg_coco_examples"
