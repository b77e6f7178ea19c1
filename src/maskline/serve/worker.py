"""A worker: a process with a model of its own, which turns files of images into JSON. `workers` starts it.

Messages come on standard input and go to what was standard output; what libraries print goes to standard error. The
first is a pickled function that opens the model; it comes from the service, which started this process. Then come
batches. Two are under way at once, so that one is decoded or encoded while the network runs on the other. The end of
standard input, also because the service has died, ends the worker.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

import numpy as np

from maskline._cpu import cores
from maskline.errors import MasklineError, ParameterError
from maskline.inputs import InputImage
from maskline.instances import ByteArray, Instances
from maskline.runtime.predictor import Predictor
from maskline.runtime.thresholds import Threshold
from maskline.serve import wire
from maskline.serve.answering import decode, encode
from maskline.serve.protocol import Wanted
from maskline.serve.refusal import RefusalError

WARM_UP_SIZE = 256  # pixels of a side
OUT_OF_MEMORY = "there is not enough memory for this image"
FAILED = "Internal server error"

logger = logging.getLogger("maskline")


class Worker:
    """A model, and the threads around it."""

    def __init__(self, model: Predictor, out: BinaryIO) -> None:
        self._model, self._out = model, out
        self._running, self._sending = threading.Lock(), threading.Lock()
        self._images = ThreadPoolExecutor(min(4, cores()), thread_name_prefix="images")
        self._batches = ThreadPoolExecutor(wire.AHEAD, thread_name_prefix="batches")

    def serve(self, source: BinaryIO) -> None:
        """Answer batches until the source ends."""
        head = {"model": self._model.model_name, "labels": list(self._model.labels), "device": self._model.device}
        self.send(head | {"backend": self._model.backend})
        while message := wire.read(source):
            self._batches.submit(self._answer, message)
        self._batches.shutdown(cancel_futures=True)

    def send(self, head: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        try:
            with self._sending:
                self._out.write(wire.pack(head, parts))
                self._out.flush()
        except OSError:  # the service has gone
            os._exit(0)

    def _answer(self, message: wire.Message) -> None:
        try:
            self._answer_batch(message)
        except BaseException:  # noqa: BLE001 (outermost: a fault of ours; the service starts another worker)
            sys.excepthook(*sys.exc_info())
            os._exit(70)

    def _answer_batch(self, message: wire.Message) -> None:
        wanted = [Wanted(**job) for job in message.head["jobs"]]
        times = [time.perf_counter()]
        decoded = list(self._images.map(_decode, message.parts))
        times.append(time.perf_counter())
        found = self._detect(decoded, wanted)
        times.append(time.perf_counter())
        done = list(self._images.map(self._encode, decoded, found, wanted))
        times.append(time.perf_counter())
        stages = {name: times[i + 1] - times[i] for i, name in enumerate(("decode", "predict", "encode"))}
        head = {"batch": message.head["batch"], "stages": stages, "answers": [head for head, _ in done]}
        self.send(head, [part for _, part in done])

    def _detect(
        self, decoded: Sequence[InputImage | RefusalError], wanted: Sequence[Wanted]
    ) -> list[Instances | RefusalError]:
        """The instances of each image, or why there are none."""
        images: list[ByteArray] = []
        thresholds: list[Threshold | None] = []
        for image, one in zip(decoded, wanted, strict=True):
            if not isinstance(image, RefusalError):
                images.append(image.pixels)
                thresholds.append(one.threshold)
        found = iter(self._run(images, thresholds) if images else ())
        return [image if isinstance(image, RefusalError) else next(found) for image in decoded]

    def _run(
        self, images: Sequence[ByteArray], thresholds: Sequence[Threshold | None]
    ) -> Sequence[Instances | RefusalError]:
        """The model's instances. Where it fails on several images, each is tried alone."""
        with self._running:
            found = _or_refusal(self._model.detect, images, thresholds)
        if not isinstance(found, RefusalError):
            return cast("Sequence[Instances]", found)
        if len(images) == 1:
            return [found]
        return [self._run([image], [threshold])[0] for image, threshold in zip(images, thresholds, strict=True)]

    def _encode(
        self, image: InputImage | RefusalError, found: Instances | RefusalError, wanted: Wanted
    ) -> tuple[dict[str, Any], bytes]:
        """What is told of an image, and the JSON of its result."""
        result: Any = found
        if not isinstance(found, RefusalError):
            result = _or_refusal(encode, image, found, self._model.labels, wanted)
        if isinstance(result, RefusalError):
            return {"status": result.status, "message": str(result)}, b""
        return {"instances": len(cast("Instances", found))}, result


def _decode(data: bytes) -> Any:
    return _or_refusal(decode, data)


def _or_refusal(step: Callable[..., Any], *arguments: Any) -> Any:
    """What a step gives; where it fails, why: an image that nobody foresaw shall not take the worker with it."""
    try:
        return step(*arguments)
    except RefusalError as refusal:
        return refusal
    except MemoryError:
        return RefusalError(500, OUT_OF_MEMORY)
    except Exception:  # outermost, of one image
        logger.exception("an image, or several together, could not be worked on")
        return RefusalError(500, FAILED)


def _opened(opener: bytes) -> Predictor:
    """What a pickled opener opens. Raises ParameterError if it is of a module that can't be imported here."""
    try:
        function = pickle.loads(opener)  # noqa: S301 (from the process that started this one)
    except (AttributeError, ImportError) as error:
        told = "an opener has to be a function of a module, such as functools.partial(create_model, …)"
        raise ParameterError(f"a worker can't import what opens the model ({error}): {told}") from None
    return cast("Predictor", function())


def main() -> None:
    """Open the model, then serve."""
    logging.basicConfig(level=logging.WARNING, format="maskline: %(message)s")
    warnings.filterwarnings("ignore", module="PIL")  # of damaged files: Python keeps every wording for good
    for number in (signal.SIGINT, signal.SIGTERM):  # of a terminal or a supervisor: it is the service that decides
        signal.signal(number, signal.SIG_IGN)
    source = sys.stdin.buffer
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    first = wire.read(source)
    if first is None:
        return
    try:
        model = _opened(first.parts[0])
    except MasklineError as error:
        out.write(wire.pack({"failed": str(error), "exit_code": error.exit_code}))
        out.flush()
        sys.exit(error.exit_code)
    model.detect([np.zeros((WARM_UP_SIZE, WARM_UP_SIZE, 3), np.uint8)])  # the first run takes longest
    Worker(model, out).serve(source)


if __name__ == "__main__":
    main()
