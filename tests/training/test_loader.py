"""The same batches whatever the workers, the processes, or where an epoch starts; and no image stops a run."""

from __future__ import annotations

import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.spies import noting
from PIL import Image

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.reading import load_splits
from maskline.errors import DatasetError, ParameterError
from maskline.masks import rle_encode
from maskline.models.network import Target
from maskline.preprocess import Preprocess
from maskline.training import loader as loaders
from maskline.training.augment import Augment
from maskline.training.loader import Batch, LoaderError, TrainingLoader, make_loader
from maskline.training.samples import read_original

SHARED = Path(__file__).parents[3] / "shared" / "data"
SQUARE = Preprocess(64, 64)
KEEPS = Preprocess(40, 70, keep_ratio=True, pad_stride=32)
UNPADDED = replace(KEEPS, pad_stride=0)
ALL = Augment(
    distort=0.8, expand=0.5, crop=0.8, flip_vertical=0.5, rotate90=0.5, copy_paste=0.5, jitter=(0.5, 2), sizes=(64, 96)
)
IMAGES = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Images that differ by their colour, each with as many objects as its number modulo 4."""
    folder = tmp_path_factory.mktemp("images")
    records: list[ImageRecord] = []
    annotations: list[Annotation] = []
    for i in range(IMAGES):
        height, width = 40 + 2 * i, 70 - 2 * i
        Image.fromarray(np.full((height, width, 3), 20 * i + 10, np.uint8)).save(folder / f"{i}.png")
        records.append(ImageRecord(i, f"{i}.png", width, height))
        for k in range(i % 4):
            mask = np.zeros((height, width), np.uint8)
            mask[5 + 8 * k : 12 + 8 * k, 10:30] = 1
            corners = np.array([[10, 5], [30, 5], [30, 12], [10, 12]]) + np.array([0, 8.0 * k])
            shape = rle_encode(mask) if k % 2 else (corners,)
            annotations.append(Annotation(len(annotations), i, "ab"[k % 2], shape))
    return Dataset("train", folder, records, annotations, (Category("a", "a"), Category("b", "b")))


def make(data: Dataset, augment: Augment = ALL, preprocess: Preprocess = SQUARE, **how: int) -> TrainingLoader:
    options = {"batch_size": 2, "seed": 3, "workers": 0} | how
    return make_loader(data, preprocess, augment, **options)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    sizes = ([target.size for target in batch.targets] for batch in (a, b))
    ours, theirs = ([batch.images, *(part for target in batch.targets for part in target[:3])] for batch in (a, b))
    return next(sizes) == next(sizes) and all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def all_same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def shades(batches: list[Batch]) -> list[int]:
    """Which images, by their colours."""
    return [(int(image.max()) - 10) // 20 for batch in batches for image in batch.images]


def damaged(data: Dataset, folder: Path, *broken: int) -> Dataset:
    for i in range(IMAGES):
        content = (data.folder / f"{i}.png").read_bytes()
        (folder / f"{i}.png").write_bytes(content[:60] if i in broken else content)
    return replace(data, folder=folder)


# ---- what a batch is


@pytest.mark.parametrize(
    "preprocess", [SQUARE, KEEPS, UNPADDED, replace(KEEPS, interpolation="linear", float_resize=True)]
)
def test_a_batch_of_one_is_what_the_model_gets_when_it_predicts(data: Dataset, preprocess: Preprocess) -> None:
    for batch in make(data, Augment(flip=0), preprocess, batch_size=1).epoch(0):
        number = round(float(batch.images.max()) - 10) // 20 if not preprocess.float_resize else None
        images = [np.asarray(Image.open(data.folder / f"{i}.png")) for i in range(IMAGES)]
        expected = [preprocess.apply(image)[0] for image in images]
        if number is not None:
            np.testing.assert_array_equal(batch.images[0].numpy(), expected[number])
        else:
            assert any(np.array_equal(batch.images[0].numpy(), image) for image in expected)


@pytest.mark.parametrize("preprocess", [KEEPS, UNPADDED])
def test_targets_fit_their_images(data: Dataset, preprocess: Preprocess) -> None:
    found, shapes = 0, set()
    for batch in make(data, Augment(), preprocess, batch_size=3).epoch(0):
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        assert tuple(batch.images.shape[1:3]) == padded([target.size for target in batch.targets], preprocess)
        shapes.add(batch.images.shape)
        for image, target in zip(batch.images, batch.targets, strict=True):
            number = shades([Batch(image[None], [], ())])[0]
            found += len(target.labels)
            assert len(target.labels) == number % 4
            assert target.size == preprocess.resized(*data.images[number].size)
            fits(image, target)
    assert found >= 9 and len(shapes) > 1


def padded(sizes: list[tuple[int, int]], preprocess: Preprocess) -> tuple[int, int]:
    """The (height, width) of a batch of images."""
    stride = preprocess.pad_stride or 1
    height, width = (-(-max(sides) // stride) * stride for sides in zip(*sizes, strict=True))
    return height, width


def fits(image: torch.Tensor, target: Target) -> None:
    """Objects within an image of the size stated, which has no black pixel, and zeros about it."""
    (labels, boxes, masks, (height, width)), n = target, len(target.labels)
    assert (type(target.size), type(height), type(width)) == (tuple, int, int)
    assert (labels.dtype, boxes.dtype, masks.dtype) == (torch.int64, torch.float32, torch.uint8)
    assert (boxes.shape, masks.shape) == ((n, 4), (n, *image.shape[:2]))
    assert image[:height, :width].amax(2).min() > 0
    assert not image[height:].any() and not image[:, width:].any()
    assert not masks[:, height:].any() and not masks[:, :, width:].any()
    for box, mask in zip(boxes, masks, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@pytest.mark.parametrize(
    "augment",
    [
        Augment(flip=1, flip_vertical=1),
        Augment(flip=0.5, rotate90=1),
        Augment(distort=0.5, expand=0.5, crop=0.5, copy_paste=1),
        Augment(copy_paste=1, sizes=(32, 64), rotate90=0.5),
    ],
)
def test_augmented_images_of_several_shapes_in_a_batch(data: Dataset, augment: Augment) -> None:
    """Whatever is done to them, each keeps its own size, and batches are at most as large as the largest."""
    mixed = found = 0
    for epoch in range(3):
        for batch in make(data, augment, UNPADDED, batch_size=3).epoch(epoch):
            sizes = [target.size for target in batch.targets]
            assert tuple(batch.images.shape[1:3]) == padded(sizes, UNPADDED)
            mixed += len(set(sizes)) > 1
            found += sum(len(target.labels) for target in batch.targets)
            for image, target in zip(batch.images, batch.targets, strict=True):
                fits(image, target)
    assert mixed > 2 and found > 20


def test_sizes_are_of_the_short_side_where_the_ratio_is_kept(data: Dataset) -> None:
    sides = set()
    for batch in make(data, Augment(sizes=(32, 64)), UNPADDED, batch_size=3).epoch(0):
        (side,) = (s for s in (32, 64) if all(t.size in expected_sizes(data, s) for t in batch.targets))
        sides.add(side)
        assert all(min(target.size) <= side and max(target.size) <= 70 for target in batch.targets)
    assert sides == {32, 64}


def expected_sizes(data: Dataset, side: int) -> set[tuple[int, int]]:
    """What images become with that short side, and a long side of 70 at most."""
    return {replace(UNPADDED, height=side).resized(*record.size) for record in data.images}


@pytest.mark.parametrize("preprocess", [UNPADDED, KEEPS, replace(KEEPS, pad_stride=640)])
def test_jitter_fills_the_input_whatever_the_padding(data: Dataset, preprocess: Preprocess) -> None:
    """A square of one of the sizes; without sizes, the preprocess's own height and width."""
    augment = Augment(jitter=(0.3, 2), rotate90=0.5, copy_paste=0.5, sizes=(64, 96))
    for batch in make(data, augment, preprocess, batch_size=3).epoch(0):
        _, height, width, _ = batch.images.shape
        assert height == width and height in (64, 96)
        assert {target.size for target in batch.targets} == {(height, width)}
    for batch in make(data, replace(augment, sizes=()), preprocess, batch_size=3).epoch(0):
        assert {target.size for target in batch.targets} == {(40, 70)}
        assert tuple(batch.images.shape[1:3]) == padded([(40, 70)], preprocess)


