"""Runs of training: what they leave, and that they go on where they stopped."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
import yaml
from fixtures.discs import make_discs, unevaluated, without_val
from safetensors.torch import load_file

from maskline import create_model
from maskline.data.reading import load_splits
from maskline.errors import DatasetError, DeviceError, MasklineError, ParameterError, UnknownNameError, WeightsError
from maskline.paddlex import train_results
from maskline.training import TrainResult, TrainSettings, checkpoint, loop, processes, train
from maskline.training.augment import Augment, as_augment, recipe_augment
from maskline.training.run import prepare
from maskline.weights.load import labels_in_file, load_network


def weights(folder: Path, name: str = "model_final") -> dict[str, torch.Tensor]:
    return load_file(folder / name / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What a run leaves


class Finished(NamedTuple):
    """A whole run, exported."""

    output: Path
    result: TrainResult
    reports: list[TrainResult]  # what was reported to its caller on the way


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, discs: Path) -> Finished:
    """With PaddleX's files, as the commands have it."""
    reports = []

    def report(result: TrainResult) -> None:
        train_results.write(result)
        listed = json.loads((result.output / "train_results.json").read_text())
        assert listed["done_flag"] == result.done and len([v for v in listed["models"].values() if v]) <= 3
        reports.append(result)

    settings = TrainSettings(
        model="PP-YOLOE_seg-N", data=discs, output=tmp_path_factory.mktemp("run") / "out", epochs=3, batch_size=4,
        weights="scratch", device="cpu", workers=1, log_interval=1, augment=asdict(Augment(jitter=(1, 1), sizes=(64,))),
        keep=1,
    )  # fmt: skip
    return Finished(settings.output, train(settings, report), reports)


def test_a_result_says_what_was_reached_and_where_it_is(finished: Finished) -> None:
    output, result, reports = finished
    assert result.model == "PP-YOLOE_seg-N" and result.labels == ("disc", "ring") and result.output == output
    assert result.epochs == 3 and result.done and [entry["epoch"] for entry in result.history] == [0, 1, 2]
    best = max(entry["AP"] for entry in result.history)
    assert result.best_score == best == result.metrics["AP"] and "epoch" not in result.metrics
    assert result.history[result.best_epoch]["AP"] == best and {"AP50", "bbox_AP"} <= result.metrics.keys()
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert result.best_checkpoint == output / "best_model" and result.last_checkpoint == output / "model_final"
    assert checkpoint.read(result.best_checkpoint).epochs == result.best_epoch + 1
    assert result.model_dir == output / "best_model" / "inference" and (result.model_dir / "inference.yml").is_file()
    assert reports[-1] == result and not any(report.done or report.model_dir for report in reports[:-1])
    assert reports[0].epochs == 0 and reports[0].best_score is None and reports[0].metrics == {}
    assert [report.epochs for report in reports] == sorted(report.epochs for report in reports)
    with pytest.raises(AttributeError):
        result.epochs = 4  # type: ignore[misc]


def test_files_of_a_run(finished: Finished) -> None:
    """F63, F84, B36, B37: every file that is listed is there."""
    output = finished.output
    content = json.loads((output / "train_results.json").read_text())
    assert content["done_flag"] is True and content["model_name"] == "PP-YOLOE_seg-N"
    assert (output / "train_result.json").read_bytes() == (output / "train_results.json").read_bytes()
    best, last = content["models"]["best"], content["models"]["last_1"]
    assert last["pdparams"] == "model_final/model_final.safetensors" and last["epoch"] == 2
    assert best["onnx"] == "best_model/inference/inference.onnx" and best["score"] == finished.result.best_score
    listed = [v for model in (best, last) for k, v in model.items() if k not in ("score", "epoch") and v]
    assert len(listed) >= 10 and all((output / path).is_file() for path in listed)
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["epochs"] == 3 and config["learning_rate"] > 0 and config["augment"]["sizes"]
    assert cv2.imread(str(output / "curves.png")) is not None
    assert [p.name for p in sorted((output / "samples").iterdir())] == [f"epoch_{i}.jpg" for i in range(3)]
    assert list((output / "tensorboard").iterdir())
    assert not list(output.rglob("*.tmp"))


def test_log_has_paddlex_s_lines(finished: Finished) -> None:
    text = (finished.output / "train.log").read_text()
    assert "Epoch: [0] [1/2] learning_rate: 0." in text and "Epoch: [2] [2/2]" in text
    assert text.count(" images/s, max_mem_reserved: ") == 6 and "eta: 0:00:00" in text
    assert text.count("Best test mask ap is 0.") == 3 and "Save checkpoint: " in text


