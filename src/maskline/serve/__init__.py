"""The HTTP service: `maskline serve` on the command line, `serve` in programs. Needs the extra ``serve``.

A front process handles requests: `app` (routes), `service` (processing of a request), `coding` (compressed bodies),
`protocol` and `kserve` (parsing requests and building responses), `images` (locating an image in a request),
`admission` (the queue), `workers` (processes), `server` (socket and signals), `metrics`. It decodes no images. A
`worker` holds a model and runs the steps of `answering`; both sides communicate over `wire`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskline.serve.answering import answer
    from maskline.serve.server import serve
    from maskline.serve.settings import ServiceSettings

__all__ = ["ServiceSettings", "answer", "serve"]

_ROOMS = {"ServiceSettings": "settings", "answer": "answering", "serve": "server"}


def __getattr__(name: str) -> object:
    """Load public names on first use: a worker needs no web framework."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
