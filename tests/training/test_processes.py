"""Training in several processes: they agree, write once, and fail as one."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch

from maskline.data.reading import load_splits
from maskline.errors import WeightsError
from maskline.paddlex import train_results
from maskline.training import TrainSettings, loop, processes, train
from maskline.training.run import prepare


def gradients(job: loop.TrainingJob) -> None:
    """The gradients of the first batch of a run, written by the first process."""
    run = loop.Run(job, loop.make_accelerator(job.settings))
    loop.train_mode(run.network, run.frozen())
    losses = run.gradients([next(iter(run.loader.epoch(0)))])
    if run.is_first:
        found = {name: p.grad for name, p in run.network.named_parameters() if p.grad is not None}
        statistics = {name: b for name, b in run.network.named_buffers() if "running" in name}
        torch.save((losses, found, statistics), job.settings.output / f"{job.settings.processes}.pt")


def test_two_processes_give_the_gradients_of_one(settings: TrainSettings) -> None:
    """F62: of the same global batch, one half of which has fewer objects than the other; and the norms' statistics."""
    settings.output.mkdir()
    splits = load_splits(settings.data)
    for count, batch_size in ((1, 8), (2, 4)):
        job = prepare(replace(settings, processes=count, batch_size=batch_size), splits)
        os.environ["ACCELERATE_USE_CPU"] = "true"
        processes.run(gradients, job, count)
    (loss, one, norms), (losses, two, shared) = (torch.load(settings.output / f"{n}.pt") for n in (1, 2))
    assert losses == pytest.approx(loss, rel=1e-4)
    assert one.keys() == two.keys() and len(one) > 100
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=2e-3, atol=2e-4 * float(gradient.abs().max()) + 1e-6)
    for name, tensor in norms.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-4, atol=1e-5)


def test_two_processes_train_and_write_once(settings: TrainSettings) -> None:
    """F62."""
    settings = replace(settings, processes=2, batch_size=2, epochs=1, workers=1)
    result = train(settings, train_results.write)
    assert result.done and result.epochs == len(result.history) == 1
    assert json.loads((settings.output / "train_results.json").read_text())["done_flag"]
    assert (settings.output / "train.log").read_text().count("Epoch: [0] [2/2]") == 1


def fails(job: str) -> None:
    raise WeightsError(f"no {job}")


def test_an_error_in_a_process_is_one_line() -> None:
    with pytest.raises(WeightsError, match="no luck"):
        processes.run(fails, "luck", 2)
