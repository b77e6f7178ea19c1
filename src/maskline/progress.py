"""What a person sees of long work: a bar or a turning sign on standard error, and nothing where that is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | Callable[[], int | None] | None) -> Iterator[T]:
    """The items, with a bar that follows them.

    Args:
        what: the work, in a word or two.
        total: how many there are, None where nobody knows; a function is only called if there is a bar.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    with new_bar(transient=True) as bar:
        yield from bar.track(items, total=total() if callable(total) else total, description=what)


def new_bar(*, transient: bool) -> Progress:
    """A bar on standard error that has not been started; ``transient``: it goes when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    terminal = sys.stdout.isatty()  # only then may lines be printed around the bar
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=terminal, transient=transient)


@contextmanager
def status(text: str) -> Iterator[None]:
    """A line that turns while work goes on whose length nobody knows."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
