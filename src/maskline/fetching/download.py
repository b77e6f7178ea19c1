"""Download files into a cache that can be trusted: checked, resumed, never half written.

Beside a file ``NAME`` in the cache there may be ``NAME.sha256`` (what came, in the format of sha256sum), ``NAME.part``
and ``NAME.part.json`` (an unfinished download and where it comes from), ``NAME.version.json`` (what the server calls
the version it sent, where the file is kept up to date) and ``NAME.lock``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from maskline._checks import environment_switch
from maskline._progress import shown_bar
from maskline._wording import counted
from maskline.errors import DownloadError, ParameterError
from maskline.fetching.http import (
    PermanentError,
    TransientError,
    blocks,
    get,
    new_session,
    redacted,
    retry_after,
    scheme,
)

__all__ = ["fetch", "home", "offline"]

if TYPE_CHECKING:
    import requests

logger = logging.getLogger("maskline")

_CHUNK = 1 << 16  # bytes
_BACKOFF = 0.5  # seconds before the second attempt, doubled for each further one
_LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
_MAX_BYTES = 16 << 30
_CONDITIONS = {"If-None-Match", "If-Modified-Since"}


def home() -> Path:
    """The cache folder, absolute; not created here.

    ``MASKLINE_HOME``, else ``PADDLE_PDX_CACHE_HOME``, else ``maskline`` in ``XDG_CACHE_HOME``, else
    ``~/.cache/maskline``. Empty variables count as not set, and so does a relative ``XDG_CACHE_HOME``, as its
    specification wants.
    """
    for variable in ("MASKLINE_HOME", "PADDLE_PDX_CACHE_HOME"):
        if folder := os.environ.get(variable):
            return Path(folder).expanduser().absolute()
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "maskline"


def offline() -> bool:
    """Whether ``MASKLINE_OFFLINE`` forbids the network. A ParameterError if it is neither a yes nor a no."""
    return environment_switch("MASKLINE_OFFLINE")


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: bool | None = None,
    attempts: int = 5,
    timeout: float = 15.0,
    deadline: float | None = None,
    max_bytes: int = _MAX_BYTES,
    refresh: bool = False,
    advice: str | None = None,
) -> Path:
    """Download ``url`` to the file ``target``, unless a good copy is there already.

    A copy is good if it has the ``sha256`` given, else the one recorded when it was downloaded; without either it is
    trusted (someone put it there by hand). A damaged copy is downloaded again. An interrupted download goes on where it
    stopped, if the server still has the same file. Processes that want the same file wait for one another.

    Args:
        url: http or https.
        sha256: 64 hexadecimal digits.
        progress: a progress bar on stderr; None: if that is a terminal. Without a bar, lines in the log "maskline".
        attempts: how often to ask in all; faults that may pass (connection, silence, 408, 429, 5xx) are asked again.
        timeout: seconds of silence, when connecting and between bytes.
        deadline: seconds for all of it, from the first request on (not while waiting for another process); None: any
            number. What came by then is kept, to go on with.
        max_bytes: the largest file to accept.
        refresh: ask the server, also if there is a good copy, whether it has another version by now. Where
            ``MASKLINE_OFFLINE`` forbids that the copy is used, with a warning.
        advice: what to do if it fails, the end of the message; None: how to put a file there by hand.

    Returns:
        ``target``, a complete file. It is put in place in one step: at no time is half a file there.

    Raises:
        DownloadError: what failed, the URL, the path, and what to do instead, in one line.
        ParameterError: an argument makes no sense.
    """
    if scheme(url) not in ("http", "https"):
        raise ParameterError(f"can't download {url!r}: expected a URL that begins with http:// or https://")
    if attempts < 1 or (sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        given = f"got {attempts} and {sha256!r}"
        raise ParameterError(f"expected attempts >= 1 and a sha256 of 64 hexadecimal digits, {given}; correct them")
    show = sys.stderr.isatty() if progress is None else progress
    job = _Job(
        url=url,
        target=Path(target),
        sha256=sha256.lower() if sha256 else None,
        show=show,
        attempts=attempts,
        timeout=timeout,
        deadline=deadline,
        max_bytes=max_bytes,
        refresh=refresh,
        advice=advice,
    )
    try:
        return _fetch(job)
    except DownloadError:
        raise
    except OSError as error:
        raise job.failure(f"{error.strerror or error} ({error.filename or target})") from error


@dataclass(frozen=True)
class _Job:
    """What `fetch` was asked for, and the names of the files it uses."""

    url: str
    target: Path
    sha256: str | None
    show: bool
    attempts: int
    timeout: float
    deadline: float | None
    max_bytes: int
    refresh: bool
    advice: str | None

    def beside(self, suffix: str) -> Path:
        return self.target.with_name(self.target.name + suffix)

    def failure(self, reason: str) -> DownloadError:
        advice = self.advice or self._by_hand()
        return DownloadError(
            f"can't download {redacted(self.url)} to {self.target}: {' '.join(reason.split())}; {advice}"
        )

    def _by_hand(self) -> str:
        advice = f"download it by hand with a browser and put it at {self.target}"
        if self.beside(".sha256").exists():  # of an earlier copy: it would call the new one damaged
            advice += f" (and remove {self.beside('.sha256').name} beside it)"
        return f"{advice}, or name a file you have: --weights FILE of export, train and evaluate"


@dataclass(frozen=True)
class _Origin:
    """Where a partial file comes from: ``validator`` (ETag or date) tells whether the server still has the same."""

    url: str
    validator: str
    length: int  # bytes of the whole file


@dataclass(frozen=True)
class _Version:
    """What a server calls the file it sent: ``etag`` and ``modified`` as in its headers, empty where it has none."""

    url: str
    etag: str
    modified: str


def _fetch(job: _Job) -> Path:
    if not job.refresh and _is_good(job):
        return job.target
    if offline():
        if not job.refresh or not _is_good(job):
            raise job.failure("MASKLINE_OFFLINE forbids the network, and there is no good copy in the cache")
        logger.warning("MASKLINE_OFFLINE forbids to ask for %s: its copy of an earlier day is used", redacted(job.url))
        return job.target
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(job.beside(".lock")):
        good = _is_good(job)  # another process may have fetched it meanwhile
        if job.refresh or not good:
            _download(job, _conditions(job) if good else {})
    return job.target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("waiting for another process that downloads the same file (%s)", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_good(job: _Job) -> bool:
    """Whether ``target`` is there and has the digest it should have; says so aloud if it is damaged."""
    if job.target.is_dir():
        raise job.failure("there is a folder of that name")
    if not job.target.exists():
        return False
    record, expected = job.beside(".sha256"), job.sha256
    if expected is None and record.exists():
        expected = record.read_text("ascii", "replace").partition(" ")[0]
    if expected is None:
        return True
    found = _digest(job.target)
    if found != expected:
        logger.warning("%s is damaged or not the file expected (sha256 %s, not %s)", job.target, found, expected)
    return found == expected


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# From here on the lock is held.


def _download(job: _Job, conditions: dict[str, str]) -> None:
    """Put the file in place. With ``conditions``, headers of a request, the server may say that it is what we have."""
    logger.info("downloading %s to %s", redacted(job.url), job.target)
    ends = None if job.deadline is None else time.monotonic() + job.deadline
    with new_session() as session:
        for attempt in range(1, job.attempts + 1):
            try:
                _attempt(job, session, conditions, ends)
                return
            except PermanentError as error:
                raise job.failure(str(error)) from error
            except TransientError as error:
                if attempt == job.attempts:
                    raise job.failure(f"{error} (asked {counted(attempt, 'time')})") from error
                wait = min(_BACKOFF * 2 ** (attempt - 1) if error.wait is None else error.wait, _LONGEST_WAIT)
                _check_time(job, ends, wait, f"; {error}")
                logger.info("%s: %s; asking again in %.1f s", redacted(job.url), error, wait)
                time.sleep(wait)


def _check_time(job: _Job, ends: float | None, needed: float = 0.0, reason: str = "") -> None:
    """Raise a DownloadError if the end comes before ``needed`` seconds have passed."""
    if ends is not None and time.monotonic() + needed > ends:
        raise job.failure(f"it takes longer than {job.deadline:g} s{reason}")


def _attempt(job: _Job, session: requests.Session, conditions: dict[str, str], ends: float | None) -> None:
    """One request, from the answer to the file in place; raises what says whether to ask again."""
    part, origin = job.beside(".part"), _read_origin(job)
    have = part.stat().st_size if origin else 0
    headers = {"Accept-Encoding": "identity"}  # lengths are those of the file, then
    headers |= {"Range": f"bytes={have}-", "If-Range": origin.validator} if origin else conditions
    with contextlib.closing(get(session, job.url, headers, job.timeout, ends)) as response:
        _check_status(job, response, headers)
        if response.status_code == 304:
            return
        if response.status_code != 206:
            have = 0
        length = _promised(job, response, origin, have)
        _check_room(job, length, have)
        if not have:
            _write_origin(job, response, length)
        _receive(job, response, have, length, ends)
    size = part.stat().st_size
    if length is not None and size != length:
        _discard(job)
        raise TransientError(f"{counted(size, 'byte')} came, {length} were promised")
    _finish(job, part, resumed=have > 0)
    if job.refresh:
        _write_version(job, response)


def _finish(job: _Job, part: Path, resumed: bool) -> None:
    """Check the digest and move the file to its place; record the digest first, so that it never lags behind."""
    found = _digest(part)
    if job.sha256 not in (None, found):
        _discard(job)
        reason = f"its sha256 is {found}, expected {job.sha256}"
        # A file put together from two answers may be wrong where a fresh one is right.
        raise TransientError(reason) if resumed else job.failure(reason)
    record = job.beside(".sha256.new")
    record.write_text(f"{found}  {job.target.name}\n", "utf-8")
    record.replace(job.beside(".sha256"))
    job.beside(".version.json").unlink(missing_ok=True)  # of the old file: never beside a new one
    part.replace(job.target)
    job.beside(".part.json").unlink(missing_ok=True)


def _conditions(job: _Job) -> dict[str, str]:
    """Headers that ask for the file only if it is another version than ours; none if ours has no name."""
    try:
        version = _Version(**json.loads(job.beside(".version.json").read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    if version.url != job.url:
        return {}
    headers = {"If-None-Match": version.etag, "If-Modified-Since": version.modified}
    return {name: value for name, value in headers.items() if value}


def _write_version(job: _Job, response: requests.Response) -> None:
    version = _Version(job.url, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
    if version.etag or version.modified:
        job.beside(".version.json").write_text(json.dumps(asdict(version)), "utf-8")


def _check_status(job: _Job, response: requests.Response, asked: dict[str, str]) -> None:
    """Raise unless the answer brings what was asked for, or says that we have it."""
    status = response.status_code
    if status == 200 or (status == 206 and "Range" in asked) or (status == 304 and _CONDITIONS & asked.keys()):
        return
    reason = f"the server answers {status} {response.reason or ''}".rstrip()
    if status == 416:  # our part is longer than the file has become
        _discard(job)
        raise TransientError(reason, wait=0)
    if status in (408, 429) or status >= 500:
        raise TransientError(reason, retry_after(response.headers.get("Retry-After", "")))
    raise PermanentError(reason)


def _promised(job: _Job, response: requests.Response, origin: _Origin | None, have: int) -> int | None:
    """The length of the whole file, in bytes, as the answer tells it; None if it does not."""
    if not have or origin is None:
        length = response.headers.get("Content-Length", "")
        return int(length) if re.fullmatch("[0-9]{1,18}", length) else None
    etag = response.headers.get("ETag", origin.validator)
    asked = f"bytes {have}-{origin.length - 1}/{origin.length}"
    given = response.headers.get("Content-Range", "")
    if given != asked or (origin.validator.startswith('"') and etag != origin.validator):
        _discard(job)
        raise TransientError(f"the server sent another part than the one asked for ({given}, not {asked})", wait=0)
    return origin.length


def _check_room(job: _Job, length: int | None, have: int) -> None:
    if length is not None and length > job.max_bytes:
        raise job.failure(f"it has {length} bytes, more than the {job.max_bytes} allowed")
    free = shutil.disk_usage(job.target.parent).free
    if length is not None and length - have > free:
        raise job.failure(f"it needs {length - have} bytes, the disk has {free} free")


def _read_origin(job: _Job) -> _Origin | None:
    """The origin of the partial file, if it can be gone on with; else the partial file is removed."""
    part, note = job.beside(".part"), job.beside(".part.json")
    try:
        origin = _Origin(**json.loads(note.read_text("utf-8")))
        if origin.url == job.url and 0 < part.stat().st_size < origin.length:
            return origin
    except (FileNotFoundError, ValueError, TypeError):
        pass
    _discard(job)
    return None


def _write_origin(job: _Job, response: requests.Response, length: int | None) -> None:
    """Note where the file comes from, before the first byte of it is written; nothing if it can't be gone on with."""
    _discard(job)
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")  # a weak ETag won't do
    if validator and length:
        job.beside(".part.json").write_text(json.dumps(asdict(_Origin(job.url, validator, length))), "utf-8")


def _discard(job: _Job) -> None:
    for suffix in (".part", ".part.json"):
        job.beside(suffix).unlink(missing_ok=True)


def _receive(job: _Job, response: requests.Response, have: int, length: int | None, ends: float | None) -> None:
    """Append the body to the partial file, which has ``have`` bytes, and see it safe on the disk."""
    with job.beside(".part").open("ab") as file, _progress(job, have, length) as advance:
        for block in blocks(response, _CHUNK):
            have += len(block)
            if have > job.max_bytes:
                _discard(job)
                raise job.failure(f"more than the {job.max_bytes} bytes allowed came")
            file.write(block)
            _check_time(job, ends)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _progress(job: _Job, have: int, length: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of bytes that came."""
    if not job.show:
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    name = TextColumn("{task.description}", markup=False)
    with shown_bar(name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), transient=False) as bar:
        task = bar.add_task(job.target.name, total=length, completed=have)
        yield lambda count: bar.advance(task, count)
