"""Training batches, independent of the number of workers and processes, and of where an epoch is resumed.

Workers make masks in small windows; the training process expands them to the whole input, to keep shared memory small.
Every random draw has a key of its own: seed, epoch, purpose, position in the epoch.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from maskline._checks import check_count
from maskline._wording import counted
from maskline.data.dataset import Dataset, ImageRecord
from maskline.errors import DatasetError, InputError, MasklineError, ParameterError
from maskline.instances import IntArray
from maskline.models.network import Target
from maskline.preprocess import Preprocess, pad_to
from maskline.training.augment import Augment, pasted
from maskline.training.samples import Original, TrainingSample, objects, read_original, window_boxes

# Purposes of random draws.
ORDER, SIZE, SAMPLE, PASTE, REPLACEMENT = range(5)

Step: TypeAlias = tuple[int, int]  # epoch, and index of the batch in it


WORKER_DIED_HINT = (
    "a process that prepares training images was killed, as happens when memory or shared memory (/dev/shm) runs out: "
    "use fewer workers or smaller batches"
)


class LoaderError(MasklineError, RuntimeError):
    """A worker process has died."""


class Batch(NamedTuple):
    """A batch of one process.

    Attributes:
        images: (B, H, W, 3) RGB, uint8, or float32 normalised for ``float_resize`` models; as returned by
            `Preprocess.apply`. Zero-padded, right and below, to the largest.
        targets: one per image.
        skipped: a line per image that could not be read, reported once; another image replaces it.
    """

    images: Tensor
    targets: list[Target]
    skipped: tuple[str, ...]


class Packed(NamedTuple):
    """A batch as sent by a worker, with n objects in all."""

    images: Tensor  # (B, H, W, 3)
    sizes: Tensor  # (B, 2) int64 height and width of each image, before padding
    counts: tuple[int, ...]  # objects per image
    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32 x1 y1 x2 y2, integers: windows of the masks
    pixels: Tensor  # (sum of the windows' areas,) uint8, concatenated masks
    skipped: tuple[str, ...]


def make_loader(
    dataset: Dataset,
    preprocess: Preprocess,
    augment: Augment,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    process: int = 0,
    processes: int = 1,
    drop_background: bool = False,
) -> TrainingLoader:
    """Make the training loader of one process.

    Args:
        preprocess: of the model.
        batch_size: images per process; the global batch is ``processes`` times larger.
        seed: for all random draws, at least 0.
        workers: processes that prepare batches; 0: this process does.
        process: index of this process.
        drop_background: skip images without objects.

    Raises:
        DatasetError: there are no images, or none with objects if only those are used.
        ParameterError: a number is out of range.
    """
    check_count(batch_size, "batch_size")
    check_count(processes, "processes")
    for name, value, least in (("seed", seed, 0), ("workers", workers, 0), ("process", process, 0)):
        if value < least:
            raise ParameterError(f"{name} is {value}: expected an integer from {least}")
    if process >= processes:
        raise ParameterError(f"process is {process}: expected one of {processes}, counted from 0")
    with_objects = tuple(index for index, record in enumerate(dataset.images) if objects(dataset, record))
    chosen = with_objects if drop_background else tuple(range(len(dataset.images)))
    if not chosen:
        what = "images with objects" if drop_background else "images"
        raise DatasetError(f"split {dataset.split!r} of {dataset.source} has no {what}: there is nothing to train on")
    share = BatchShare(batch_size, process, processes)
    plan = Plan(dataset, chosen, with_objects, preprocess, augment, share, seed)
    return TrainingLoader(plan, workers)


class BatchShare(NamedTuple):
    """A process's share of a global batch: ``batch_size`` consecutive images."""

    batch_size: int
    process: int
    processes: int

    def batches(self, images: int) -> int:
        """Number of global batches in an epoch; an incomplete last one is dropped unless it is the only one."""
        return max(images // (self.batch_size * self.processes), 1)

    def positions(self, batch: int) -> range:
        """Positions in the epoch of this process's images in a global batch."""
        start = (batch * self.processes + self.process) * self.batch_size
        return range(start, start + self.batch_size)


@dataclass(frozen=True)
class Plan:
    """Everything that determines the content of batches; workers get a copy.

    Attributes:
        chosen: indices of the images to train on.
        with_objects: indices of the images to paste objects from.
    """

    dataset: Dataset
    chosen: tuple[int, ...]
    with_objects: tuple[int, ...]
    preprocess: Preprocess
    augment: Augment
    share: BatchShare
    seed: int

    def batch(self, epoch: int, number: int) -> Packed:
        """Prepare a batch. Raises DatasetError if no image can be read."""
        preprocess = self.augment.resized(self.preprocess, self.rng(epoch, SIZE, number))
        skipped: list[str] = []
        samples = [self.sample(epoch, position, preprocess, skipped) for position in self.share.positions(number)]
        return pack(samples, preprocess.pad_stride, skipped)

    def sample(self, epoch: int, position: int, preprocess: Preprocess, skipped: list[str]) -> TrainingSample:
        """Read and augment the image at a position of an epoch, or a replacement; adds to ``skipped``."""
        original = self.first_readable(self.candidates(epoch, position), skipped)
        if original is None:
            raise DatasetError(
                f"none of {counted(len(self.chosen), 'image')} to train on can be read, the first: {skipped[0]}"
            )
        sample = self.augment.sample(original, preprocess, self.rng(epoch, SAMPLE, position))
        rng = self.rng(epoch, PASTE, position)
        if self.with_objects and rng.random() < self.augment.copy_paste:
            other = self.first_readable([int(rng.choice(self.with_objects))], skipped)
            if other is not None:
                sample = pasted(sample, self.augment.sample(other, preprocess, rng), rng)
        return sample

    def candidates(self, epoch: int, position: int) -> Iterator[int]:
        """Yield the index of the image at a position, then all others in random order.

        Positions past the end, in sets smaller than a global batch, wrap around.
        """
        count = len(self.chosen)
        first = int(_order(self.seed, epoch, count)[position % count])
        yield self.chosen[first]
        for other in self.rng(epoch, REPLACEMENT, position).permutation(count).tolist():
            if other != first:
                yield self.chosen[other]

    def first_readable(self, indices: Iterable[int], skipped: list[str]) -> Original | None:
        """Return the first readable image; adds a line to ``skipped`` for each before it."""
        for index in indices:
            record = self.dataset.images[index]
            try:
                return read_original(self.dataset, record)
            except InputError as error:
                skipped.append(_line(record, error))
        return None

    def rng(self, epoch: int, purpose: int, number: int) -> np.random.Generator:
        """Random generator for a purpose at a position of an epoch."""
        return np.random.default_rng([self.seed, epoch, purpose, number])


def _line(record: ImageRecord, error: InputError) -> str:
    return f"{record.file_name} is left out: {error}"


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, count: int) -> IntArray:
    return np.random.default_rng([seed, epoch, ORDER, 0]).permutation(count)


