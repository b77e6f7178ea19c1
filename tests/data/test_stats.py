"""The numbers of a split: counted by hand, and in agreement with each other whatever the set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.formats.coco import coco_json
from maskline.data.shapes import to_rle
from maskline.data.stats import by_frequency, class_names, statistics

REAL = Path(__file__).parents[3] / "shared" / "data"


def rectangle(width: float, height: float, x: float = 0, y: float = 0) -> np.ndarray:
    return np.asarray([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float64)


def dataset(shapes: list[tuple[int, int, tuple[np.ndarray, ...]]], images: int = 3, classes: int = 2) -> Dataset:
    """A data set of ``(image, class, polygons)``."""
    return Dataset(
        split="train",
        folder=Path(),
        images=[ImageRecord(number, f"{number}.png", 200, 100) for number in range(images)],
        annotations=[Annotation(n, image, 10 + label, rings) for n, (image, label, rings) in enumerate(shapes)],
        categories=[Category(10 + label, f"class {label}") for label in range(classes)],
    )


def test_counts_by_hand() -> None:
    square = (rectangle(5, 5),)
    found = dataset([(0, 0, square), (0, 1, square), (0, 1, square), (1, 1, (rectangle(5, 5), rectangle(2, 2, 20)))])
    numbers = statistics(found)
    assert (numbers.images, numbers.instances, numbers.background, numbers.crowds) == (3, 4, 1, 0)
    assert numbers.class_instances.tolist() == [1, 3]
    assert numbers.class_images.tolist() == [1, 2]
    assert numbers.per_image.tolist() == [3, 1, 0]
    assert numbers.areas.tolist() == [25, 25, 25, 29]
    assert (numbers.run_lengths, numbers.several_parts) == (0, 1)
    assert numbers.by_name() == {"class 0": (1, 1), "class 1": (3, 2)}


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(33, 31, "small"), (32, 32, "medium"), (97, 95, "medium"), (96, 96, "large")],
)
def test_size_classes_begin_at_cocos_limits(width: int, height: int, size: str) -> None:
    numbers = statistics(dataset([(0, 0, (rectangle(width, height),))]))
    assert numbers.sizes == {"small": 0, "medium": 0, "large": 0} | {size: 1}


def test_crowds_are_counted_apart() -> None:
    found = dataset([(0, 0, (rectangle(5, 5),)), (1, 1, (rectangle(50, 50),))])
    found = replace(found, annotations=[found.annotations[0], replace(found.annotations[1], crowd=True)])
    numbers = statistics(found)
    assert (numbers.instances, numbers.crowds, numbers.background) == (1, 1, 1)  # a crowd is not background
    assert numbers.class_instances.tolist() == [1, 0]
    assert numbers.class_images.tolist() == [1, 0]
    assert numbers.sizes["medium"] == 0


def test_run_lengths_and_masks_without_pixels() -> None:
    found = dataset([(0, 0, (rectangle(4, 3),)), (0, 0, (rectangle(5, 5, 900, 900),))])
    rle = to_rle(found.annotations[0].segmentation, (100, 200))
    found = replace(found, annotations=[replace(found.annotations[0], segmentation=rle), found.annotations[1]])
    numbers = statistics(found)
    assert numbers.areas.tolist() == [12, 0]
    assert numbers.run_lengths == 1


def test_image_sizes_most_frequent_first() -> None:
    found = dataset([])
    images = [replace(image, width=width) for image, width in zip(found.images, (50, 40, 40), strict=True)]
    numbers = statistics(replace(found, images=images))
    assert list(numbers.image_sizes.items()) == [((40, 100), 2), ((50, 100), 1)]


def test_nothing_at_all() -> None:
    numbers = statistics(dataset([], images=0, classes=0))
    assert numbers.instances == numbers.images == 0
    assert numbers.sizes == {"small": 0, "medium": 0, "large": 0}
    assert numbers.as_dict()["instances_per_image"] == {"min": 0, "median": 0, "mean": 0, "max": 0}


def test_as_dict_is_json_and_complete() -> None:
    content = json.loads(json.dumps(statistics(dataset([(0, 1, (rectangle(40, 40),))])).as_dict()))
    assert content["classes"] == [
        {"name": "class 0", "instances": 0, "images": 0},
        {"name": "class 1", "instances": 1, "images": 1},
    ]
    assert content["area"] == {"min": 1600, "median": 1600.0, "mean": 1600.0, "max": 1600}
    assert content["image_sizes"] == [{"width": 200, "height": 100, "images": 3}]
    assert (content["polygons"], content["run_lengths"]) == (1, 0)


def test_classes_of_one_name_are_added_up() -> None:
    found = dataset([(0, 0, (rectangle(5, 5),)), (1, 1, (rectangle(5, 5),))])
    twins = [replace(category, name="twin") for category in found.categories]
    assert statistics(replace(found, categories=twins)).by_name() == {"twin": (2, 2)}


def test_order_of_classes_over_splits() -> None:
    square = (rectangle(5, 5),)
    train = dataset([(0, 2, square), (0, 2, square), (0, 0, square)], classes=4)
    val = dataset([(0, 3, square), (0, 1, square), (1, 1, square)], classes=5)
    numbers = {"train": statistics(train), "val": statistics(val)}
    names = class_names(numbers.values())
    assert names == [f"class {label}" for label in range(5)]
    assert by_frequency(numbers, names) == ["class 2", "class 0", "class 1", "class 3", "class 4"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 150), st.booleans()), max_size=12),
)
def test_numbers_agree(shapes: list[tuple[int, int, int, bool]]) -> None:
    found = dataset([(image, label, (rectangle(side, side),)) for image, label, side, _ in shapes], 4, 5)
    pairs = zip(found.annotations, shapes, strict=True)
    found = replace(found, annotations=[replace(annotation, crowd=crowd) for annotation, (*_, crowd) in pairs])
    numbers = statistics(found)
    assert numbers.instances + numbers.crowds == len(shapes)
    assert sum(numbers.sizes.values()) == numbers.class_instances.sum() == numbers.per_image.sum() == numbers.instances
    assert (numbers.class_images <= numbers.class_instances).all()
    assert numbers.background == 4 - len({image for image, *_ in shapes})


@pytest.mark.skipif(not REAL.exists(), reason="the real data sets are not here")
@pytest.mark.parametrize(
    ("name", "instances", "crowds", "classes"), [("nuclei", 22807, 0, 1), ("coco_sample", 696, 5, 80)]
)
def test_real_sets(name: str, instances: int, crowds: int, classes: int) -> None:
    root = REAL / name
    found, _, _ = coco_json.read(root / "annotations" / "instance_train.json", root / "images", "train")
    numbers = statistics(found)
    assert (numbers.instances, numbers.crowds, len(numbers.names)) == (instances, crowds, classes)
    assert numbers.areas.min() > 0
