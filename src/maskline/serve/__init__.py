"""The HTTP service: `maskline serve`, and `serve` for programs. Needs the extra ``serve``.

A front process takes requests: `app` (routes), `service` (one request's way), `coding` (compressed bodies), `protocol`
and `kserve` (bytes to requests and answers to bytes), `images` and `fetch` (where an image is), `admission` (the
queue), `workers` (processes), `server` (socket and signals), `metrics`. It decodes no image. A `worker` has a model and
does what `answering` has step by step; `wire` is how they talk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskline._lazy import lazy_names

if TYPE_CHECKING:
    from maskline.serve.answering import answer
    from maskline.serve.server import serve
    from maskline.serve.settings import ServiceSettings

__all__ = ["ServiceSettings", "answer", "serve"]

__getattr__ = lazy_names(__name__, {"ServiceSettings": "settings", "answer": "answering", "serve": "server"})
