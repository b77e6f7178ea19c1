"""``main.py -c … -o …``: what each mode calls and writes, the result file, and one line for every error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures import sets

import maskline
from maskline import cli, hub, models
from maskline.data.options import SplitConfig
from maskline.errors import DatasetError, ParameterError, UnknownNameError
from maskline.paddlex import check_dataset as step
from maskline.paddlex import jobs
from maskline.paddlex.module import MODES, load
from maskline.training.settings import TrainSettings
from maskline.weights.load import save_weights

MAIN = Path(__file__).parents[2] / "main.py"
PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
CONFIG = "paddlex/configs/modules/instance_segmentation/Mask-RT-DETR-S.yaml"


def command(*arguments: str) -> int:
    """The exit code of ``maskline`` and of ``main.py``."""
    try:
        cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def main(*overrides: str, config: str = CONFIG) -> int:
    return command("-c", config, *(part for override in overrides for part in ("-o", override)))


def result(folder: Path, mode: str = "check_dataset") -> dict[str, Any]:
    content = json.loads((folder / f"{mode}_result.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory's ``output``, where results go by default."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "output"


class Step:
    """In the place of the real step: keeps its arguments, and returns or raises what it is given."""

    def __init__(self, outcome: dict[str, Any] | BaseException) -> None:
        self.outcome = outcome
        self.arguments: list[Any] = []

    def __call__(
        self, dataset_dir: Path, output: Path, *, convert_from: str | None, split: SplitConfig | None, seed: int
    ) -> Any:
        self.arguments = [dataset_dir, output, convert_from, split, seed]
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def stand_in(monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any] | BaseException) -> Step:
    made = Step(outcome)
    monkeypatch.setattr(step, "check_dataset", made)
    return made


# The result file


def test_success_is_in_the_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, {"check_pass": True, "path": "check_dataset/bär.png", "raw": "a\udc80"})
    assert main("Global.dataset_dir=d") == 0
    text = (out / "check_dataset_result.json").read_text(encoding="utf-8")
    assert text == (
        '{\n  "done_flag": true,\n  "check_pass": true,\n  "path": "check_dataset\\/bär.png",\n  "raw": "a\\udc80"\n}\n'
    )
    assert result(out)["path"] == "check_dataset/bär.png"


def test_failure_is_in_the_file_and_one_line(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """F75: a failure is in the result file, and one line."""
    error = DatasetError("too bad: a/b.json")
    error.details = {"check_pass": False, "done_flag": True, "errors": [1]}  # type: ignore[attr-defined]
    stand_in(monkeypatch, error)
    assert main("Global.dataset_dir=d") == 1
    assert list(result(out).items()) == [
        ("done_flag", False),
        ("err_type", "<class 'maskline.errors.DatasetError'>"),
        ("err_msg", "too bad: a/b.json"),
        ("check_pass", False),
        ("errors", [1]),
    ]
    assert capsys.readouterr().err == "maskline: too bad: a/b.json\n"


def test_what_was_not_foreseen_is_in_the_file_and_raised(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, ZeroDivisionError("by zero"))
    with pytest.raises(ZeroDivisionError):
        main("Global.dataset_dir=d")
    assert result(out) == {"done_flag": False, "err_type": "<class 'ZeroDivisionError'>", "err_msg": "by zero"}


def test_a_result_of_before_does_not_stay(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, {})
    assert main("Global.dataset_dir=d") == 0 and result(out) == {"done_flag": True}
    stand_in(monkeypatch, KeyboardInterrupt())
    assert main("Global.dataset_dir=d") == 130
    assert not list(out.iterdir())


def test_an_output_that_can_t_be_written(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out.write_text("a file")
    stand_in(monkeypatch, {})
    assert main("Global.dataset_dir=d") == 1
    assert "check_dataset_result.json can't be written" in capsys.readouterr().err
    stand_in(monkeypatch, DatasetError("the reason"))
    assert main("Global.dataset_dir=d") == 1
    assert capsys.readouterr().err.endswith("maskline: the reason\n") and out.read_text() == "a file"


# Modes


def test_keys_of_training_reach_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F61, F65: all keys of Train, PaddleX's and ours; what the pretrained path means."""
    from maskline import training as package

    seen: list[TrainSettings] = []
    monkeypatch.setattr(package, "train", lambda settings, report: seen.append(settings))
    keys = {
        "num_classes": "3", "epochs_iters": "7", "batch_size": "5", "learning_rate": "0.25", "warmup_steps": "11",
        "resume_path": "a/b.pdparams", "log_interval": "2", "eval_interval": "4", "save_interval": "6", "amp": "O1",
        "processes": "8", "workers": "0", "accumulate": "9", "patience": "12", "clip_norm": "0.5",
        "drop_background": "True", "threads": "3", "augment": "{flip: 0, copy_paste: 0.5}", "seed": "13",
    }  # fmt: skip
    given = [f"Train.{key}={value}" for key, value in keys.items()]
    assert main("Global.mode=train", "Global.dataset_dir=d", "Global.device=cpu", *given) == 0
    assert seen == [
        TrainSettings(
            model="Mask-RT-DETR-S", data=Path("d"), output=Path("output"), num_classes=3, epochs=7, batch_size=5,
            learning_rate=0.25, warmup_steps=11, resume=Path("a/b.pdparams"), device="cpu", processes=8,
            precision="bf16", accumulate=9, clip_norm=0.5, log_interval=2, eval_interval=4, save_interval=6,
            patience=12, drop_background=True, workers=0, threads=3, seed=13, weights="official",
            augment={"flip": 0, "copy_paste": 0.5},
        )
    ]  # fmt: skip
    url = "https://example.com/x.pdparams?a=1"
    meanings = {"None": "backbone", "scratch": "scratch", "x.pdparams": "x.pdparams", url: url, "official": "official"}
    for path, meaning in meanings.items():
        assert main("Global.mode=train", "Global.dataset_dir=d", f"Train.pretrain_weight_path={path}") == 0
        assert seen[-1].weights == meaning and seen[-1].learning_rate is None and seen[-1].precision == "fp32"
    assert not (out / "train_result.json").exists()


