"""The training loop of a process."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from maskline import catalog, models
from maskline._wording import counted
from maskline.data.dataset import Dataset
from maskline.errors import MasklineError, OutputError, ParameterError
from maskline.evaluate import Skipped
from maskline.models.deployed import Normalise
from maskline.models.network import Network, Normalizer, Target
from maskline.training import checkpoint
from maskline.training.augment import as_augment
from maskline.training.checkpoint import Progress, State
from maskline.training.loader import Batch, TrainingLoader, make_loader
from maskline.training.logger import SAMPLES_FOLDER, LogFile, TrainingLogger
from maskline.training.optim import LearningRate, ModelEma, make_optimizer, set_learning_rate
from maskline.training.processes import convert_sync_batchnorm
from maskline.training.results import Report, TrainResult, prepare_folder
from maskline.training.settings import SCRATCH, TrainSettings
from maskline.training.start import new_network
from maskline.training.validate import validate

logger = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Input of all processes of a run: settings, complete with the recipe's values, and data."""

    settings: TrainSettings
    train: Dataset
    val: Dataset | None
    notes: tuple[str, ...] = ()  # for the log
    report: Report | None = None  # called in the first process

    @property
    def fingerprint(self) -> str:
        """Hash of the training data: images, numbers of objects, classes."""
        found = hashlib.sha256(repr(self.labels).encode("utf-8", "backslashreplace"))
        for image in self.train.images:
            line = f"{image.file_name} {image.size} {len(self.train.of(image))}\n"
            found.update(line.encode("utf-8", "backslashreplace"))
        return found.hexdigest()

    @property
    def spec(self) -> catalog.Model:
        """The model."""
        return catalog.get(self.settings.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names."""
        return tuple(self.train.names)


class LossModule(nn.Module):
    """A network with normalisation and loss, as one module for distributed training."""

    def __init__(self, network: Network, spec: catalog.Model, normalizer: Normalizer) -> None:
        super().__init__()
        self.network, self.normalizer = network, normalizer
        self.normalise = Normalise(spec.preprocess)

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """Images (B, H, W, 3) as in `Batch` to the weighted loss terms.

        Padding is 0 after normalisation, as in PaddleDetection, which pads normalised images.
        """
        x = self.normalise(images)
        if not self.normalise.keeps_zero:
            clear_padding(x, targets)
        return self.network.losses(x, targets, normalizer=self.normalizer)


def clear_padding(images: Tensor, targets: Iterable[Target]) -> None:
    """Zero the padding of a batch (B, C, H, W), in place."""
    for i, (height, width) in enumerate(target.size for target in targets):
        if (height, width) != images.shape[2:]:
            images[i, :, height:] = 0
            images[i, :, :height, width:] = 0


class Run:
    """A training run in one process."""

    def __init__(self, job: TrainingJob, accelerator: Accelerator) -> None:
        self.job, self.settings, self.accelerator = job, job.settings, accelerator
        recipe = job.spec.recipe
        self.loader = self._loader()
        steps = self.settings.epochs * self.epoch_steps
        self.rate = LearningRate.of(recipe, steps, self.settings.warmup_steps)
        if self.settings.resume is None:
            network = new_network(self.settings, job.labels)
        else:  # the checkpoint has the weights
            overrides = checkpoint.read(self.settings.resume).weights_config
            network = models.build(self.settings.model, len(job.labels), overrides)
        self.network = network.to(self.accelerator.device)
        freeze(self.frozen())
        if self.accelerator.num_processes > 1:
            convert_sync_batchnorm(self.network)
        assert self.settings.learning_rate is not None
        optimizer = make_optimizer(
            self.network, recipe, self.settings.learning_rate, pretrained=self.settings.weights != SCRATCH
        )
        ema = None if recipe.ema_decay is None else ModelEma(self.network, recipe.ema_decay, steps)
        self.state = State(self.network, optimizer, ema)
        self.unread: set[Skipped] = set()  # val images already reported
        self.progress = Progress(
            settings=asdict(self.settings), weights_config=self.network.weights_config(), data=job.fingerprint
        )
        if self.settings.resume is not None:
            self._resume(self.settings.resume)
        module = LossModule(self.network, job.spec, self._divisor).to(self.accelerator.device)
        self.module: nn.Module = self.accelerator.prepare_model(module)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return bool(self.accelerator.is_main_process)

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps per epoch."""
        return -(-len(self.loader) // self.settings.accumulate)

    def frozen(self) -> list[nn.Module]:
        """Modules to freeze; none if training from scratch."""
        return [] if self.settings.weights == SCRATCH else list(self.network.frozen())

    def train(self) -> None:
        """Run the remaining epochs."""
        with self._open_logger() as run_logger:
            for epoch in range(self.progress.epochs, self.settings.epochs):
                if self._should_stop():
                    logger.info("no better AP in %s: stopping early", counted(self.progress.since_best, "evaluation"))
                    break
                self._epoch(epoch, run_logger)
                last = epoch + 1 == self.settings.epochs
                if self._is_due(self.settings.eval_interval, epoch) or last:
                    self._evaluate(epoch, run_logger)
                if self._is_due(self.settings.save_interval or self.settings.eval_interval, epoch) and not last:
                    self._save(self.settings.output / str(epoch))
            self._save(self.settings.output / checkpoint.FINAL, must=True)
            if self.job.val is None:
                if run_logger is not None:
                    run_logger.curves(self.progress.losses, ())
                self._save(self.settings.output / checkpoint.BEST, resumable=False, must=True)

    def _epoch(self, epoch: int, run_logger: TrainingLogger | None) -> None:
        train_mode(self.network, self.frozen())
        started = perf_counter()
        for batches in grouped(self.loader.epoch(epoch), self.settings.accumulate):
            waited = perf_counter() - started
            self._log_skipped(batches)
            rate = self.rate.factor(self.progress.steps)
            set_learning_rate(self.state.optimizer, rate)
            losses = self._step(batches)
            step, self.progress = self.progress.steps, replace(self.progress, steps=self.progress.steps + 1)
            if run_logger is not None:
                images = sum(len(b.targets) for b in batches) * self.accelerator.num_processes
                assert self.settings.learning_rate is not None
                run_logger.step(
                    step, losses, rate * self.settings.learning_rate, images, perf_counter() - started, waited
                )
            started = perf_counter()
        means = (*self.progress.losses, run_logger.epoch_loss()) if run_logger is not None else ()
        self.progress = replace(self.progress, epochs=epoch + 1, losses=means)

    def _step(self, batches: list[Batch]) -> dict[str, float]:
        """Run an optimizer step over one or more batches. Returns the loss terms."""
        losses = self.gradients(batches)
        loss = sum(losses.values())
        if not math.isfinite(loss):
            raise MasklineError(
                f"the loss became {loss} at step {self.progress.steps}: lower the learning rate, or use fp32; "
                f"checkpoints in {self.settings.output} are intact"
            )
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.state.ema is not None:
            self.state.ema.update(self.network)
        return losses

    def gradients(self, batches: list[Batch]) -> dict[str, float]:
        """Accumulate the gradients of a step's batches. Returns the loss terms, averaged over processes.

        Random draws depend only on seed, step and process.
        """
        torch.manual_seed(hash((self.settings.seed, self.progress.steps, self.accelerator.process_index)))
        total: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with self._gradient_sync(i + 1 == len(batches)):  # the prepared module applies mixed precision
                images, targets = to_device(batch, self.accelerator.device)
                parts = {name: part / len(batches) for name, part in self.module(images, targets).items()}
            self.accelerator.backward(torch.stack(list(parts.values())).sum())
            total = {name: total.get(name, 0) + part.detach() for name, part in parts.items()}
        values = self._mean(torch.stack(list(total.values())))
        return dict(zip(total, values.tolist(), strict=True))

    def _gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Synchronise gradients only with the last batch of a step."""
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def _mean(self, x: Tensor) -> Tensor:
        """Average over processes."""
        mean: Tensor = self.accelerator.reduce(x, "mean")
        return mean

    def _divisor(self, count: Tensor) -> Tensor:
        """See `Normalizer`."""
        total: Tensor = self.accelerator.reduce(count.detach(), "sum")
        return total.clamp(min=1) / int(self.accelerator.num_processes)

    def _evaluate(self, epoch: int, run_logger: TrainingLogger | None) -> None:
        if self.job.val is None:
            return
        images = self.settings.output / SAMPLES_FOLDER / f"epoch_{epoch}.jpg"
        with ema_weights(self.state):
            metrics, skipped = validate(self.network, self.job.spec, self.job.val, self.accelerator, images)
        for image in (image for image in skipped if image not in self.unread):
            logger.warning("%s is left out of the evaluation: %s", image.file, image.reason)
            self.unread.add(image)
        self.progress = replace(self.progress, history=(*self.progress.history, {"epoch": epoch, **metrics}))
        assert self.progress.best is not None
        if run_logger is not None:
            run_logger.evaluation(self.progress.steps, metrics, self.progress.best["AP"])
            run_logger.curves(self.progress.losses, self.progress.history)
        if self.progress.best["epoch"] == epoch:
            self._save(self.settings.output / checkpoint.BEST, resumable=False)

    def _is_due(self, interval: int, epoch: int) -> bool:
        return (epoch + 1) % interval == 0

    def _should_stop(self) -> bool:
        return self.settings.patience is not None and self.progress.since_best >= self.settings.patience

    def _save(self, folder: Path, *, resumable: bool = True, must: bool = False) -> None:
        """Write a checkpoint; a failure ends the run only with ``must``."""
        if not self.is_first:
            return
        updates = 0 if self.state.ema is None else self.state.ema.updates
        scaler = {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        progress = replace(self.progress, updates=updates, scaler=scaler)
        try:
            checkpoint.save(folder, self.state, progress, self.job.labels, resumable=resumable)
        except OutputError as error:
            if must:
                raise OutputError(f"{error}; free disk space and resume, or export an earlier checkpoint") from None
            logger.warning("%s; training continues, earlier checkpoints are intact", error)
            return
        logger.info("Save checkpoint: %s", folder)
        checkpoint.prune(self.settings.output, self.settings.keep)
        self.report()

    def report(self) -> None:
        """Call the `Report` with the result so far."""
        if self.job.report is not None:
            self.job.report(TrainResult.of(self.settings, self.job.labels, self.progress))

    def _resume(self, folder: Path) -> None:
        progress = checkpoint.restore(folder, self.state)
        if progress.data != self.progress.data:
            raise ParameterError(
                f"{self.settings.data} is not the data set that the run in {folder.parent} was started with: give that "
                f"one, or start a new run from {folder / folder.name}.safetensors"
            )
        self.progress = replace(progress, settings=asdict(self.settings))
        if self.accelerator.scaler is not None and self.progress.scaler:
            self.accelerator.scaler.load_state_dict(dict(self.progress.scaler))
        done = f"{self.progress.epochs} of {counted(self.settings.epochs, 'epoch')}"
        logger.info("resumed from %s: %s done", folder, done)

    def _loader(self) -> TrainingLoader:
        settings, spec = self.settings, self.job.spec
        assert settings.batch_size is not None
        return make_loader(
            self.job.train,
            spec.preprocess,
            as_augment(settings.augment or {}, settings.model),
            batch_size=settings.batch_size,
            seed=settings.seed,
            workers=settings.workers,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            drop_background=settings.drop_background,
        )

    def _open_logger(self) -> AbstractContextManager[TrainingLogger | None]:
        if not self.is_first:
            return nullcontext()
        return TrainingLogger(
            self.settings.output,
            epochs=self.settings.epochs,
            epoch_steps=self.epoch_steps,
            log_interval=self.settings.log_interval,
        )

    def _log_skipped(self, batches: list[Batch]) -> None:
        for line in (line for batch in batches for line in batch.skipped):
            logger.warning("%s; training continues without it", line)


def run_process(job: TrainingJob) -> Progress:
    """Train in this process."""
    accelerator = make_accelerator(job.settings)
    with LogFile() if accelerator.is_main_process else nullcontext() as file:
        for note in job.notes if file is not None else ():
            logger.warning("%s", note)
        training = Run(job, accelerator)
        if file is not None:  # only now, after all checks
            prepare_folder(training.settings, training.progress.epochs, reported=job.report is not None)
            training.report()
            file.open(training.settings.output)
        with closing(training.loader):
            training.train()
    return training.progress


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Make the accelerator of this process, with device, process group and precision."""
    AcceleratorState._reset_state(reset_partial_state=True)  # else a second run would keep the first's settings
    return Accelerator(mixed_precision="no" if settings.precision == "fp32" else settings.precision)


def freeze(modules: Iterable[nn.Module]) -> None:
    """Exclude modules from training."""
    for module in modules:
        module.requires_grad_(False)


def train_mode(network: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Set training mode, except for frozen modules, whose statistics stay fixed."""
    network.train()
    for module in frozen:
        module.eval()


class ema_weights:  # noqa: N801 (a context, used like a function)
    """Context in which the network has its EMA weights, in eval mode; restores it exactly."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.kept = {name: tensor.clone() for name, tensor in self.state.network.state_dict().items()}
        self.state.network.load_state_dict(self.state.weights())
        self.state.network.eval()

    def __exit__(self, *exception: object) -> None:
        self.state.network.load_state_dict(self.kept)


def grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last may be shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, list[Target]]:
    """Move a batch to a device."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    targets = [Target(moved(labels), moved(boxes), moved(masks), size) for labels, boxes, masks, size in batch.targets]
    return moved(batch.images), targets
