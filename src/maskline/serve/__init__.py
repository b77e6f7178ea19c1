"""The HTTP service: `maskline serve`, and `serve` for programs. Needs the extra ``serve``.

A front process takes requests: `app` (routes), `service` (one request's way), `coding` (compressed bodies), `protocol`
and `kserve` (bytes to requests and answers to bytes), `images` and `fetch` (where an image is), `admission` (the
queue), `workers` (processes), `server` (socket and signals), `metrics`. It decodes no image. A `worker` has a model and
does what `answering` has step by step; `wire` is how they talk.
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
    """Public names load what they need on first use: a worker needs no web framework."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