def test_old_checkpoints_go(finished: Finished) -> None:
    assert sorted(p.name for p in finished.output.iterdir() if p.name.isdigit()) == ["1"]


def test_the_best_predicts_with_the_data_s_names(finished: Finished, discs: Path) -> None:
    """F69, F84."""
    model = create_model(model_dir=finished.output / "best_model" / "inference", threshold=0.0)
    assert model.labels == ("disc", "ring") and model.model_name == "PP-YOLOE_seg-N"
    (result,) = model.predict(discs / "images" / "val0.png")
    assert result.instances.size == (64, 64)
    assert labels_in_file(finished.output / "best_model" / "best_model.safetensors") == ("disc", "ring")


def test_no_list_of_checkpoints_outlives_its_run(settings: TrainSettings, tmp_path: Path) -> None:
    """Where the next run, new or resumed, no longer keeps PaddleX's files up to date, they move away."""
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=2, eval_interval=1)
    files = [settings.output / name for name in ("train_result.json", "train_results.json")]
    train(settings, train_results.write)
    before = files[1].read_bytes()
    resumed = replace(settings, resume=settings.output / "0")
    train(resumed, train_results.write)
    assert all(file.read_bytes() == before for file in files)
    assert sorted(p.name for p in (settings.output / "earlier_run_1").iterdir()) == ["best_model", "model_final"]
    result = train(resumed)
    assert result.epochs == 2 and result.best_score is None and result.best_epoch == 1 and result.metrics == {}
    aside = settings.output / "earlier_run_2"
    assert not any(file.exists() for file in files) and all(
        (aside / file.name).read_bytes() == before for file in files
    )


def test_processes_besides_the_first_only_return(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that torchrun has started: the first one exports and reports."""
    monkeypatch.setattr(processes, "is_first", lambda: False)
    reports: list[TrainResult] = []
    result = train(replace(settings, epochs=1, export=True), reports.append)
    assert result.done and result.model_dir == settings.output / "best_model" / "inference"
    assert not result.model_dir.exists() and not any(report.done for report in reports)


def test_another_run_in_its_folder_loses_nothing(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=1)
    train(settings)
    first = weights(settings.output)
    train(replace(settings, seed=1))
    assert same(first, weights(settings.output / "earlier_run_1"))
    assert not same(first, weights(settings.output))


# Randomness and resuming


def test_the_same_seed_gives_the_same_weights(settings: TrainSettings, tmp_path: Path) -> None:
    """Whatever the number of workers; and however much is drawn elsewhere in between."""
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=2)
    train(settings)
    torch.rand(7)
    train(replace(settings, output=tmp_path / "again", workers=2))
    assert same(weights(settings.output), weights(tmp_path / "again"))


def test_no_process_outlives_a_run(settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not until the garbage collector comes, nor where a run fails."""
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=1, workers=2)
    gc.disable()
    try:
        train(settings)
        assert multiprocessing.active_children() == []
        monkeypatch.setattr(loop.Run, "gradients", lambda self, batches: {"loss": float("nan")})
        with pytest.raises(MasklineError, match="the loss became"):
            train(replace(settings, epochs=2))
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


def test_killed_and_resumed_is_as_uninterrupted(settings: TrainSettings, tmp_path: Path) -> None:
    """F64: to the last bit of weights, of the running average and of the optimizer, with evaluations in between."""
    train(settings)
    killed = replace(settings, output=tmp_path / "killed")
    code = (
        "import pickle, sys; from pathlib import Path; from maskline.training import train\n"
        "if __name__ == '__main__': train(pickle.loads(Path(sys.argv[1]).read_bytes()))"
    )
    import pickle

    (tmp_path / "settings.pickle").write_bytes(pickle.dumps(killed))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "settings.pickle")])
    deadline = time.monotonic() + 120
    while not (killed.output / "0" / "0.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed.output / "model_final").exists()
    train(replace(killed, resume=killed.output))
    state = "model_final/model_final.state.safetensors"
    assert same(load_file(settings.output / state), load_file(killed.output / state))
    assert same(weights(settings.output), weights(killed.output))
    ours, theirs = (checkpoint.read(s.output / "model_final") for s in (settings, killed))
    assert ours.history == theirs.history and ours.losses == pytest.approx(theirs.losses, rel=1e-6)


def test_a_resumed_run_keeps_its_settings(settings: TrainSettings, tmp_path: Path) -> None:
    """They need not be said again, and can't be changed in passing."""
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=2, eval_interval=1, seed=5)
    train(settings)
    again = TrainSettings(
        model=settings.model, data=settings.data, resume=settings.output / "0", device="cpu", export=False
    )
    train(again)
    aside = settings.output / "earlier_run_1"
    assert sorted(p.name for p in aside.iterdir()) == ["best_model", "model_final"]  # of more epochs than the first
    assert same(weights(aside), weights(settings.output))
    with pytest.raises(ParameterError, match="but the run to resume is in"):
        train(replace(again, output=tmp_path / "elsewhere"))
    with pytest.raises(ParameterError, match="epochs is 9, but the run to resume was started with 2: leave it out"):
        train(replace(again, epochs=9))


