"""Download files into a cache that can be trusted: checked, resumed, never half written.

Beside a file ``NAME`` in the cache there may be ``NAME.sha256`` (what came, in the format of sha256sum), ``NAME.part``
and ``NAME.part.json`` (an unfinished download and where it comes from) and ``NAME.lock``.
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
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import filelock

from maskline.errors import DownloadError, ParameterError
from maskline.weights.archive import extract_tar

__all__ = ["extract_tar", "fetch", "home", "offline"]

if TYPE_CHECKING:
    import requests

_log = logging.getLogger("maskline")

_CHUNK = 1 << 16  # bytes
_BACKOFF = 0.5  # seconds before the second attempt, doubled for each further one
_LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
_MAX_REDIRECTS = 10
_MAX_BYTES = 16 << 30


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
    given = os.environ.get("MASKLINE_OFFLINE", "").strip().lower()
    if given in ("1", "true", "yes", "on"):
        return True
    if given in ("", "0", "false", "no", "off"):
        return False
    raise ParameterError(f"MASKLINE_OFFLINE is {given!r}; expected 1, true, yes, on or 0, false, no, off; change it")


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: bool | None = None,
    attempts: int = 5,
    timeout: float = 15.0,
    max_bytes: int = _MAX_BYTES,
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
        max_bytes: the largest file to accept.

    Returns:
        ``target``, a complete file. It is put in place in one step: at no time is half a file there.

    Raises:
        DownloadError: what failed, the URL, the path, and what to do instead, in one line.
        ParameterError: an argument makes no sense.
    """
    if _scheme(url) not in ("http", "https"):
        raise ParameterError(f"can't download {url!r}: expected a URL that begins with http:// or https://")
    if attempts < 1 or (sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        given = f"got {attempts} and {sha256!r}"
        raise ParameterError(f"expected attempts >= 1 and a sha256 of 64 hexadecimal digits, {given}; correct them")
    show = sys.stderr.isatty() if progress is None else progress
    job = _Job(url, Path(target), sha256.lower() if sha256 else None, show, attempts, timeout, max_bytes)
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
    max_bytes: int

    def beside(self, suffix: str) -> Path:
        return self.target.with_name(self.target.name + suffix)

    def failure(self, reason: str) -> DownloadError:
        by_hand = f"download it by hand with a browser and put it at {self.target}"
        if self.beside(".sha256").exists():  # of an earlier copy: it would call the new one damaged
            by_hand += f" (and remove {self.beside('.sha256').name} beside it)"
        by_hand += ", or name a file you have: --weights FILE of export, train and evaluate"
        return DownloadError(f"can't download {self.url} to {self.target}: {' '.join(reason.split())}; {by_hand}")


@dataclass(frozen=True)
class _Origin:
    """Where a partial file comes from: ``validator`` (ETag or date) tells whether the server still has the same."""

    url: str
    validator: str
    length: int  # bytes of the whole file


class _PassingError(Exception):
    """A fault that may pass. ``wait``: seconds the server wants to be left alone; None: it did not say."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def _fetch(job: _Job) -> Path:
    if _is_good(job):
        return job.target
    if offline():
        raise job.failure("MASKLINE_OFFLINE forbids the network, and there is no good copy in the cache")
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(job.beside(".lock")):
        if not _is_good(job):  # else another process has fetched it meanwhile
            _download(job)
    return job.target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _log.info("waiting for another process that downloads the same file (%s)", path)
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
        _log.warning("%s is damaged or not the file expected (sha256 %s, not %s)", job.target, found, expected)
    return found == expected


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# From here on the lock is held.


def _session() -> requests.Session:
    """A session that leaves redirects to us: requests reads their bodies whole, and trips over odd addresses."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            return None

    return Session()


def _download(job: _Job) -> None:
    _log.info("downloading %s to %s", job.url, job.target)
    with _session() as session:
        for attempt in range(1, job.attempts + 1):
            try:
                _attempt(job, session)
                return
            except _PassingError as error:
                if attempt == job.attempts:
                    raise job.failure(f"{error} (asked {attempt} times)") from error
                wait = min(_BACKOFF * 2 ** (attempt - 1) if error.wait is None else error.wait, _LONGEST_WAIT)
                _log.info("%s: %s; asking again in %.1f s", job.url, error, wait)
                time.sleep(wait)


def _attempt(job: _Job, session: requests.Session) -> None:
    """One request, from the answer to the file in place; raises `_PassingError` or a `DownloadError` for good."""
    part, origin = job.beside(".part"), _read_origin(job)
    have = part.stat().st_size if origin else 0
    with contextlib.closing(_request(job, session, origin, have)) as response:
        if response.status_code != 206:
            have = 0
        length = _promised(job, response, origin, have)
        _check_room(job, length, have)
        if not have:
            _write_origin(job, response, length)
        _receive(job, response, part, have, length)
    size = part.stat().st_size
    if length is not None and size != length:
        _discard(job)
        raise _PassingError(f"{size} bytes came, {length} were promised")
    _finish(job, part, resumed=have > 0)


def _finish(job: _Job, part: Path, resumed: bool) -> None:
    """Check the digest and move the file to its place; record the digest first, so that it never lags behind."""
    found = _digest(part)
    if job.sha256 not in (None, found):
        _discard(job)
        reason = f"its sha256 is {found}, expected {job.sha256}"
        # A file put together from two answers may be wrong where a fresh one is right.
        raise _PassingError(reason) if resumed else job.failure(reason)
    record = job.beside(".sha256.new")
    record.write_text(f"{found}  {job.target.name}\n", "utf-8")
    record.replace(job.beside(".sha256"))
    part.replace(job.target)
    job.beside(".part.json").unlink(missing_ok=True)


def _request(job: _Job, session: requests.Session, origin: _Origin | None, have: int) -> requests.Response:
    """The answer with the file or the rest of it, redirects followed; the caller closes it."""
    headers = {"Accept-Encoding": "identity"}  # lengths are those of the file, then
    if origin:
        headers |= {"Range": f"bytes={have}-", "If-Range": origin.validator}
    url = job.url
    for _ in range(_MAX_REDIRECTS + 1):
        response = _get(job, session, url, headers)
        if not response.is_redirect:
            return _checked(job, response)
        response.close()
        url = _next_url(job, response)
    raise job.failure(f"it redirects more than {_MAX_REDIRECTS} times")


def _next_url(job: _Job, response: requests.Response) -> str:
    """Where a redirect leads; a DownloadError if that is nowhere, or from https to anything else."""
    try:
        url = urljoin(response.url, response.headers["Location"].encode("latin-1").decode("utf-8"))
    except ValueError:  # also bad UTF-8
        raise job.failure(f"{response.url} redirects to an address that makes no sense") from None
    if _scheme(url) not in ("https", _scheme(response.url)):
        raise job.failure(f"{response.url} redirects to {url}, which is not safe")
    return url


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:  # brackets that do not hold an address
        return ""


def _get(job: _Job, session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    import requests

    try:
        return session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=job.timeout)
    except requests.exceptions.SSLError as error:
        raise job.failure(f"no safe connection: {_root(error)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _PassingError(f"no connection: {_root(error)}") from error
    except requests.RequestException as error:
        raise job.failure(str(error)) from error


def _root(error: BaseException) -> str:
    """The innermost reason of a fault of requests, which wraps those of urllib3, which wrap the system's."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return str(error)
        error = inner


def _checked(job: _Job, response: requests.Response) -> requests.Response:
    """``response`` if it brings the file; closed and raised if not."""
    status = response.status_code
    if status == 200 or (status == 206 and "Range" in response.request.headers):
        return response
    response.close()
    reason = f"the server answers {status} {response.reason or ''}".rstrip()
    if status == 416:  # our part is longer than the file has become
        _discard(job)
        raise _PassingError(reason, wait=0)
    if status in (408, 429) or status >= 500:
        raise _PassingError(reason, _retry_after(response.headers.get("Retry-After", "")))
    raise job.failure(reason)


def _retry_after(text: str) -> float | None:
    """Seconds from now, of a header that has seconds or a date; None if it makes no sense."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0)
    except (TypeError, ValueError, OverflowError):
        return None


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
        raise _PassingError(f"the server sent another part than the one asked for ({given}, not {asked})", wait=0)
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


def _receive(job: _Job, response: requests.Response, part: Path, have: int, length: int | None) -> None:
    """Append the body to ``part``, which has ``have`` bytes, and see it safe on the disk."""
    with part.open("ab") as file, _progress(job, have, length) as advance:
        for block in _blocks(response):
            have += len(block)
            if have > job.max_bytes:
                _discard(job)
                raise job.failure(f"more than the {job.max_bytes} bytes allowed came")
            file.write(block)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """The body as it is sent, not decoded; network faults become `_PassingError`, so that faults of the disk differ."""
    import urllib3

    blocks = response.raw.stream(_CHUNK, decode_content=False)
    while True:
        try:
            block = next(blocks, None)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _PassingError(f"the connection broke: {_root(error)}") from error
        if block is None:
            return
        yield block


@contextlib.contextmanager
def _progress(job: _Job, have: int, length: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of bytes that came."""
    if not job.show:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(job.target.name, total=length, completed=have)
        yield lambda count: bar.advance(task, count)
