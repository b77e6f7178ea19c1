"""What a person sees of long work on a terminal: a bar or a spinner on standard error, below what is printed.

What is printed meanwhile, to standard output or error, and what is logged comes out as it was written: one bar for all
commands, and nothing else knows of rich.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from threading import RLock
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from maskline._wording import shortened

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")

logger = logging.getLogger("maskline")

_lock = RLock()  # one thread at a time takes the bar away, prints, and brings it back
_shown: list[Progress] = []  # the last one is on the terminal


def track(items: Iterable[T], what: str, total: int | Callable[[], int | None] | None) -> Generator[T, None, None]:
    """The items, with a bar that follows them.

    Args:
        what: the work, in a word or two.
        total: how many there are, None where nobody knows; a function is only called if there is a bar.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    with steps_bar() as bar:
        task = bar.add_task(what, total=total() if callable(total) else total)
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def status(text: str) -> Iterator[None]:
    """A spinner beside a line of text, while work goes on whose length nobody knows; elsewhere a line in the log."""
    if not sys.stderr.isatty():
        logger.info("%s", text)
        yield
        return
    from rich.progress import SpinnerColumn, TextColumn

    with shown_bar(SpinnerColumn(), TextColumn("{task.description}", markup=False)) as bar:
        bar.add_task(text, total=None)
        yield


@contextmanager
def steps_bar(*, transient: bool = True) -> Iterator[Progress]:
    """A bar that counts, with the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", markup=False)
    with shown_bar(description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=transient) as bar:
        yield bar


@contextmanager
def shown_bar(*columns: ProgressColumn, transient: bool = True) -> Iterator[Progress]:
    """A bar of these columns on standard error, in the place of one that is shown already.

    Args:
        transient: it goes when the work is done, rather than stay as it was last.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=_unwrapped(sys.stderr))
    bar = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False, transient=transient)
    streams = [_AboveBar(stream, bar) if stream is not None else None for stream in (sys.stdout, sys.stderr)]
    with _hidden(_shown[-1:]), redirect_stdout(cast(TextIO, streams[0])), redirect_stderr(cast(TextIO, streams[1])):
        _shown.append(bar)
        try:
            with bar:
                yield bar
        finally:
            _shown.remove(bar)
            for stream in filter(None, streams):
                stream.finish()


class _AboveBar:
    """Stands in for a stream while a bar is shown: whole lines go to the stream, untouched, above the bar."""

    def __init__(self, stream: TextIO, bar: Progress) -> None:
        self.stream, self._bar, self._begun = stream, bar, ""

    def write(self, text: str) -> int:
        with _lock:
            lines, newline, self._begun = (self._begun + text).rpartition("\n")
            if newline:
                with _hidden([self._bar] if self.stream.isatty() else []):
                    self.stream.write(lines + newline)
                    self.stream.flush()
        return len(text)

    def finish(self) -> None:
        """Write the line that was begun; the bar has gone."""
        with _lock:
            self.stream.write(self._begun)
            self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _hidden(bars: Sequence[Progress]) -> Iterator[None]:
    """Take bars that are shown away for a while, so that something else can be."""
    shown = [(bar, bar.live.transient) for bar in bars if bar.live.is_started]
    for bar, _ in shown:
        bar.live.transient = True
        bar.stop()
    try:
        yield
    finally:
        for bar, transient in shown:
            bar.live.transient = transient
            bar.start()


def _unwrapped(stream: TextIO) -> TextIO:
    return _unwrapped(stream.stream) if isinstance(stream, _AboveBar) else stream


class _Lines(logging.Handler):
    """Writes to whatever standard error is at the time, so that records go above a bar too."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # nobody can be told that nobody can be told
            if sys.stderr is not None:
                print(self.format(record), file=sys.stderr)


class _Words(logging.Formatter):
    """Messages as they can be read on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return shortened(super().format(record))


def log_to_terminal() -> None:
    """Have what is logged go to standard error: warnings, and what a command lets through besides."""
    handler = _Lines()
    handler.setFormatter(_Words("maskline: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