def test_normalised_images_are_padded_with_zeros(data: Dataset) -> None:
    """Which is what the network pads with; a black pixel is none."""
    preprocess = replace(UNPADDED, float_resize=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), interpolation="linear")
    for batch in make(data, Augment(), preprocess, batch_size=IMAGES).epoch(0):
        for image, target in zip(batch.images, batch.targets, strict=True):
            height, width = target.size
            assert image[:height, :width].any(2).all()
            assert not image[height:].any() and not image[:, width:].any()
        assert len({target.size for target in batch.targets}) > 1


def test_every_image_once_in_an_order_of_its_own(data: Dataset) -> None:
    epochs = make(data, Augment(), batch_size=1)
    orders = [shades(list(epochs.epoch(epoch))) for epoch in (0, 1, 0)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(IMAGES))
    assert orders[0] == orders[2] != orders[1]
    assert shades(list(make(data, Augment(), batch_size=1, seed=4).epoch(0))) != orders[0]


def test_an_incomplete_batch_is_left_out_unless_it_is_the_only_one(data: Dataset) -> None:
    assert (len(make(data, batch_size=4)), len(make(data, batch_size=2, processes=2))) == (2, 2)
    small = data.select(data.images[:3])
    assert len(make(small, batch_size=2, processes=2)) == 1
    (batch,) = make(small, Augment(jitter=(0.5, 2)), batch_size=8).epoch(0)
    assert len({image.numpy().tobytes() for image in batch.images}) == 8  # three images, each time seen differently


