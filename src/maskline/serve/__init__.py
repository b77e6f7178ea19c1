"""The HTTP service: `maskline serve` on the command line, `serve` in programs. Needs the extra ``serve``.

A front process handles requests: `app` (routes), `service` (processing of a request), `coding` (compressed bodies),
`protocol` and `kserve` (parsing requests and building responses), `images` (locating an image in a request),
`admission` (the queue), `workers` (processes), `server` (socket and signals), `metrics`. It decodes no images. A
`worker` holds a model and runs the steps of `answering`; both sides communicate over `wire`.
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