# ---- packed and unpacked


def pack(samples: Sequence[TrainingSample], stride: int, skipped: Iterable[str] = ()) -> Packed:
    """Pack samples into a batch, padded to the largest image and to multiples of ``stride`` (0: none)."""
    height, width = (_multiple(max(sample.image.shape[axis] for sample in samples), stride) for axis in (0, 1))
    masks = [mask for sample in samples for mask in sample.masks]
    pixels = [mask.pixels.ravel() for mask in masks]
    return Packed(
        images=torch.from_numpy(np.stack([pad_to(sample.image, height, width) for sample in samples])),
        sizes=torch.tensor([sample.image.shape[:2] for sample in samples]),
        counts=tuple(len(sample.masks) for sample in samples),
        labels=torch.from_numpy(np.concatenate([sample.labels for sample in samples])),
        boxes=torch.from_numpy(window_boxes(masks)),
        pixels=torch.from_numpy(np.concatenate(pixels) if pixels else np.zeros(0, np.uint8)),
        skipped=tuple(dict.fromkeys(skipped)),
    )


def _multiple(length: int, stride: int) -> int:
    return -(-length // stride) * stride if stride > 1 else length


def unpack(packed: Packed) -> list[Target]:
    """Return the targets of a batch, with masks over the whole input."""
    height, width = packed.images.shape[1:3]
    windows = packed.boxes.to(torch.int64).tolist()
    masks = np.zeros((len(windows), height, width), np.uint8)  # NumPy allocates zeros lazily, PyTorch does not
    pixels, start = packed.pixels.numpy(), 0
    for mask, (left, top, right, bottom) in zip(masks, windows, strict=True):
        end = start + (bottom - top) * (right - left)
        mask[top:bottom, left:right] = pixels[start:end].reshape(bottom - top, right - left)
        start = end
    whole = packed.labels, packed.boxes, torch.from_numpy(masks)
    labels, boxes, split = (torch.split(part, list(packed.counts)) for part in whole)
    sizes = [(height, width) for height, width in packed.sizes.tolist()]
    return [Target(*target) for target in zip(labels, boxes, split, sizes, strict=True)]


# ---- in order, from workers


class TrainingLoader:
    """Epochs of batches; made by `make_loader`.

    Every epoch has its own order of images. An incomplete last global batch is dropped, so that all processes have
    equally many batches; a set smaller than one global batch is repeated to fill it.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        self.plan = plan
        self._steps = _Steps(len(self))
        self._reported: set[str] = set()
        self._loader = DataLoader(
            _Batches(plan),
            batch_size=None,
            sampler=self._steps,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each epoch would advance torch's global generator
        )

    def __len__(self) -> int:
        """Number of batches in an epoch, equal in all processes."""
        return self.plan.share.batches(len(self.plan.chosen))

    def close(self) -> None:
        """Stop the workers now, not at garbage collection. No epoch may follow."""
        del self._loader  # PyTorch stops them with the last reference

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch ``start``; earlier ones are not prepared.

        Raises:
            DatasetError: no image can be read.
            LoaderError: a worker has died.
        """
        self._steps.epoch, self._steps.start = epoch, start
        try:
            for packed in _begin(self._loader):
                yield self._unpack(packed)
        except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
            if not _is_worker_death(error):
                raise
            raise LoaderError(WORKER_DIED_HINT) from error

    def _unpack(self, packed: Packed | DatasetError) -> Batch:
        if isinstance(packed, DatasetError):
            raise packed
        news = tuple(line for line in packed.skipped if line not in self._reported)
        self._reported.update(news)
        return Batch(packed.images, unpack(packed), news)


def _begin(batches: DataLoader[Packed | DatasetError]) -> Iterator[Packed | DatasetError]:
    """Start an epoch without PyTorch's SIGCHLD handler, which raises a worker's death anywhere in the main thread.

    The next batch raises it anyway, within seconds.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return iter(batches)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(batches)
    finally:
        signal.signal(signal.SIGCHLD, handler if handler is not None else signal.SIG_DFL)


def _is_worker_death(error: Exception) -> bool:
    """Whether an error is a worker's death, not an error in a worker, which PyTorch raises with a traceback.

    PyTorch notices it as a RuntimeError, or by another error when it receives a tensor.
    """
    text = str(error)
    return "DataLoader worker (pid" in text if isinstance(error, RuntimeError) else not text.startswith("Caught ")


class _Steps:
    """Sampler of steps for a `DataLoader` that outlives its epochs."""

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[Step]:
        return ((self.epoch, number) for number in range(self.start, self.batches))


class _Batches(TorchDataset[Packed | DatasetError]):
    """Batches by step. Errors are returned, because PyTorch would wrap them in a worker's traceback."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __getitem__(self, step: Step) -> Packed | DatasetError:
        try:
            return self.plan.batch(*step)
        except DatasetError as error:
            return error


def _start_worker(worker: int) -> None:
    """Use one thread, and ignore interrupts: the main process stops its workers."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