def test_background_stays_unless_unwanted(data: Dataset) -> None:
    assert any(not len(target.labels) for batch in make(data, Augment()).epoch(0) for target in batch.targets)
    kept = shades(list(make(data, Augment(), batch_size=1, drop_background=True).epoch(0)))
    assert sorted(kept) == [i for i in range(IMAGES) if i % 4]


def test_batches_without_any_object(data: Dataset) -> None:
    empty = data.select([image for image in data.images if not data.of(image)])
    (batch,) = make(empty, batch_size=3).epoch(0)
    assert [len(target.labels) for target in batch.targets] == [0, 0, 0]
    assert batch.targets[0].masks.shape == (0, *batch.images.shape[1:3])


def test_a_batch_has_one_of_the_sizes(data: Dataset) -> None:
    augment = Augment(sizes=(32, 64, 96))
    found = [{tuple(b.images.shape[1:3]) for b in make(data, augment).epoch(epoch)} for epoch in range(4)]
    assert set.union(*found) == {(32, 32), (64, 64), (96, 96)}


# ---- the same whatever the workers, the processes, the start


@pytest.mark.parametrize(
    ("preprocess", "augment"), [(SQUARE, ALL), (KEEPS, ALL), (UNPADDED, replace(ALL, jitter=None))]
)
def test_workers_change_nothing(data: Dataset, preprocess: Preprocess, augment: Augment) -> None:
    alone = [list(make(data, augment, preprocess).epoch(epoch)) for epoch in (0, 1)]
    helped = make(data, augment, preprocess, workers=2)
    assert all_same(alone[0], list(helped.epoch(0)))
    assert all_same(alone[1][2:], list(helped.epoch(1, start=2)))
    next(iter(helped.epoch(0)))  # left in the middle
    assert all_same(alone[1], list(helped.epoch(1)))
    assert not all_same(alone[0], alone[1])


