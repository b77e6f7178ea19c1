"""Padding inside a network: what is added, and that a graph adds the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures import graphs
from torch import Tensor, nn

from maskline.models.padding import pad_to_multiple

SIZES = ((1, 1), (31, 33), (32, 64), (63, 1), (65, 96), (100, 7))


class Padded(nn.Module):
    """And something after it that needs even sides."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        padded = pad_to_multiple(image, 32)
        half = nn.functional.avg_pool2d(padded, 2)
        return padded, padded + nn.functional.interpolate(half, size=padded.shape[-2:], mode="nearest")


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_zeros_below_and_right_up_to_the_next_multiple(height: int, width: int) -> None:
    image = torch.rand(2, 3, height, width) + 1
    padded = pad_to_multiple(image, 32)
    assert padded.shape == (2, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    assert torch.equal(padded[..., :height, :width], image)
    assert padded.count_nonzero() == image.numel()


def test_another_multiple_and_precision() -> None:
    image = torch.rand(1, 3, 10, 20, dtype=torch.float64)
    assert pad_to_multiple(image, 7).shape == (1, 3, 14, 21) and pad_to_multiple(image, 7).dtype == torch.float64
    assert torch.equal(pad_to_multiple(image, 1), image)


def test_gradients_pass_to_the_image_alone() -> None:
    image = torch.rand(1, 3, 10, 20, requires_grad=True)
    (2 * pad_to_multiple(image, 32)).sum().backward()
    assert image.grad is not None and torch.equal(image.grad, torch.full_like(image, 2))


def test_the_graph_pads_alike_at_any_size() -> None:
    session = graphs.open_graph(Padded(), (torch.rand(2, 3, 40, 50),), free=[(0, 2, 3)])
    for height, width in SIZES:
        image = torch.rand(3, 3, height, width)
        (padded, more), expected = graphs.run(session, image), Padded()(image)
        np.testing.assert_array_equal(padded, expected[0].numpy())
        np.testing.assert_allclose(more, expected[1].numpy(), rtol=0, atol=1e-6)
