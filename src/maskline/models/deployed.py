"""A network as the runtime uses it: pixels in, detections out."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from maskline.models.network import Detections, Network
from maskline.preprocess import Preprocess
from maskline.runtime.graph import Raw


class Normalise(nn.Module):
    """Convert pixels from `Preprocess.apply` to a network's normalised input."""

    factor: Tensor
    offset: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        std = torch.tensor(preprocess.std)
        self.register_buffer("factor", (preprocess.scale / std).view(3, 1, 1))
        self.register_buffer("offset", (torch.tensor(preprocess.mean) / std).view(3, 1, 1))
        self.plain, self.done = not any(preprocess.mean), preprocess.float_resize

    @property
    def keeps_zero(self) -> bool:
        """Whether zero padding of a batch stays 0."""
        return self.done or self.plain

    def forward(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) RGB, uint8, or float32 if already normalised, to (B, 3, H, W)."""
        x = image.permute(0, 3, 1, 2).to(self.factor.dtype)
        if self.done:
            return x
        x = x * self.factor
        return x if self.plain else x - self.offset


class Deployed(nn.Module):
    """A network with normalisation included; takes the graph's input."""

    def __init__(self, network: Network, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.normalise = Normalise(preprocess)
        self.eval()

    def forward(self, image: Tensor) -> Detections:
        """(B, H, W, 3) uint8 RGB to detections."""
        return self.network(self.normalise(image))

    def run(self, images: npt.NDArray[Any]) -> Raw:
        """(B, H, W, 3) from `Preprocess.apply` to the outputs of a graph; runs on the network's device."""
        with torch.no_grad():
            found = self(torch.from_numpy(images).to(self.normalise.factor.device))
        boxes, scores, labels, masks = (tensor.cpu() for tensor in found)
        return Raw(boxes.float().numpy(), scores.float().numpy(), labels.numpy(), masks.float().numpy())
