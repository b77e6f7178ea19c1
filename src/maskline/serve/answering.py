"""From the bytes of an image to the JSON of a result: the steps of a worker, and all of them in one call."""

from __future__ import annotations

import base64
import io
import json
import logging
from typing import Any

from PIL import Image

from maskline.errors import MasklineError
from maskline.inputs import MAX_PIXELS, InputImage
from maskline.inputs.images import decode as decode_file
from maskline.instances import ByteArray, Instances
from maskline.masks import rle_encode
from maskline.outputs.result import ENCODER_OPTIONS
from maskline.render import draw
from maskline.runtime.predictor import Predictor
from maskline.serve.images import file_of, is_url, pixels_claimed
from maskline.serve.protocol import PredictOptions, failure, new_log_id, parse, success
from maskline.serve.refusal import RefusalError

JPEG_SIDE = 65_500  # pixels: libjpeg's maximum

logger = logging.getLogger("maskline")


def decode(data: bytes) -> InputImage:
    """Decode an image; of a TIFF file, the first. Raises RefusalError (422)."""
    found = next(decode_file(data, "the image", None))
    if isinstance(found, InputImage):
        return found
    raise RefusalError.of_image("image_invalid", str(found))


def encode(decoded: InputImage, instances: Instances, labels: tuple[str, ...], wanted: PredictOptions) -> bytes:
    """Encode a result as JSON."""
    rows = zip(instances.boxes.tolist(), instances.labels.tolist(), instances.scores.tolist(), strict=True)
    found = [
        {
            "bbox": box,
            "categoryId": label,
            "categoryName": labels[label],
            "score": score,
            "mask": _mask(instances, i, wanted),
        }
        for i, (box, label, score) in enumerate(rows)
    ]
    image = _image(decoded.pixels, instances, labels) if wanted.visualize else None
    result: dict[str, Any] = {"instances": found, "image": image, "size": list(instances.size)}
    if decoded.levels:
        result["warnings"] = [str(decoded.levels)]
    return json.dumps(result, ensure_ascii=False).encode()


def _mask(instances: Instances, index: int, wanted: PredictOptions) -> dict[str, Any]:
    if wanted.mask_format == "polygon":
        return {"polygons": instances.polygons(index), "size": list(instances.size)}
    if wanted.mask_frame == "image":
        return {"rleResult": instances.rle(index), "size": list(instances.size)}
    mask = instances.masks[index]
    return {"rleResult": rle_encode(mask), "size": list(mask.shape)}


def _image(pixels: ByteArray, instances: Instances, labels: tuple[str, ...]) -> str | None:
    """Rendered image as Base64 JPEG with Pillow's default quality, 75; None if it is too large for JPEG."""
    if max(instances.size) > JPEG_SIDE:
        return None
    file = io.BytesIO()
    Image.fromarray(draw(pixels, instances, labels)).save(file, "JPEG", **ENCODER_OPTIONS["JPEG"])
    return base64.b64encode(file.getvalue()).decode("ascii")


def answer(model: Predictor, request: bytes | str, *, visualize: bool = True) -> bytes:
    """Answer a request in the calling thread, for programs with their own HTTP service.

    Args:
        request: the body of a request, see docs/serve.md; it must contain the image, not a URL.
        visualize: default of the request's ``visualize``: whether to include a rendered image.

    Returns:
        The JSON of the response or error. Client errors raise no exception.
    """
    log_id = new_log_id()
    try:
        body = request.encode("utf-8", "surrogatepass") if isinstance(request, str) else request
        given = parse(body, model.labels)
        log_id = given.logId or log_id
        if is_url(given.image):
            raise RefusalError.of_image("url_not_allowed", "a URL, which is not fetched here: send the image in Base64")
        data = file_of(given.image)
        pixels_claimed(data, MAX_PIXELS)
        wanted, image = PredictOptions.of(given, visualize), decode(data)
        (instances,) = model.detect([image.pixels], [wanted.threshold])
        return success(log_id, encode(image, instances, model.labels, wanted))
    except RefusalError as refusal:
        return failure(refusal.log_id or log_id, refusal.status, str(refusal))
    except MasklineError as error:
        logger.error("%s", error)  # may name files, so it is not sent to the client
        return failure(log_id, 500, "Internal server error")
