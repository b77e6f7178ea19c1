"""From the bytes of an image to the JSON of a result: what a worker does, step by step, and all of it at once."""

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
from maskline.serve.protocol import Wanted, failure, new_log_id, parse, success
from maskline.serve.refusal import RefusalError

JPEG_SIDE = 65_500  # pixels: libjpeg writes none that are longer

logger = logging.getLogger("maskline")


def decode(data: bytes) -> InputImage:
    """An image; of a TIFF file the first. Raises RefusalError (422)."""
    found = next(decode_file(data, "the image", None))
    if isinstance(found, InputImage):
        return found
    raise RefusalError.of_image("image_invalid", str(found))


def encode(decoded: InputImage, instances: Instances, labels: tuple[str, ...], wanted: Wanted) -> bytes:
    """The JSON of a result."""
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


def _mask(instances: Instances, index: int, wanted: Wanted) -> dict[str, Any]:
    if wanted.mask_format == "polygon":
        return {"polygons": instances.polygons(index), "size": list(instances.size)}
    if wanted.mask_frame == "image":
        return {"rleResult": instances.rle(index), "size": list(instances.size)}
    mask = instances.masks[index]
    return {"rleResult": rle_encode(mask), "size": list(mask.shape)}


def _image(pixels: ByteArray, instances: Instances, labels: tuple[str, ...]) -> str | None:
    """A JPEG of Pillow's default quality, 75, in Base64; None of what is too long for one."""
    if max(instances.size) > JPEG_SIDE:
        return None
    file = io.BytesIO()
    Image.fromarray(draw(pixels, instances, labels)).save(file, "JPEG", **ENCODER_OPTIONS["JPEG"])
    return base64.b64encode(file.getvalue()).decode("ascii")


def answer(model: Predictor, request: bytes | str, *, visualize: bool = True) -> bytes:
    """All of it in the calling thread, for programs with an HTTP service of their own.

    Args:
        request: the body of a request, see docs/serve.md; its image must be in it, not a URL.
        visualize: whether the answer holds a rendered image where the request does not say.

    Returns:
        The JSON of the answer, or of the envelope of an error. Nothing is raised for what is the client's fault.
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
        wanted, image = Wanted.of(given, visualize), decode(data)
        (instances,) = model.detect([image.pixels], [wanted.threshold])
        return success(log_id, encode(image, instances, model.labels, wanted))
    except RefusalError as refusal:
        return failure(refusal.log_id or log_id, refusal.status, str(refusal))
    except MasklineError as error:
        logger.error("%s", error)  # which may tell of files
        return failure(log_id, 500, "Internal server error")
