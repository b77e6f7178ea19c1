"""Unify the category lists of splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from maskline.data.dataset import Category, Dataset, Id


def unify_categories(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Give all splits the same category list: that of the first, then those added by others, by name."""
    categories: dict[str, Category] = {}
    ids: set[Id] = set()
    for category in (category for dataset in splits.values() for category in dataset.categories):
        if category.name not in categories:
            key = category.id if category.id not in ids else _free_id(ids)
            categories[category.name] = replace(category, id=key)
            ids.add(key)
    return {split: _with_categories(dataset, categories) for split, dataset in splits.items()}


def _with_categories(dataset: Dataset, categories: Mapping[str, Category]) -> Dataset:
    new_ids = {category.id: categories[category.name].id for category in dataset.categories}
    annotations = dataset.annotations
    if any(old != new for old, new in new_ids.items()):
        annotations = [replace(a, category_id=new_ids[a.category_id]) for a in annotations]
    return replace(dataset, categories=tuple(categories.values()), annotations=annotations)


def _free_id(taken: Iterable[Id]) -> int:
    return max((key for key in taken if isinstance(key, int)), default=0) + 1