def test_resuming_gives_the_rest_and_reads_no_more(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(make(data).epoch(2))
    reads: list[Any] = []
    monkeypatch.setattr(loaders, "read_original", noting(reads, read_original))
    rest = list(make(data).epoch(2, start=3))
    assert all_same(whole[3:], rest)
    assert 2 * len(rest) <= len(reads) <= 4 * len(rest)
    assert list(make(data).epoch(2, start=5)) == []


@pytest.mark.parametrize("preprocess", [SQUARE, Preprocess(64, 96)])
def test_processes_share_a_batch_in_order(data: Dataset, preprocess: Preprocess) -> None:
    whole = list(make(data, preprocess=preprocess, batch_size=4).epoch(1))
    parts = [list(make(data, preprocess=preprocess, process=p, processes=2).epoch(1)) for p in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        joined = Batch(torch.cat([s.images for s in shares]), [t for s in shares for t in s.targets], ())
        assert same(batch, joined)


def test_a_copy_in_another_process_makes_the_same(data: Dataset) -> None:
    plan = make(data).plan
    copy = pickle.loads(pickle.dumps(plan))
    pairs = zip(plan.batch(0, 1), copy.batch(0, 1), strict=True)
    assert sum(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor)) == 5


def test_torchs_own_random_numbers_are_left_alone(data: Dataset) -> None:
    before = torch.get_rng_state()
    list(make(data, workers=1).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


# ---- what can go wrong


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_reported_once_and_replaced(data: Dataset, tmp_path: Path, workers: int) -> None:
    broken = make(damaged(data, tmp_path, 4), Augment(), workers=workers)
    epochs = [list(broken.epoch(epoch)) for epoch in range(3)]
    reported = [line for epoch in epochs for batch in epoch for line in batch.skipped]
    assert len(reported) == 1
    assert reported[0].startswith("4.png is left out: ")
    assert all(len(batch.images) == 2 for epoch in epochs for batch in epoch)
    assert 4 not in {shade for epoch in epochs for shade in shades(epoch)}
    again = list(make(damaged(data, tmp_path, 4), Augment()).epoch(1))
    assert all_same(again, epochs[1])


def test_a_batch_of_broken_images_is_filled_from_others(data: Dataset, tmp_path: Path) -> None:
    broken = make(damaged(data, tmp_path, *range(10)), Augment(copy_paste=1), batch_size=4)
    batches = list(broken.epoch(0))
    assert {*shades(batches)} == {10}
    assert len({line for batch in batches for line in batch.skipped}) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_to_read_ends_the_run_with_one_line(data: Dataset, tmp_path: Path, workers: int) -> None:
    with pytest.raises(DatasetError, match=r"^none of 11 images .* can be read, the first: \d+.png") as info:
        list(make(replace(data, folder=tmp_path), workers=workers).epoch(0))
    assert "\n" not in str(info.value)


def test_a_killed_worker_ends_the_run_with_one_line(data: Dataset) -> None:
    batches = make(data, workers=1, batch_size=1)
    started = time.monotonic()
    with pytest.raises(LoaderError, match="was killed, as happens when memory") as info:
        for number, _ in enumerate(batches.epoch(0)):
            if number == 1:
                (worker,) = batches._loader._iterator._workers  # type: ignore[union-attr]
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
    assert "\n" not in str(info.value)
    assert time.monotonic() - started < 20
    assert "torch" not in getattr(signal.getsignal(signal.SIGCHLD), "__module__", "")  # whose handler raises anywhere


def test_a_fault_of_our_own_is_not_taken_for_a_killed_worker(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(loaders, "read_original", fail)  # workers are forked: they have it too
    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="a bug") as info:
            next(make(data, workers=workers).epoch(0))
        assert not isinstance(info.value, LoaderError)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"process": 2, "processes": 2}, "process is 2: expected one of 2, counted from 0"),
        ({"processes": 0}, "processes is 0"),
    ],
)
def test_numbers_out_of_range(data: Dataset, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make(data, ALL, SQUARE, **wrong)


def test_nothing_to_train_on(data: Dataset) -> None:
    with pytest.raises(DatasetError, match="has no images: there is nothing to train on"):
        make(data.select([]))
    with pytest.raises(DatasetError, match="has no images with objects"):
        make(data.select(data.images[:1]), drop_background=True)


# ---- real data


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_photos_keep_their_objects() -> None:
    data = load_splits(SHARED / "coco_sample")["val"]
    batches = make_loader(data, Preprocess(640, 640), Augment(flip=0), batch_size=4, seed=0, workers=0)
    seen = 0
    for _, batch in zip(range(3), batches.epoch(0), strict=False):
        for target in batch.targets:
            seen += len(target.labels)
            assert (target.masks.flatten(1).sum(1) >= 2).all()
            assert (target.labels < len(data.categories)).all()
    assert seen > 20
    everything = sum(
        len(data.instances(data.images[index], crowd=False))
        for position in range(12)
        for index in [next(batches.plan.candidates(0, position))]
    )
    assert seen == everything
