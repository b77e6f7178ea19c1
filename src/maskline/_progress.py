"""Progress bars and spinners on stderr; silent if it is not a terminal.

Output and log records written meanwhile appear unchanged above the bar. All commands share these bars, and no other
module imports rich's progress display for itself.
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

_lock = RLock()  # one thread at a time hides the bar, prints, and shows it again
_shown: list[Progress] = []  # the last one is visible


def track(items: Iterable[T], what: str, total: int | Callable[[], int | None] | None) -> Generator[T, None, None]:
    """Iterate over items with a progress bar.

    Args:
        what: label of the bar, a word or two.
        total: number of items, None if unknown; a function is called only if a bar is shown.
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
def status(text: str, level: int = logging.INFO) -> Iterator[None]:
    """Show a spinner with a line of text during work of unknown length; without a terminal, log the text."""
    if not sys.stderr.isatty():
        logger.log(level, "%s", text)
        yield
        return
    from rich.progress import SpinnerColumn, TextColumn

    with shown_bar(SpinnerColumn(), TextColumn("{task.description}", markup=False)) as bar:
        bar.add_task(text, total=None)
        yield


@contextmanager
def steps_bar(*, transient: bool = True) -> Iterator[Progress]:
    """Show a bar with a count and the remaining time."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", markup=False)
    with shown_bar(description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=transient) as bar:
        yield bar


@contextmanager
def shown_bar(*columns: ProgressColumn, transient: bool = True) -> Iterator[Progress]:
    """Show a bar with these columns on stderr, in place of one already shown.

    Args:
        transient: remove the bar when the work is done.
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
    """Replaces a stream while a bar is shown: complete lines go to the stream, unchanged, above the bar."""

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
        """Write the pending partial line, once the bar is gone."""
        with _lock:
            self.stream.write(self._begun)
            self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _hidden(bars: Sequence[Progress]) -> Iterator[None]:
    """Hide bars temporarily, so that something else can be written."""
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
    """Writes to the current `sys.stderr`, so that records too go above a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # stderr is closed or broken: there is nowhere left to report it
            if sys.stderr is not None:
                print(self.format(record), file=sys.stderr)


class _Words(logging.Formatter):
    """Shortens messages for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return shortened(super().format(record))


def log_to_terminal() -> None:
    """Send log records to stderr: warnings, and lower levels that a command enables."""
    handler = _Lines()
    handler.setFormatter(_Words("maskline: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