def test_the_command_resumes_from_a_checkpoint_that_is_pruned_meanwhile(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says where the result is: in the folder of the run, not in the one for new runs."""
    monkeypatch.setattr(checkpoint, "prune", lambda *_: None)
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=3)
    train(settings)
    first = settings.output / "0"
    command = [sys.executable, "-m", "maskline", "train", settings.model, settings.data, "--resume", first]
    done = subprocess.run([*map(str, command), "--device", "cpu"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{settings.output / 'best_model' / 'inference' / 'inference.onnx'}: ")


def test_the_command_without_an_export_names_the_best_weights(settings: TrainSettings, tmp_path: Path) -> None:
    data = unevaluated(settings, tmp_path / "data").data
    command = [sys.executable, "-m", "maskline", "train", settings.model, data, "--output", tmp_path / "new"]
    options = [
        "--weights",
        "scratch",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--workers",
        "0",
        "--augment",
        "sizes=[64]",
    ]
    done = subprocess.run(
        [*map(str, command), *options, "--device", "cpu", "--no-export"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    best = tmp_path / "new" / "best_model" / "best_model.safetensors"
    assert (
        done.stdout == f"{best}: the weights of epoch 0\n"
        and best.is_file()
        and not (best.parent / "inference").exists()
    )


def test_resuming_from_what_is_not_a_checkpoint(settings: TrainSettings, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nofile.pdparams"):  # the path is reported as it was given
        with pytest.raises(MasklineError, match=f"no checkpoint to resume at {path}: expected the output folder"):
            train(replace(settings, resume=path))
    folder = tmp_path / "3"
    folder.mkdir()
    (folder / "3.json").write_text('{"version": 1')
    (folder / "3.state.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="can't be used"):
        train(replace(settings, resume=tmp_path))
    (folder / "3.json").write_text('{"version": 1}')
    with pytest.raises(WeightsError, match="can't be resumed"):
        train(replace(settings, resume=folder / "3.pdparams", output=tmp_path))


def test_a_run_does_not_resume_on_another_data_set(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=1)
    train(settings)
    other = without_val(make_discs(tmp_path / "more", train=9), tmp_path / "other")
    with pytest.raises(ParameterError, match="other is not the data set that the run in .* was started with"):
        train(replace(settings, data=other, resume=settings.output))


def test_a_start_that_fails_leaves_the_earlier_run(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=1)
    train(settings)
    (settings.output / ".0123456789abcdef.tmp").mkdir()  # of a run that was killed
    before = sorted(p.name for p in settings.output.iterdir())
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    state = settings.output / "model_final" / "model_final.state.safetensors"
    for start in ("nowhere.pdparams", str(tmp_path / "junk.safetensors"), "backbone", str(state)):
        with pytest.raises(MasklineError):
            train(replace(settings, weights=start))
        assert sorted(p.name for p in settings.output.iterdir()) == before
    train(settings)
    assert not list(settings.output.glob(".*"))


# What it starts from


def test_other_classes_are_initialized_again(
    settings: TrainSettings, discs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F61, F65: weights of other classes are a start."""
    three = make_discs(tmp_path / "three", classes=("ring", "b", "c"))
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=1)
    train(settings)
    start = settings.output / "best_model" / "best_model.pdparams"  # as the documents have it
    caplog.clear()
    with caplog.at_level(logging.INFO, "maskline"):
        train(
            replace(settings, data=without_val(three, tmp_path / "data3"), output=tmp_path / "next", weights=str(start))
        )
    assert "classes not in the weights, which are re-initialised: b, c" in caplog.text
    assert "classes whose weights are kept, by name: ring" in caplog.text
    assert load_network("PP-YOLOE_seg-N", tmp_path / "next/best_model/best_model.safetensors").num_classes == 3


