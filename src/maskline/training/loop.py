"""The training loop, as each process runs it."""

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
from maskline.training.checkpoint import Progress, State
from maskline.training.loader import Batch, TrainingLoader, loader
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
    """What every process of a run gets: settings without any None of the recipe's, and the data."""

    settings: TrainSettings
    train: Dataset
    val: Dataset | None
    notes: tuple[str, ...] = ()  # for the log
    report: Report | None = None  # gets the result so far, in the first process

    @property
    def fingerprint(self) -> str:
        """Of what is learned from: images, their objects and the classes."""
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
    """A network behind its loss, as one module that several processes can share: pixels and targets in, loss out."""

    def __init__(self, network: Network, spec: catalog.Model, normalizer: Normalizer) -> None:
        super().__init__()
        self.network, self.normalizer = network, normalizer
        self.normalise = Normalise(spec.preprocess)

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """Images (B, H, W, 3) as in `Batch` to the weighted parts of the loss.

        The network gets images whose padding is 0, as in the reference, which pads what it has normalised.
        """
        x = self.normalise(images)
        if not self.normalise.keeps_zero:
            clear_padding(x, targets)
        return self.network.losses(x, targets, normalizer=self.normalizer)


def clear_padding(images: Tensor, targets: Iterable[Target]) -> None:
    """Set what lies beyond the size of each image of a batch (B, C, H, W) to 0, in place."""
    for i, (height, width) in enumerate(target.size for target in targets):
        if (height, width) != images.shape[2:]:
            images[i, :, height:] = 0
            images[i, :, :height, width:] = 0


