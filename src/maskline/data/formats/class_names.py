"""Adapt class names to the restrictions of a format, and report the changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count


def fit_names(names: Iterable[str], fit: Callable[[str], str]) -> dict[str, str]:
    """Map each name to ``fit(name)``, with a number appended if that is already taken.

    Names that ``fit`` leaves unchanged are kept, whatever their position.
    """
    own = dict.fromkeys(names)
    found = {name: name for name in own if fit(name) == name}
    taken = set(found)
    for name in own:
        if name not in found:
            base = fit(name)
            found[name] = next(new for n in count(1) if (new := f"{base} {n}" if n > 1 else base) not in taken)
            taken.add(found[name])
    return {name: found[name] for name in own}


def one_line(name: str) -> str:
    """A name on one line, with whitespace stripped and collapsed."""
    return " ".join(name.split())


def renamed_note(labels: dict[str, str], why: str) -> list[str]:
    """At most one note, listing the changed names."""
    changed = [f"{old!r} as {new!r}" for old, new in labels.items() if old != new]
    return [f"classes renamed {why}: {', '.join(changed)}"] if changed else []
