#!/usr/bin/env python3
"""Send an image to `maskline serve`; write the masks of its instances and the rendered image.

Needs Python 3.10 or newer, and: pip install numpy requests
"""

from __future__ import annotations

import argparse
import base64
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import requests

ATTEMPTS = 5  # to reach a busy server
MAX_WAIT = 60  # seconds between two of them


class ClientError(Exception):
    """An error reported in one line."""


def main() -> int:
    options = command_line()
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        run(options)
    except (ClientError, OSError) as fault:
        print("error:", " ".join(str(fault).split()), file=sys.stderr)
        return 1
    return 0


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="MASKLINE_API_KEY in the environment is sent as the API key.")
    parser.add_argument("image", type=Path)
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="URL of the server")
    parser.add_argument("--threshold", type=number(0, 1), help="lowest score, 0 to 1")
    parser.add_argument("--no-image", action="store_true", help="do not render the image")
    parser.add_argument("--timeout", type=number(0.001, 86400), default=60, help="seconds")
    return parser.parse_args()


def number(low: float, high: float) -> Callable[[str], float]:
    """An argparse type for numbers within a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {low} to {high}")
        return value

    return parse


def run(options: argparse.Namespace) -> None:
    try:
        content = options.image.read_bytes()
    except OSError as fault:
        raise ClientError(f"{options.image} can't be read: {fault.strerror}") from None
    request: dict[str, Any] = {"image": base64.b64encode(content).decode(), "visualize": not options.no_image}
    if options.threshold is not None:
        request["threshold"] = options.threshold
    answer = ask(options.url.rstrip("/") + "/instance-segmentation", request, options.timeout)
    try:
        labels = label_image(answer["result"])
        rendered = base64.b64decode(answer["result"].get("image") or "")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as fault:
        raise ClientError(f"unexpected answer: {type(fault).__name__}: {fault}") from None
    options.output_folder.mkdir(parents=True, exist_ok=True)
    write_pgm(options.output_folder / "masks.pgm", labels)
    if rendered:
        (options.output_folder / "rendered.jpg").write_bytes(rendered)


def ask(url: str, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The server's answer. If it is busy (429, 503), the request is repeated after Retry-After."""
    key = os.environ.get("MASKLINE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response = requests.post(url, json=request, headers=headers, timeout=timeout)
        except requests.RequestException as fault:
            raise ClientError(f"no answer from {url}: {fault}") from None
        if response.status_code not in (429, 503) or attempt == ATTEMPTS:
            break
        wait = seconds(response.headers.get("Retry-After", ""))
        print(f"busy ({response.status_code}): again in {wait} s", file=sys.stderr)
        time.sleep(wait)
    return checked(response)


def seconds(retry_after: str) -> int:
    """Seconds to wait, with a default if the header is missing or a date."""
    return min(int(retry_after), MAX_WAIT) if retry_after.isdecimal() else 1


def checked(response: requests.Response) -> dict[str, Any]:
    """The answer, if successful."""
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise ClientError(f"{response.url} answered {response.status_code} without a JSON object")
    if response.status_code != 200 or answer.get("errorCode") != 0:
        raise ClientError(f"{response.status_code}: {answer.get('errorMsg')} (logId {answer.get('logId')})")
    return answer


def label_image(result: dict[str, Any]) -> np.ndarray:
    """Print the instances, best first, and number their pixels 1, 2, ... in an image (height, width)."""
    height, width = result["size"]
    labels = np.zeros((height, width), np.uint16)
    for number, instance in enumerate(result["instances"], start=1):
        x0, y0, x1, y1 = instance["bbox"]
        rows, cols = instance["mask"]["size"]
        top, left = round(y0), round(x0)  # half to even, as the server does
        if min(top, left, rows, cols) < 0 or top + rows > height or left + cols > width:
            raise ClientError("unexpected answer: a mask exceeds the image")
        mask = decode_rle(instance["mask"]["rleResult"], rows, cols)
        window = labels[top : top + rows, left : left + cols]
        window[mask & (window == 0)] = number
        name, score, pixels = instance["categoryName"], instance["score"], np.count_nonzero(mask)
        print(f"{score:.4f}\t{x0:.1f}\t{y0:.1f}\t{x1:.1f}\t{y1:.1f}\t{pixels}\t{name}")
    return labels


def decode_rle(counts: str, rows: int, cols: int) -> np.ndarray:
    """The mask (rows, cols) decoded from COCO's compressed RLE.

    Runs of background and foreground in turn, background first, go down the columns. From the fourth on, the difference
    to the run two places earlier is written. A number comes in groups of five bits, lowest first, the last one's
    highest bit its sign; 32 is added where more groups follow, and 48 to make it a character.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        value -= (group & 16) << (shift - 4)
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if sum(runs) != rows * cols or min(runs, default=0) < 0:
        raise ClientError(f"unexpected answer: RLE does not match {rows} x {cols} pixels")
    foreground = np.arange(len(runs)) % 2 == 1
    return np.repeat(foreground, runs).reshape(cols, rows).T


def write_pgm(path: Path, labels: np.ndarray) -> None:
    """16 bits a pixel, high byte first."""
    height, width = labels.shape
    path.write_bytes(f"P5\n{width} {height}\n65535\n".encode() + labels.astype(">u2").tobytes())


if __name__ == "__main__":
    sys.exit(main())