class Run:
    """One process of a training run."""

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
        average = None if recipe.ema_decay is None else ModelEma(self.network, recipe.ema_decay, steps)
        self.state = State(self.network, optimizer, average)
        self.unread: set[Skipped] = set()  # images of the val split that were told of
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
        """Whether this process is the one that writes and tells."""
        return bool(self.accelerator.is_main_process)

    @property
    def epoch_steps(self) -> int:
        """Steps of the optimizer in an epoch."""
        return -(-len(self.loader) // self.settings.accumulate)

    def frozen(self) -> list[nn.Module]:
        """The parts that the network wants to stay as they are, which makes sense only if they have learned before."""
        return [] if self.settings.weights == SCRATCH else list(self.network.frozen())

    def train(self) -> None:
        """All epochs that are left."""
        with self._open_logger() as run_logger:
            for epoch in range(self.progress.epochs, self.settings.epochs):
                if self._is_enough():
                    logger.info("no better AP in %s: ending early", counted(self.progress.since_best, "evaluation"))
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
            self._tell_skipped(batches)
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
        """One step of the optimizer over one or more batches. Returns the parts of the loss."""
        losses = self.gradients(batches)
        loss = sum(losses.values())
        if not math.isfinite(loss):
            raise MasklineError(
                f"the loss became {loss} at step {self.progress.steps}: lower the learning rate, or use fp32; "
                f"checkpoints in {self.settings.output} are sound"
            )
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.state.average is not None:
            self.state.average.update(self.network)
        return losses

    def gradients(self, batches: list[Batch]) -> dict[str, float]:
        """Add to the gradients what some batches of a step give. Returns the parts of the loss, means over processes.

        What is drawn at random in a step depends on the seed, the step and the process alone.
        """
        torch.manual_seed(hash((self.settings.seed, self.progress.steps, self.accelerator.process_index)))
        total: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with self._synchronised(i + 1 == len(batches)):  # mixed precision is the prepared module's own
                images, targets = to_device(batch, self.accelerator.device)
                parts = {name: part / len(batches) for name, part in self.module(images, targets).items()}
            self.accelerator.backward(torch.stack(list(parts.values())).sum())
            total = {name: total.get(name, 0) + part.detach() for name, part in parts.items()}
        values = self._average(torch.stack(list(total.values())))
        return dict(zip(total, values.tolist(), strict=True))

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients of all but the last batch of a step need not cross processes."""
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def _average(self, x: Tensor) -> Tensor:
        """The mean over processes."""
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
        with averaged_weights(self.state):
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

    def _is_enough(self) -> bool:
        return self.settings.patience is not None and self.progress.since_best >= self.settings.patience

    def _save(self, folder: Path, *, resumable: bool = True, must: bool = False) -> None:
        """Write a checkpoint. That one can't be written ends a run only if it is the last."""
        if not self.is_first:
            return
        updates = 0 if self.state.average is None else self.state.average.updates
        scaler = {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        progress = replace(self.progress, updates=updates, scaler=scaler)
        try:
            checkpoint.save(folder, self.state, progress, self.job.labels, resumable=resumable)
        except OutputError as error:
            if must:
                raise OutputError(f"{error}; make room and resume, or export what there is") from None
            logger.warning("%s; training goes on, earlier checkpoints are whole", error)
            return
        logger.info("Save checkpoint: %s", folder)
        checkpoint.prune(self.settings.output, self.settings.keep)
        self.report()

    def report(self) -> None:
        """Tell the caller of `train` how far the run is."""
        if self.job.report is not None:
            self.job.report(TrainResult.of(self.settings, self.job.labels, self.progress))

    def _resume(self, folder: Path) -> None:
        progress = checkpoint.restore(folder, self.state)
        if progress.data != self.progress.data:
            raise ParameterError(
                f"{self.settings.data} is not the data set that the run in {folder.parent} was begun with: give that "
                f"one, or start a new run from {folder / folder.name}.safetensors"
            )
        self.progress = replace(progress, settings=asdict(self.settings))
        if self.accelerator.scaler is not None and self.progress.scaler:
            self.accelerator.scaler.load_state_dict(dict(self.progress.scaler))
        done = f"{self.progress.epochs} of {counted(self.settings.epochs, 'epoch')}"
        logger.info("resumed from %s: %s done", folder, done)

    def _loader(self) -> TrainingLoader:
        settings, row = self.settings, self.job.spec
        assert settings.batch_size is not None and settings.augment is not None
        return loader(
            self.job.train,
            row.preprocess,
            settings.augment,
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

    def _tell_skipped(self, batches: list[Batch]) -> None:
        for line in (line for batch in batches for line in batch.skipped):
            logger.warning("%s; training goes on without it", line)


def run(job: TrainingJob) -> Progress:
    """Train in this process."""
    accelerator = make_accelerator(job.settings)
    with LogFile() if accelerator.is_main_process else nullcontext() as file:
        for note in job.notes if file is not None else ():
            logger.warning("%s", note)
        training = Run(job, accelerator)
        if file is not None:  # only now, when nothing more can be wrong with what was asked for
            prepare_folder(training.settings, training.progress.epochs, reported=job.report is not None)
            training.report()
            file.open(training.settings.output)
        with closing(training.loader):
            training.train()
    return training.progress


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Where this process trains, together with the others, and in which precision."""
    AcceleratorState._reset_state(reset_partial_state=True)  # or a second run in a process would keep the first's
    return Accelerator(mixed_precision="no" if settings.precision == "fp32" else settings.precision)


def freeze(modules: Iterable[nn.Module]) -> None:
    """Let these stay as they are."""
    for module in modules:
        module.requires_grad_(False)


def train_mode(network: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Training mode, but not for what is frozen: its statistics stay too."""
    network.train()
    for module in frozen:
        module.eval()


class averaged_weights:  # noqa: N801 (a context, used like a function)
    """The network with its running average for weights, in evaluation mode; afterwards what it was, to the bit."""

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
    """Images and targets where they are needed."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    targets = [Target(moved(labels), moved(boxes), moved(masks), size) for labels, boxes, masks, size in batch.targets]
    return moved(batch.images), targets
