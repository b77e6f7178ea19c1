"""Settings of the service."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from maskline._checks import check_count
from maskline.errors import ParameterError
from maskline.fetching.url_policy import UrlPolicy

MB = 1 << 20  # bytes
MP = 1_000_000  # pixels


def is_loopback(host: str) -> bool:
    """Whether a host name or address is the loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return f".{host.lower().rstrip('.')}".endswith(".localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Settings of a service, apart from its model.

    Attributes:
        host, port: address to listen on. Port 0: any free port.
        batch_size: maximum images per run of the network, with at most ``max_pixels`` in total. Queued images are
            batched; the service never waits to fill a batch.
        visualize: default of a request's ``visualize``: whether to return a rendered image.
        timeout: seconds from the last byte of a request to its response.
        body_timeout: seconds to receive the body of a request.
        drain: seconds for pending requests to finish when the service stops.
        max_body: maximum bytes of a request, as sent and decompressed.
        max_pixels: maximum pixels per image, by its header.
        queue_pixels: maximum pixels of all images queued or being processed. Each counts at least as a million.
        api_key: key required in requests; None: none.
        trusted_hosts: host names accepted in addition to this machine's own if the service listens on the loopback
            without a key; ``*``: any. This protects against web pages that point their own name here (DNS rebinding).
        cors: origins of web pages that may call the service; ``*``: any.
        urls: which URLs are fetched for clients.
        access_log: log a line per request.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    batch_size: int = 1
    visualize: bool = True
    timeout: float = 60.0
    body_timeout: float = 30.0
    drain: float = 30.0
    max_body: int = 64 * MB
    max_pixels: int = 64 * MP
    queue_pixels: int = 256 * MP
    api_key: str | None = field(default=None, repr=False)
    trusted_hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    urls: UrlPolicy = field(default_factory=UrlPolicy)
    access_log: bool = True

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can reach the service."""
        return is_loopback(self.host)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ParameterError(f"port is {self.port}: expected 1 to 65535, or 0 for any free port")
        check_count(self.batch_size, "batch_size", 256)
        for name in ("timeout", "body_timeout", "drain"):
            value = getattr(self, name)
            if not 0 < value <= 86400:
                raise ParameterError(f"{name} is {value!r}: expected seconds, above 0, at most a day")
        for name in ("max_body", "max_pixels", "queue_pixels"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name)}: expected a number above 0")
        if self.queue_pixels < self.max_pixels:
            raise ParameterError(
                f"queue_pixels is {self.queue_pixels / MP:g} million, max_pixels {self.max_pixels / MP:g} million: the "
                "queue has to hold the largest image, so enlarge queue_pixels too"
            )
        for host in self.trusted_hosts:
            if not re.fullmatch(r"\*|[a-z0-9._:-]+", host):
                raise ParameterError(f"trusted_hosts has {host!r}: expected a name such as masks.example.org, or *")
        for origin in self.cors:
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise ParameterError(f"cors is {origin!r}: expected an origin such as https://example.org, or *")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ParameterError(
                "the API key is empty or has characters not allowed in a header: use another one, or none"
            )