def test_weights_are_evaluated(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """F66, B38, B42: by the name the documents have for them, on a data set with their classes."""
    sets.make(out.parent / "data", val=2)
    network = models.build("PP-YOLOE_seg-N", 2)
    save_weights(network.state_dict(), out / "best_model" / "best_model.safetensors", "PP-YOLOE_seg-N", ("cat", "dog"))
    assert main("Global.mode=evaluate", "Global.dataset_dir=data", config="PP-YOLOE_seg-N") == 0
    found = result(out, "evaluate")
    assert found["done_flag"] is True and {"AP", "AP50", "AP75", "AP_s", "bbox_AP"} <= found["metrics"].keys()
    assert found["counts"]["images"] == 2 and found["counts"]["background_images"] == 1
    assert (out / found["files"]["report"]).is_file() and "AP50" in capsys.readouterr().out
    assert main("Global.mode=evaluate", "Global.dataset_dir=data", "Evaluate.weight_path=no", config="SOLOv2") == 1


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_done(
    mode: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, {})
    monkeypatch.setattr(hub, "make_model_dir", lambda *arguments, **options: Path("made"))
    code = main(f"Global.mode={mode}", "Global.dataset_dir=d", f"Predict.model_dir={out}/nowhere")
    message = capsys.readouterr().err
    if mode in ("train", "evaluate"):
        assert code == 1 and message.count("\n") == 1 and "d does not exist" in message
        assert result(out, mode)["err_type"] == "<class 'maskline.errors.DatasetNotFoundError'>"
    elif mode == "predict":
        assert code == 1 and "no model directory" in message and "nowhere" in result(out, mode)["err_msg"]
    else:
        assert code == 0, message


def test_a_mode_that_is_not() -> None:
    assert main("Global.mode=trian") == 2
    config = load("SOLOv2", [])
    object.__setattr__(config.Global, "mode", "../trian")
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        jobs.run(config)


def test_check_dataset_gets_what_is_configured(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F58, F59: conversion and division by -o."""
    made = stand_in(monkeypatch, {})
    assert main("Global.dataset_dir=d", "CheckDataset.split.train_percent=90") == 0
    assert made.arguments == [Path("d"), Path("output"), None, None, 0]
    assert main("Global.dataset_dir=d/e", "Global.output=there", "CheckDataset.convert.enable=True",
                "CheckDataset.convert.src_dataset_type=LabelMe", "CheckDataset.split.enable=True",
                "CheckDataset.split.train_percent=90", "CheckDataset.split.seed=7", "CheckDataset.split.stratify=True",
                "CheckDataset.split.group=folder") == 0  # fmt: skip
    assert made.arguments == [Path("d/e"), Path("there"), "LabelMe", SplitConfig(10, 7, True, "folder"), 7]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.dataset_dir=None", "Global.dataset_dir is not set"),
        ("Global.output=None", "Global.output is not set"),
        ("CheckDataset.convert.enable=True", "CheckDataset.convert.src_dataset_type is not set"),
        ("CheckDataset.convert={enable: true, src_dataset_type: Foo}", "unknown CheckDataset.convert.src_dataset_type"),
        ("CheckDataset.split.enable=True", "train_percent and val_percent are not set"),
        ("CheckDataset.split={enable: true, train_percent: 50, val_percent: 40}", "expected a sum of 100, not 90"),
        ("CheckDataset.split={enable: true, train_percent: 50, group: '('}", "group is '('"),
    ],
)
def test_check_dataset_says_what_is_missing(
    override: str, message: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """F60, B33: what is missing is said."""
    made = stand_in(monkeypatch, {})
    unusable = override.startswith("CheckDataset")
    assert main("Global.dataset_dir=d", override) == (2 if unusable else 1) and made.arguments == []
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and message in line
    if "output" not in override:
        assert message in result(out)["err_msg"] and result(out)["done_flag"] is False


def test_export_takes_a_file_or_the_official_weights(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """F67."""
    calls: list[tuple[Any, ...]] = []

    def make_model_dir(*arguments: Any, unaligned: bool) -> Path:
        calls.append((*arguments, unaligned))
        return Path("made")

    monkeypatch.setattr(hub, "make_model_dir", make_model_dir)
    for override in ("Export.weight_path=mine.pdparams", "Export.weight_path=None", "Global.device=cpu"):
        assert main("Global.mode=export", override) == 0
    assert calls == [("Mask-RT-DETR-S", Path("output"), weights, False) for weights in ("mine.pdparams", None, None)]
    assert not (out / "export_result.json").exists()
    assert main("Global.mode=export", "Export.weight_path=https://example.com/a.pdparams") == 1
    assert "the only URL allowed is the official one of Mask-RT-DETR-S" in capsys.readouterr().err


def test_predict_prints_and_saves(
    out: Path, tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F68."""
    cv2.imwrite(str(tmp_path / "b.png"), np.full((80, 120, 3), 99, np.uint8))
    given = ("Global.mode=predict", f"Predict.model_dir={tiny_model_dir}", f"Predict.input=[{PHOTO}, b.png]",
             "Predict.batch_size=2", "Predict.threshold=0.55", "Global.device=cpu")  # fmt: skip
    assert main(*given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("{'res': {'input_path': ")
    assert sorted(path.name for path in out.iterdir()) == ["b_res.json", "b_res.png", "fruit_res.jpg", "fruit_res.json"]
    assert all(box["score"] > 0.55 for box in json.loads((out / "fruit_res.json").read_text())["boxes"])
    shutil.rmtree(out)
    assert main(*given, "Global.output=None") == 0 and not out.exists()
    assert main(*given, "Predict.threshold={dog: 0.999, cat: 0.999, bird: 0.999}") == 0
    assert json.loads((out / "fruit_res.json").read_text())["boxes"] == []


def test_only_training_uses_several_devices(
    out: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = ("Global.mode=predict", f"Predict.model_dir={tiny_model_dir}", f"Predict.input={PHOTO}")
    assert main(*given, "Global.device=gpu:5,6") == 0
    assert "'gpu:5' is not available" in caplog.text and "using the CPU" in caplog.text and "gpu:6" not in caplog.text
    assert main(*given, "Global.device=tpu:0") == 2
    assert "unknown device 'tpu:0'" in capsys.readouterr().err
    assert main(*given, "Global.device=cpu,cpu") == 0


# The command


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MAIN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=dict(os.environ))


def dataset(folder: Path) -> Path:
    """The smallest that passes: two splits with a square each."""
    square = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 16, 16], "area": 256, "iscrowd": 0,
              "segmentation": [[4, 4, 20, 4, 20, 20, 4, 20]]}  # fmt: skip
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for seed, split in enumerate(("train", "val")):
        noise = np.random.default_rng(seed).integers(0, 255, (32, 48, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{split}.png"), noise)
        content = {"images": [{"id": 1, "file_name": f"{split}.png", "width": 48, "height": 32}],
                   "annotations": [square], "categories": [{"id": 1, "name": "square"}]}  # fmt: skip
        (folder / "annotations" / f"instance_{split}.json").write_text(json.dumps(content))
    return folder


def test_the_documented_command_from_another_directory(tmp_path: Path) -> None:
    """F55, F56, F57: main.py from anywhere."""
    dataset(tmp_path / "set")
    done = run("-c", CONFIG, "-o", "Global.mode=check_dataset", "-o", "Global.dataset_dir=./set", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert "maskline: Check dataset passed !\n" in done.stderr
    found = result(tmp_path / "output")
    assert found["done_flag"] is True and found["check_pass"] is True and found["dataset_path"] == "set"
    assert found["attributes"]["train_samples"] == 1 and found["dataset_type"] == "COCOInstSegDataset"


def test_a_broken_data_set_from_the_command(tmp_path: Path) -> None:
    done = run("-c", "Mask-RT-DETR-S", "-o", "Global.dataset_dir=nowhere", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("maskline: ") and "nowhere" in done.stderr.splitlines()[-1]
    found = result(tmp_path / "output")
    assert found["done_flag"] is False and found["err_type"].startswith("<class 'maskline.errors.Dataset")


@pytest.mark.parametrize(
    ("arguments", "message", "mode"),
    [
        (["-c", "none.yaml"], "no configuration file none.yaml", None),
        (["-c", "none.yaml", "-o", "Global.mode=train"], "no configuration file none.yaml", None),
        (["-c", "none.yaml", "-o", "Global.mode=train", "-o", "Global.output=output"], "no configuration", "train"),
        (["-o", "Global.mode=train"], "Global.model is not set", "train"),
        (["-c", CONFIG, "-o", "Train.epoch_iters=1"], "did you mean 'epochs_iters'", "check_dataset"),
        (["-c", CONFIG, "-o", "Train"], "expected Section.key=value", "check_dataset"),
        (["-c", CONFIG, "-o", "Global.mode=evaluate", "-o", "Global.device=tpu"], "unknown device 'tpu'", "evaluate"),
        (["-c", CONFIG, "-o", "Global.mode=trian"], "did you mean 'train'", None),
        (["-c", CONFIG, "-o", "Global.output=None", "-o", "Train.seed=x"], "Train.seed is 'x'", None),
        (["-c", CONFIG, "-o", "Global.output={a: 1}"], "Global.output is {'a': 1}", None),
    ],
)
def test_a_configuration_that_is_refused_is_one_line_and_the_result(
    arguments: list[str], message: str, mode: str | None, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F75: also before the job starts, where mode and folder are known. No result of an earlier run stays."""
    files = {name: out / f"{name}_result.json" for name in MODES}
    out.mkdir()
    for file in files.values():
        file.write_text('{"done_flag": true}')
    code = command(*arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if "configuration: " not in line]
    assert code == (1 if "none" in arguments[1] else 2) and len(lines) == 1 and message in lines[0]
    assert {name for name in MODES if not result(out, name)["done_flag"]} == {mode} - {None}
    if mode is not None:
        found = result(out, mode)
        assert list(found) == ["done_flag", "err_type", "err_msg"] and message in found["err_msg"]
        assert found["err_type"].startswith("<class 'maskline.errors.")


def test_a_training_that_is_refused_is_not_done(out: Path) -> None:
    """The list of an earlier run's checkpoints stays, but can't be taken for this run's success."""
    out.mkdir()
    listed = {"model_name": "SOLOv2", "models": {"best": {"score": 0.5, "pdparams": "best_model/x"}}, "done_flag": True}
    for name in ("train_result.json", "train_results.json"):
        (out / name).write_text(json.dumps(listed))
    assert main("Global.mode=train", "Train.epochs_iters=0") == 2
    assert result(out, "train")["done_flag"] is False and "Train.epochs_iters is 0" in result(out, "train")["err_msg"]
    assert json.loads((out / "train_results.json").read_text()) == listed | {"done_flag": False}


def test_an_evaluation_that_fails_leaves_no_result_of_before(out: Path) -> None:
    """In our own form of the command too."""
    out.mkdir()
    (out / "evaluate_result.json").write_text('{"done_flag": true}')
    assert command("evaluate", "nowhere", "--device", "cpu") == 1
    assert not (out / "evaluate_result.json").exists()


def test_the_settings_of_a_run_are_not_a_configuration(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, with what they are for."""
    (out.parent / "run").mkdir()
    (out.parent / "run" / "config.yaml").write_text("model: SOLOv2\ndata: d\noutput: run\nepochs: 3\n")
    assert command("-c", "run/config.yaml") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "has the settings of a training run" in message and "--resume run`" in message


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_the_processor_stands_in_for_the_documents_devices(
    mode: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """B40: what PaddleX's own files ask for is not there. Unless the environment forbids it; then nothing is read."""
    from maskline.training import devices

    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    given = (f"Global.mode={mode}", "Global.dataset_dir=nowhere", "Global.device=gpu:0,1,2,3")
    assert main(*given) == 1
    warned = caplog.messages[-1]
    assert "device 'gpu:0' is not available: torch has cpu here" in warned and warned.endswith("; using the CPU")
    assert "nowhere does not exist" in capsys.readouterr().err
    monkeypatch.setenv("MASKLINE_DEVICE_FALLBACK", "0")
    assert main(*given) == 1
    assert "device 'gpu:0' is not available" in result(out, mode)["err_msg"]


@pytest.mark.parametrize("command_", ["train SOLOv2 nowhere", "evaluate nowhere --model SOLOv2 --weights x.pdparams"])
def test_our_own_forms_take_the_processor_only_if_the_environment_asks_for_it(
    command_: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before any data is read."""
    from maskline.training import devices

    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    assert command(*command_.split(), "--device", "gpu:0") == 1
    message = capsys.readouterr().err
    assert "device 'gpu:0' is not available" in message and "MASKLINE_DEVICE_FALLBACK=1" in message
    monkeypatch.setenv("MASKLINE_DEVICE_FALLBACK", "1")
    assert command(*command_.split(), "--device", "gpu:0") == 1
    assert "; using the CPU" in caplog.text and "nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu:0", "npu"])
def test_a_device_is_looked_for_before_a_model(
    device: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is fetched, exported or read first."""
    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    monkeypatch.setattr(hub, "model_dir", lambda name: pytest.fail("the model was looked for"))
    for line in ("predict x.jpg --model SOLOv2", "evaluate nowhere --model SOLOv2", "serve --model SOLOv2"):
        assert command(*line.split(), "--device", device) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert "is not available: ONNX Runtime has" in last and "MASKLINE_DEVICE_FALLBACK=1" in last


def test_the_command_line_of_paddlex(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--config", CONFIG, "--override", "Global.mode=train", "-p", "x") == 1
    assert command("--conf", CONFIG) == 2 and "No such option '--conf'" in capsys.readouterr().err


def test_errors_are_of_the_right_kind(out: Path) -> None:
    with pytest.raises(ParameterError):
        jobs.run(load("SOLOv2", []))
    with pytest.raises(ParameterError, match="Global.dataset_dir is not set"):
        jobs.run(load("SOLOv2", ["Global.mode=evaluate"]))
