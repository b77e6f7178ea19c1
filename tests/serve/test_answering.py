"""From one request's bytes to its answer, without a service; and the messages of workers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from fixtures.encoded import READABLE
from fixtures.service import IMAGE, encoded
from fixtures.tiffs import tiff
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskline import Predictor, create_model
from maskline.errors import InputError, ModelError
from maskline.inputs import header_size
from maskline.masks import rle_encode
from maskline.serve import answer, wire
from maskline.serve.images import pixels_claimed
from maskline.serve.refusal import RefusalError


@pytest.fixture(scope="module")
def model() -> Predictor:
    return create_model(threads=1)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.ones((24, 31)), "0Xg0"),
        (np.ones((50, 50)), "0T^2"),
        (np.ones((20, 20)), "0`<"),
        (np.ones((10, 20)), "0X6"),
        (np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]), "41202"),
        (np.ones((4, 3)), "0<"),
        (np.ones((4, 0)), "0"),
    ],
)
def test_rle_is_that_of_paddlex(mask: np.ndarray, expected: str) -> None:
    """F47: its recorded vectors."""
    assert rle_encode(mask) == expected


def test_a_request_is_answered(model: Predictor) -> None:
    body = json.dumps({"image": encoded(), "logId": "a", "visualize": False})
    for request in (body, body.encode()):
        reply = json.loads(answer(model, request))
        (result,) = model.predict(str(IMAGE))
        assert (reply["logId"], reply["errorCode"]) == ("a", 0)
        assert [one["score"] for one in reply["result"]["instances"]] == [box["score"] for box in result["boxes"]]
    assert json.loads(answer(model, json.dumps({"image": encoded()}), visualize=False))["result"]["image"] is None


def test_a_deep_image_that_is_nearly_black_is_reported(model: Predictor) -> None:
    with Image.open(IMAGE) as photo:
        grey = np.asarray(photo.convert("L")).astype(np.uint16)
    grey[0, :2] = 0, 255
    replies = []
    for scale in (16, 256):
        image = base64.b64encode(tiff((grey * scale, {}))).decode()
        replies.append(json.loads(answer(model, json.dumps({"image": image, "visualize": False})))["result"])
    dark, bright = replies
    assert dark["warnings"] == ["levels 0 to 4080 of 65535: nearly black in 8 bits; scale them to the full range"]
    assert "warnings" not in bright and set(bright) == {"instances", "image", "size"}


def test_of_a_tiff_the_first_image_is_answered(model: Predictor) -> None:
    with Image.open(IMAGE) as image:
        pixels = np.asarray(image.convert("RGB"))
    data = tiff((pixels[::8, ::8], {254: 1}), (pixels, {}), (pixels[::2, ::2], {254: 1}))
    assert pixels_claimed(data, pixels.size) == pixels.size // 3
    with pytest.raises(RefusalError, match="the image has 696 x 520 pixels"):
        pixels_claimed(data, 10_000)
    result = json.loads(answer(model, json.dumps({"image": base64.b64encode(data).decode(), "visualize": False})))[
        "result"
    ]
    assert result["size"] == list(pixels.shape[:2])


@pytest.mark.parametrize(
    ("request_", "status"),
    [("{", 422), ('{"image": "\ud800"}', 422), ('{"image": "http://a.b/c.png"}', 422), (b"\xff", 422)],
)
def test_the_client_s_faults_are_reported(model: Predictor, request_: str | bytes, status: int) -> None:
    reply = json.loads(answer(model, request_))
    assert set(reply) == {"logId", "errorCode", "errorMsg"} and reply["errorCode"] == status


def test_the_model_s_faults_are_not_reported(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModelError("no memory")

    monkeypatch.setattr(model, "detect", fail)
    reply = json.loads(answer(model, json.dumps({"image": encoded(), "logId": "a"})))
    assert reply == {"logId": "a", "errorCode": 500, "errorMsg": "Internal server error"}


def test_each_image_has_its_own_threshold(model: Predictor) -> None:
    pixels = np.asarray(Image.open(IMAGE).convert("RGB"))[..., ::-1]
    thresholds: list[float | Mapping[int | str, float] | None] = [0.3, None, {"nucleus": 0.8}]
    alone = [model.detect([pixels], [threshold])[0] for threshold in thresholds]
    together = model.detect([pixels] * 3, thresholds)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        assert all((a == b).all() for a, b in zip(one.masks, other.masks, strict=True))
    assert len(alone[0]) > len(alone[1]) > len(alone[2]) > 0
    with pytest.raises(ValueError, match="1 threshold for 2 images"):
        model.detect([pixels] * 2, [0.5])


@pytest.mark.parametrize("suffix", sorted(set(READABLE) - {"dib", "sr", "ras", "pbm"}))
def test_sizes_are_read_from_headers(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{suffix}"
    Image.new("L" if suffix == "pgm" else "RGB", (37, 23)).save(file)
    assert header_size(io.BytesIO(file.read_bytes())) == (23, 37)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exact": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_sizes_of_each_kind_of_webp(mode: str, options: dict[str, bool]) -> None:
    file = io.BytesIO()
    Image.effect_noise((3000, 17), 50).convert(mode).save(file, "WEBP", **options)
    assert header_size(file) == (17, 3000)
    with pytest.raises(InputError, match="cut short"):
        header_size(io.BytesIO(file.getvalue()[:22]))


def test_a_webp_that_claims_too_much_takes_no_room() -> None:
    bomb = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (16_000_000).to_bytes(3, "little") * 2
    assert header_size(io.BytesIO(bomb)) == (16_000_001, 16_000_001)


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.lists(st.binary(max_size=99), max_size=5))
def test_messages_arrive_as_they_were_sent(head: dict[str, int | str], parts: list[bytes]) -> None:
    head.pop("sizes", None)
    packed = wire.pack(head, parts)

    async def received(data: bytes) -> list[wire.Message | None]:
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        return [await wire.receive(stream), await wire.receive(stream)]

    sent = wire.Message({**head, "sizes": [len(part) for part in parts]}, parts)
    assert asyncio.run(received(packed)) == [sent, None]
    assert asyncio.run(received(packed[:-1])) == [None, None]
    file = io.BytesIO(packed + packed[:-1])
    assert [wire.read(file), wire.read(file), wire.read(file)] == [sent, None, None]
