"""A worker: a process that holds a model and turns image files into JSON. `workers` starts it.

Messages arrive on stdin and are sent to the original stdout; anything that libraries print goes to stderr. The first
message is a pickled function that opens the model, from the service, which started this process. Batches follow. Two
are processed at once, so that one is decoded or encoded while the network runs on the other. The worker exits at the
end of stdin, including when the service dies.
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
from maskline.serve.protocol import PredictOptions
from maskline.serve.refusal import RefusalError

WARM_UP_SIZE = 256  # pixels per side
OUT_OF_MEMORY = "not enough memory for this image"
FAILED = "Internal server error"

logger = logging.getLogger("maskline")


class Worker:
    """A model and its threads."""

    def __init__(self, model: Predictor, out: BinaryIO) -> None:
        self._model, self._out = model, out
        self._running, self._sending = threading.Lock(), threading.Lock()
        self._images = ThreadPoolExecutor(min(4, cores()), thread_name_prefix="images")
        self._batches = ThreadPoolExecutor(wire.AHEAD, thread_name_prefix="batches")

    def serve(self, source: BinaryIO) -> None:
        """Process batches until the end of the stream."""
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
        except OSError:  # the service is gone
            os._exit(0)

    def _answer(self, message: wire.Message) -> None:
        try:
            self._answer_batch(message)
        except BaseException:  # noqa: BLE001 (outermost: an internal error; the service starts another worker)
            sys.excepthook(*sys.exc_info())
            os._exit(70)

    def _answer_batch(self, message: wire.Message) -> None:
        wanted = [PredictOptions(**job) for job in message.head["jobs"]]
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
        self, decoded: Sequence[InputImage | RefusalError], wanted: Sequence[PredictOptions]
    ) -> list[Instances | RefusalError]:
        """Instances of each image, or the reason why it failed."""
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
        """Run the model. If it fails on several images, each is retried alone."""
        with self._running:
            found = _or_refusal(self._model.detect, images, thresholds)
        if not isinstance(found, RefusalError):
            return cast("Sequence[Instances]", found)
        if len(images) == 1:
            return [found]
        return [self._run([image], [threshold])[0] for image, threshold in zip(images, thresholds, strict=True)]

    def _encode(
        self, image: InputImage | RefusalError, found: Instances | RefusalError, wanted: PredictOptions
    ) -> tuple[dict[str, Any], bytes]:
        """Header entry of an image, and the JSON of its result."""
        result: Any = found
        if not isinstance(found, RefusalError):
            result = _or_refusal(encode, image, found, self._model.labels, wanted)
        if isinstance(result, RefusalError):
            return {"status": result.status, "message": str(result)}, b""
        return {"instances": len(cast("Instances", found))}, result


def _decode(data: bytes) -> Any:
    return _or_refusal(decode, data)


def _or_refusal(step: Callable[..., Any], *arguments: Any) -> Any:
    """Call a step; return a RefusalError if it fails, so that no image can crash the worker."""
    try:
        return step(*arguments)
    except RefusalError as refusal:
        return refusal
    except MemoryError:
        return RefusalError(500, OUT_OF_MEMORY)
    except Exception:  # outermost, for one image
        logger.exception("processing of one or several images failed")
        return RefusalError(500, FAILED)


def _opened(opener: bytes) -> Predictor:
    """Unpickle and call a model factory. Raises ParameterError if it is from a module that can't be imported here."""
    try:
        function = pickle.loads(opener)  # noqa: S301 (from the process that started this one)
    except (AttributeError, ImportError) as error:
        expected = "expected a function of an importable module, such as functools.partial(create_model, …)"
        raise ParameterError(f"a worker can't import the model factory ({error}): {expected}") from None
    return cast("Predictor", function())


def main() -> None:
    """Open the model, then serve."""
    logging.basicConfig(level=logging.WARNING, format="maskline: %(message)s")
    warnings.filterwarnings("ignore", module="PIL")  # about damaged files: Python stores every distinct message
    for number in (signal.SIGINT, signal.SIGTERM):  # from a terminal or a supervisor: the service decides
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
    model.detect([np.zeros((WARM_UP_SIZE, WARM_UP_SIZE, 3), np.uint8)])  # warm-up: the first run is slow
    Worker(model, out).serve(source)


if __name__ == "__main__":
    main()
