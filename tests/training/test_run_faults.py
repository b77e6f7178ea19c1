"""What goes wrong in runs of training, and what is left and said then."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures.discs import unevaluated, without_val

from maskline.errors import ExportError, MasklineError
from maskline.training import TrainSettings, checkpoint, loop, train


def test_a_full_disk_in_between_is_reported(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, calls = checkpoint._save_state, []

    def full(state: checkpoint.State, path: Path) -> None:
        calls.append(path.stem)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, path)

    monkeypatch.setattr(checkpoint, "_save_state", full)
    settings = unevaluated(settings, tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        train(settings)
    assert "No space left on device; training continues" in caplog.text
    assert sorted(p.name for p in settings.output.iterdir() if p.is_dir()) == [
        "0", "best_model", "model_final", "tensorboard",
    ]  # fmt: skip
    assert checkpoint.find(settings.output).name == "model_final"


def test_a_full_disk_at_the_end_is_an_error(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: checkpoint.State, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "_save_state", full)
    with pytest.raises(MasklineError, match="checkpoint .*model_final can't be written: No space left"):
        train(replace(unevaluated(settings, tmp_path / "data"), epochs=1))


def test_an_image_that_goes_bad_is_reported(
    settings: TrainSettings, discs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(discs, broken)
    (broken / "images" / "train2.png").write_bytes(b"\x89PNG no")
    with caplog.at_level(logging.WARNING):
        train(replace(settings, data=without_val(broken, tmp_path / "data"), epochs=2))
    assert caplog.text.count("train2.png is left out") == 1 and "training continues" in caplog.text
    assert checkpoint.read(settings.output / "model_final").epochs == 2


def test_a_val_image_that_can_t_be_read_is_reported_once(
    settings: TrainSettings, discs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    shutil.copytree(discs, tmp_path / "broken")
    (tmp_path / "broken" / "images" / "val1.png").unlink()
    with caplog.at_level(logging.WARNING):
        train(replace(settings, data=tmp_path / "broken", epochs=2))
    assert caplog.text.count("val1.png is left out of the evaluation") == 1
    assert "val1.png is left out" in (settings.output / "train.log").read_text()


def test_nothing_but_background_in_a_batch(settings: TrainSettings, tmp_path: Path) -> None:
    """Batches of one image: the last of the set has no object."""
    train(replace(unevaluated(settings, tmp_path / "data"), epochs=1, batch_size=1))
    assert checkpoint.read(settings.output / "model_final").steps == 8


def test_a_loss_that_is_not_a_number_ends_the_run(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loop.LossModule, "forward", lambda self, i, t: {"loss": next(self.parameters()).sum() * torch.nan}
    )
    with pytest.raises(MasklineError, match="the loss became nan at step 0: lower the learning rate"):
        train(unevaluated(settings, tmp_path / "data"))


def test_early_stop(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.3, 0.2, 0.1])
    monkeypatch.setattr(loop, "validate", lambda *_: ({"AP": next(scores)}, ()))
    train(replace(settings, epochs=9, patience=2))
    progress = checkpoint.read(settings.output / "model_final")
    assert progress.epochs == 3 and progress.best == {"epoch": 0, "AP": 0.3}
    assert checkpoint.read(settings.output / "best_model").epochs == 1


def test_of_equal_evaluations_the_later_is_best() -> None:
    history = tuple({"epoch": i, "AP": ap} for i, ap in enumerate((0.1, 0.4, 0.4, 0.2)))
    progress = checkpoint.Progress(history=history)
    assert progress.best == {"epoch": 2, "AP": 0.4} and progress.since_best == 1


def test_a_refused_export_keeps_the_weights_and_says_how_to_go_on(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reported once on the terminal, where the error ends up, and in the log."""

    def refuse(*_: object, **__: object) -> None:
        raise ExportError("the graph disagrees with the network; not written")

    monkeypatch.setattr("maskline.training.run.export_network", refuse)
    settings = replace(unevaluated(settings, tmp_path / "data"), epochs=1, export=True, output=tmp_path / "my run")
    with caplog.at_level(logging.INFO), pytest.raises(ExportError) as caught:
        train(settings)
    weights = settings.output / "best_model" / "best_model.safetensors"
    command = f"maskline export PP-YOLOE_seg-N --weights '{weights}' --output '{weights.with_name('inference')}'"
    message = (
        "not exported: the graph disagrees with the network; not written; the weights are kept: train longer, or try "
        f"again with `{command}`"
    )
    assert str(caught.value) == message and caught.value.exit_code == 1 and weights.is_file()
    assert (settings.output / "train.log").read_text().count(message) == 1
    assert "not exported" not in caplog.text and "exporting the best weights" in caplog.text
