"""Classes that are not objects: background, ignored regions, and the unused parent class that Roboflow lists first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from maskline._wording import counted
from maskline.data.dataset import Dataset
from maskline.data.faults import Fault, Reading

#: Names that tools give to such classes, in lower case.
BACKGROUND_NAMES = ("_background_", "__background__", "background", "__ignore__")


def is_background(name: str) -> bool:
    """Whether a class name stands for background or ignored regions."""
    return name.strip().lower() in BACKGROUND_NAMES


def drop_background(reading: Reading) -> Reading:
    """Leave out classes that are not objects, with their annotations and a fault each. At least one class is kept."""
    names = {category.name for dataset in reading.splits.values() for category in dataset.categories}
    parent = _parent(reading.splits, {name for name in names if not is_background(name)})
    left_out = {name for name in names if is_background(name) or name == parent}
    if not left_out or left_out == names:
        return reading
    splits, faults = {}, list(reading.faults)
    for split, dataset in reading.splits.items():
        ids = {category.id: category.name for category in dataset.categories if category.name in left_out}
        lost = Counter(ids[a.category_id] for a in dataset.annotations if a.category_id in ids)
        for name in ids.values():
            why = "the parent of all other classes" if name == parent else "background or ignored, by its name"
            what = f"class {name!r} is {why}: left out with {counted(lost[name], 'annotation')}"
            faults.append(Fault("category-no-object", split, dataset.source.name, what, lost=lost[name]))
        splits[split] = replace(
            dataset,
            categories=tuple(category for category in dataset.categories if category.id not in ids),
            annotations=[a for a in dataset.annotations if a.category_id not in ids] if lost else dataset.annotations,
        )
    return replace(reading, splits=splits, faults=faults)


def _parent(splits: Mapping[str, Dataset], names: set[str]) -> str | None:
    """The class without annotations that is the supercategory of all others."""
    parents: dict[str, set[object]] = {}
    used: set[str] = set()
    for dataset in splits.values():
        ids = {annotation.category_id for annotation in dataset.annotations}
        for category in dataset.categories:
            parents.setdefault(category.name, set()).add(str(category.extra.get("supercategory")))
            if category.id in ids:
                used.add(category.name)
    for name in names - used:
        others = names - {name}
        if others and all(parents[other] == {name} for other in others):
            return name
    return None
