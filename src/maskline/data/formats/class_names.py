"""Names of classes as a format can hold them: what a name has to become, and that it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count


def fit_names(names: Iterable[str], fit: Callable[[str], str]) -> dict[str, str]:
    """By name what it becomes: what ``fit`` makes of it, with a number where another has become that already.

    Names that need no change keep their own, wherever they stand in the list.
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
    """A name on one line, without spaces round it or several in a row, as a line of a text can hold it."""
    return " ".join(name.split())


def renamed_note(labels: dict[str, str], why: str) -> list[str]:
    """The note on names that have changed; none where none has."""
    changed = [f"{old!r} as {new!r}" for old, new in labels.items() if old != new]
    return [f"classes renamed {why}: {', '.join(changed)}"] if changed else []
