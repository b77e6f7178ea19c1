"""Settings of the service."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from maskline._options import Checked, Option
from maskline.errors import ParameterError

if TYPE_CHECKING:
    from maskline.fetching.url_policy import UrlPolicy

MIB = 1 << 20  # bytes
MP = 1_000_000  # pixels
MOST_UNITS = 1_000_000  # of these
DAY = 86400  # seconds
KEY_VARIABLE = "MASKLINE_API_KEY"


def read_key(path: str, name: str) -> str:
    """The API key in a file. Raises ParameterError, which calls the file ``name``, if it can't be read."""
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ParameterError(f"{name} {path} can't be read: {reason}") from None


def check_host(value: str, name: str) -> str:
    """Return a host name, or ``*``. Raises ParameterError with its name."""
    if re.fullmatch(r"\*|[a-z0-9._:-]+", value):
        return value
    raise ParameterError(f"{name} is {value!r}: expected a name such as masks.example.org, or *")


def check_origin(value: str, name: str) -> str:
    """Return the origin of a web page, or ``*``. Raises ParameterError with its name."""
    if re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", value):
        return value
    raise ParameterError(f"{name} is {value!r}: expected an origin such as https://example.org, or *")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is the loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return f".{host.lower().rstrip('.')}".endswith(".localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings(Checked):
    """Settings of a service, apart from its model.

    Attributes:
        batch_size: queued images are batched, up to ``max_pixels`` in all; the service never waits to fill a batch.
        queue_pixels: each image counts at least as a million.
        trusted_hosts: host names accepted in addition to this machine's own if the service listens on the loopback
            without a key; ``*``: any. This protects against web pages that point their own name here (DNS rebinding).
        cors: ``*``: any.
    """

    host: Annotated[
        str, Option("Address to listen on; a loopback address serves this machine only.", metavar="ADDRESS")
    ] = "127.0.0.1"
    port: Annotated[int, Option("Port; 0 picks a free one.", least=0, most=65535)] = 8080
    batch_size: Annotated[int, Option("Most images per run of the network.", flag="", most=256)] = 1
    visualize: Annotated[bool, Option("Include a drawn image in responses, unless the request says otherwise.")] = True
    timeout: Annotated[
        float,
        Option("Seconds from the last byte of a request to its response.", metavar="S", above=0, most=DAY),
    ] = 60.0
    body_timeout: Annotated[float, Option("Seconds for receiving a request.", flag="", above=0, most=DAY)] = 30.0
    drain: Annotated[
        float, Option("Seconds for running requests to finish at shutdown.", metavar="S", above=0, most=DAY)
    ] = 30.0
    max_body: Annotated[
        int,
        Option("Largest request in MiB, as sent and decompressed.", metavar="MIB", unit=MIB, most=MOST_UNITS),
    ] = 64 * MIB
    max_pixels: Annotated[
        int, Option("Largest image in megapixels, by its header.", metavar="MP", unit=MP, most=MOST_UNITS)
    ] = 64 * MP
    queue_pixels: Annotated[
        int,
        Option("Megapixels of all images waiting or being processed.", metavar="MP", unit=MP, most=MOST_UNITS),
    ] = 256 * MP
    api_key: Annotated[
        str | None,
        Option(
            "File with the API key that clients must send.",
            flag="--api-key-file",
            metavar="FILE",
            parse=read_key,
            unset=f"the variable {KEY_VARIABLE}, if set",
        ),
    ] = field(default=None, repr=False)
    trusted_hosts: Annotated[
        tuple[str, ...],
        Option(
            "Host name of the service behind a proxy on this machine; can be repeated.",
            flag="--trusted-host",
            metavar="NAME",
            check=check_host,
        ),
    ] = ()
    cors: Annotated[
        tuple[str, ...],
        Option("Origin of web pages that may call the service; can be repeated.", metavar="ORIGIN", check=check_origin),
    ] = ()
    url_hosts: Annotated[
        tuple[str, ...],
        Option(
            "Host from which image URLs may be fetched; can be repeated. Without any, URLs are refused.",
            flag="--allow-url-host",
            metavar="HOST",
        ),
    ] = ()
    url_networks: Annotated[
        tuple[str, ...],
        Option(
            "Private network that these hosts may resolve to; can be repeated.",
            flag="--allow-url-network",
            metavar="CIDR",
        ),
    ] = ()
    url_timeout: Annotated[float | None, Option("Seconds for fetching a URL.", flag="", above=0, most=DAY)] = None
    url_max_bytes: Annotated[int | None, Option("Largest file behind a URL, in bytes.", flag="", most=1 << 40)] = None
    access_log: Annotated[bool, Option("Log each request as a line of JSON, to standard output.")] = True

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can reach the service."""
        return is_loopback(self.host)

    @property
    def url_policy(self) -> UrlPolicy:
        """Which URLs are fetched for clients. Raises ParameterError for hosts and networks that are not valid."""
        from maskline.fetching.url_policy import UrlPolicy

        limits = {"timeout": self.url_timeout, "max_bytes": self.url_max_bytes}
        given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
        return UrlPolicy.of(self.url_hosts, self.url_networks, **given)

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        _ = self.url_policy
        if self.queue_pixels < self.max_pixels:
            raise ParameterError(
                f"queue_pixels is {self.queue_pixels / MP:g} million, max_pixels {self.max_pixels / MP:g} million: the "
                "queue has to hold the largest image, so enlarge queue_pixels too"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ParameterError(
                "the API key is empty or has characters not allowed in a header: use another one, or none"
            )