def test_weights_of_another_network(settings: TrainSettings, pdparams: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not fit PP-YOLOE_seg-N|can't be read|called"):
        train(replace(settings, weights=str(pdparams)))


# TrainSettings


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": 0}, ParameterError, "epochs is 0"),
        ({"precision": "fp8"}, ParameterError, "unknown precision 'fp8': .*known: fp32, bf16, fp16"),
        ({"learning_rate": -1.0}, ParameterError, "learning_rate is -1: expected a number above 0 and up to 1000"),
        ({"learning_rate": float("inf")}, ParameterError, "learning_rate is inf"),
        ({"warmup_steps": -1}, ParameterError, "warmup_steps is -1"),
        ({"augment": {"flip": 2}}, ParameterError, "flip is 2: expected a number from 0 to 1"),
        ({"augment": {"flop": 0.5}}, UnknownNameError, "did you mean 'flip'"),
        ({"device": "tpu"}, ParameterError, "unknown device 'tpu'"),
        ({"device": "npu:3"}, DeviceError, "device 'npu:3' is not available: torch has cpu.* here; install a build"),
        ({"num_classes": 5}, ParameterError, "num_classes is 5, but .* has 2 classes"),
        ({"model": "SOLOv3"}, UnknownNameError, "did you mean 'SOLOv2'"),
        ({"data": Path("nowhere")}, DatasetError, "nowhere does not exist"),
    ],
)  # fmt: skip
def test_what_can_t_be(settings: TrainSettings, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(replace(settings, **change))
    assert not settings.output.exists()


def test_no_objects_to_learn_from(settings: TrainSettings, tmp_path: Path) -> None:
    data = without_val(settings.data, tmp_path / "data")
    file = data / "annotations" / "instance_train.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    with pytest.raises(DatasetError, match="no objects to learn from"):
        train(replace(settings, data=data))


def test_crowd_regions_are_reported(settings: TrainSettings, tmp_path: Path) -> None:
    """As CVAT marks masks of its brush: a run that learns nothing, or only part, says why."""
    data = without_val(settings.data, tmp_path / "data")
    file = data / "annotations" / "instance_train.json"
    content = json.loads(file.read_text())
    splits = load_splits(data)
    assert not [note for note in prepare(replace(settings, data=data), splits).notes if "crowd regions" in note]
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    notes = prepare(replace(settings, data=data), load_splits(data)).notes
    total = len(content["annotations"])
    assert f"crowd regions are not learned from: 1 of {total} training annotations" in notes
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=f"no objects to learn from.*{total} annotations, only crowd regions"):
        train(replace(settings, data=data))


def test_augmentation_by_name() -> None:
    recipe = recipe_augment("Mask-RT-DETR-S")
    assert as_augment({"copy_paste": 0.5, "sizes": [320]}, "Mask-RT-DETR-S") == replace(
        recipe, copy_paste=0.5, sizes=(320,)
    )
    with pytest.raises(UnknownNameError, match="did you mean 'flip'"):
        as_augment({"flop": 1}, "SOLOv2")
    with pytest.raises(ParameterError, match="flip"):
        as_augment({"flip": "often"}, "SOLOv2")


def test_mixed_precision_learns_too(settings: TrainSettings, tmp_path: Path) -> None:
    train(replace(unevaluated(settings, tmp_path / "data"), epochs=1, precision="bf16", accumulate=2))
    assert checkpoint.read(settings.output / "model_final").steps == 1
    assert all(np.isfinite(t.float().numpy()).all() for t in weights(settings.output).values())


def test_from_scratch_nothing_is_frozen(settings: TrainSettings, tmp_path: Path) -> None:
    """What the recipe freezes or slows down is what it takes from pretrained weights."""
    job = prepare(
        replace(unevaluated(settings, tmp_path / "data"), model="Mask-RT-DETR-S"), load_splits(tmp_path / "data")
    )
    run = loop.Run(job, loop.make_accelerator(job.settings))
    assert run.frozen() == [] and all(p.requires_grad for p in run.network.parameters())
    assert len({group["lr"] for group in run.state.optimizer.param_groups}) == 1
