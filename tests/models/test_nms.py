"""Suppression is the definition's, in torch and in a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from fixtures import graphs
from torch import Tensor, nn

from maskline.models.iou import box_iou
from maskline.models.nms import BLOCK, LOWEST, batched_nms

EVERYTHING = 10**6
Suppress = Callable[[Tensor, Tensor], Tensor]


def some_boxes(groups: int, number: int, spread: float = 40) -> Tensor:
    first = torch.rand(groups, number, 2) * spread
    return torch.cat([first, first + 8 + torch.rand(groups, number, 2) * 30], dim=2)


def defined(boxes: Tensor, scores: Tensor, score: float, overlap: float) -> np.ndarray:
    """Which boxes stay, box by box; of equal scores the first is better."""
    stays = np.zeros(scores.shape, bool)
    for i, c in np.ndindex(*scores.shape[:2]):
        order = scores[i, c].argsort(descending=True, stable=True)
        order = order[scores[i, c, order] > score]
        sorted_ = boxes[i, order]
        suppresses = (box_iou(sorted_[:, None], sorted_) > overlap).numpy()
        kept: list[int] = []
        for j in range(len(order)):
            if not suppresses[kept, j].any():
                kept.append(j)
        stays[i, c, order[kept].numpy()] = True
    return stays


def best(stays: np.ndarray, scores: Tensor, keep: int) -> np.ndarray:
    """The ``keep`` best of each group alone."""
    values = np.where(stays, scores.numpy(), -np.inf).reshape(len(stays), -1)
    limit = np.sort(values, axis=1)[:, -min(keep, values.shape[1])]
    return ((values >= limit[:, None]) & np.isfinite(values)).reshape(stays.shape)


class Suppressor(nn.Module):
    """The operator in a network."""

    def __init__(self, score: float, overlap: float, keep: int) -> None:
        super().__init__()
        self.score, self.overlap, self.keep = score, overlap, keep

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return batched_nms(
            boxes, scores, score_threshold=self.score, iou_threshold=self.overlap, max_detections=self.keep
        )


def opened(score: float, overlap: float, keep: int) -> onnxruntime.InferenceSession:
    """With any number of groups and boxes, and three classes."""
    example = some_boxes(2, 60), torch.rand(2, 3, 60)
    return graphs.open_graph(Suppressor(score, overlap, keep), example, free=[(0, 1), (0, 2)])


def as_graph(session: onnxruntime.InferenceSession) -> Suppress:
    return lambda boxes, scores: torch.from_numpy(graphs.run(session, boxes, scores)[0])


@pytest.fixture(scope="module")
def graph() -> Suppress:
    """Without a limit on scores."""
    return as_graph(opened(LOWEST, 0.5, EVERYTHING))


@pytest.fixture(params=["torch", "graph"])
def suppressed(request: pytest.FixtureRequest, graph: Suppress) -> Suppress:
    """The suppression in torch, and the same in a graph."""
    return partial(batched_nms, iou_threshold=0.5, max_detections=EVERYTHING) if request.param == "torch" else graph


# The definition


@pytest.mark.parametrize("keep", [EVERYTHING, 90, 10, 1])
@pytest.mark.parametrize("score", [0.3, LOWEST])
def test_what_stays_is_the_definition_s(score: float, keep: int) -> None:
    torch.manual_seed(0)
    boxes, scores = some_boxes(2, 60), torch.rand(2, 3, 60)
    found = batched_nms(boxes, scores, score_threshold=score, iou_threshold=0.4, max_detections=keep)
    assert found.dtype == torch.bool and found.shape == scores.shape
    expected = defined(boxes, scores, score, 0.4)
    np.testing.assert_array_equal(best(found.numpy(), scores, keep), best(expected, scores, keep))
    assert 0 < expected.sum() < (scores > score).sum()
    assert (scores > score)[found].all()


@pytest.mark.parametrize("spread", [60, 3000])
@pytest.mark.parametrize("number", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_change_nothing(number: int, spread: float) -> None:
    """Few stay and suppress others in all blocks after them, or nearly all stay."""
    torch.manual_seed(0)
    boxes, scores = some_boxes(1, number, spread), torch.rand(1, 1, number)
    expected = defined(boxes, scores, LOWEST, 0.5)
    found = batched_nms(boxes, scores, iou_threshold=0.5, max_detections=EVERYTHING).numpy()
    np.testing.assert_array_equal(found, expected)
    assert expected.mean() < 0.3 if spread < 1000 else 0.9 < expected.mean() < 1


@pytest.mark.parametrize("keep", [1, 300])
def test_the_best_of_many_blocks_are_right_however_few_are_kept(keep: int) -> None:
    torch.manual_seed(1)
    boxes, scores = some_boxes(2, 1500, 300), torch.rand(2, 2, 1500)
    found = batched_nms(boxes, scores, iou_threshold=0.5, max_detections=keep).numpy()
    expected = defined(boxes, scores, LOWEST, 0.5)
    np.testing.assert_array_equal(best(found, scores, keep), best(expected, scores, keep))
    assert (expected.reshape(2, -1).sum(axis=1) > keep).all()


def test_in_any_order_the_same_boxes_stay(suppressed: Suppress) -> None:
    torch.manual_seed(0)
    boxes, scores = some_boxes(1, 80), torch.rand(1, 3, 80)
    order = torch.randperm(80)
    found = suppressed(boxes, scores)
    assert torch.equal(suppressed(boxes[:, order], scores[..., order]), found[..., order])


# Chains, ties, groups


@pytest.mark.parametrize("length", [2, 7, 40, 400])
def test_in_a_chain_each_second_box_stays(suppressed: Suppress, length: int) -> None:
    """Each box overlaps the next by 7 / 13 and the one after by 4 / 16: what is suppressed suppresses nothing.

    The longest one, of three classes, is more than a block.
    """
    left = 3.0 * torch.arange(length)
    zero = torch.zeros(length)
    boxes = torch.stack([left, zero, left + 10, zero + 10], dim=1)[None]
    scores = torch.linspace(0.9, 0.1, length).expand(1, 3, -1).contiguous()
    assert torch.equal(suppressed(boxes, scores), (torch.arange(length) % 2 == 0).expand(1, 3, -1))
    backwards = (torch.arange(length).flip(0) % 2 == 0).expand(1, 3, -1)
    assert torch.equal(suppressed(boxes, scores.flip(2).contiguous()), backwards)


def test_of_equal_scores_the_first_is_better(suppressed: Suppress) -> None:
    torch.manual_seed(0)
    boxes, scores = some_boxes(1, 60), (torch.rand(1, 3, 60) * 3).ceil()
    np.testing.assert_array_equal(suppressed(boxes, scores).numpy(), defined(boxes, scores, LOWEST, 0.5))
    same = torch.tensor([[[5.0, 5, 20, 20]] * 4])
    assert suppressed(same, torch.full((1, 3, 4), 0.5)).tolist() == [[[True, False, False, False]] * 3]


def test_just_the_overlap_is_not_too_much(suppressed: Suppress) -> None:
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 4], [0, 0, 8, 4.01]]])
    assert suppressed(boxes[:, :2], torch.tensor([[[0.9, 0.8]] * 3])).all()
    assert suppressed(boxes[:, ::2], torch.tensor([[[0.9, 0.8]] * 3])).tolist() == [[[True, False]] * 3]


def test_groups_and_classes_do_not_touch_each_other(suppressed: Suppress) -> None:
    torch.manual_seed(0)
    boxes, scores = some_boxes(1, 60).expand(4, -1, -1).contiguous(), torch.rand(4, 3, 60)
    scores[2] = -torch.inf
    together = suppressed(boxes, scores)
    assert not torch.equal(together[0], together[1]) and not together[2].any()
    for group in range(4):
        assert torch.equal(together[group], suppressed(boxes[group, None], scores[group, None])[0])
    for label in range(3):
        alone = torch.full_like(scores, -torch.inf)
        alone[:, label] = scores[:, label]
        assert torch.equal(suppressed(boxes, alone)[:, label], together[:, label])


# What does not take part


def test_what_has_no_score_is_never_chosen(suppressed: Suppress) -> None:
    """Nor does it suppress; scores may otherwise be any, as logits are."""
    torch.manual_seed(0)
    boxes, scores = some_boxes(2, 60), torch.randn(2, 3, 60) * 1e3
    away = torch.rand(2, 3, 60) < 0.4
    scores[away] = -torch.inf
    found = suppressed(boxes, scores)
    assert not found[away].any()
    np.testing.assert_array_equal(found.numpy(), defined(boxes, scores, LOWEST, 0.5))
    assert (scores[found] < 0).any()
    assert not suppressed(boxes, torch.full_like(scores, -torch.inf)).any()


def test_no_boxes_are_legal(suppressed: Suppress) -> None:
    assert suppressed(torch.zeros(2, 0, 4), torch.zeros(2, 3, 0)).shape == (2, 3, 0)


def test_boxes_without_area_suppress_nothing(suppressed: Suppress) -> None:
    boxes = torch.tensor([[[5.0, 5, 5, 5], [5, 5, 5, 5], [5, 5, 9, 9], [5, 5, 9, 5]]])
    assert suppressed(boxes, torch.tensor([[[0.9, 0.8, 0.7, 0.6]] * 3])).all()


# The graph


def test_the_graph_gives_what_torch_gives(graph: Suppress) -> None:
    torch.manual_seed(0)
    for groups, number, spread in ((1, 60, 40.0), (5, 7, 10.0), (2, 2 * BLOCK + 100, 200.0), (3, 1, 40.0)):
        boxes, scores = some_boxes(groups, number, spread), torch.randn(groups, 3, number)
        expected = batched_nms(boxes, scores, iou_threshold=0.5, max_detections=EVERYTHING)
        assert torch.equal(graph(boxes, scores), expected)
        assert number == 1 or not expected.all()


def test_the_graph_has_the_best_with_a_limit_on_scores_and_on_their_number() -> None:
    torch.manual_seed(0)
    limited = as_graph(opened(0.3, 0.4, 20))
    for groups, number in ((1, 60), (3, 200)):
        boxes, scores = some_boxes(groups, number), torch.rand(groups, 3, number)
        expected = best(defined(boxes, scores, 0.3, 0.4), scores, 20)
        for found in (limited(boxes, scores), Suppressor(0.3, 0.4, 20)(boxes, scores)):
            np.testing.assert_array_equal(best(found.numpy(), scores, 20), expected)
    assert not limited(boxes, scores * 0.3).any()
