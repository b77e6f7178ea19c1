"""The losses of Mask-RT-DETR and their gradients are PaddleDetection's.

Two frameworks can't draw the same random numbers, so PaddleDetection's were replaced by known ones, and so are ours
(`Draws`). There are two collections. ``losses/detail`` has every step on the way for the S model at half size, with
batch norm on batch statistics ("trainbn") and on running ones ("evalbn"): seen errors are 1e-6, with batch statistics
1e-4. ``losses`` has sums for whole models at full size. There a random network magnifies rounding: noise of 1e-7 on the
image, or another number of threads, moves a last layer's loss by 5e-3. So ours runs in double precision.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import det_weights, parts, stand_in
from fixtures.spies import keeping
from torch import Tensor, nn

from maskline.models.layers import box_xyxy_to_cxcywh
from maskline.models.mask_rtdetr import loss
from maskline.models.mask_rtdetr.decoder import Prediction, QueryDecoder, TrainingOutput
from maskline.models.mask_rtdetr.denoising import Noise, UnitTarget
from maskline.models.mask_rtdetr.loss import PARTS, LossConfig, box_fit, losses, mask_fit, training_points
from maskline.models.mask_rtdetr.matcher import Objects, denoising_pairs, match, match_costs
from maskline.models.mask_rtdetr.network import MaskRTDETR
from maskline.models.mask_rtdetr.weights import RENAME
from maskline.weights.arrays import rename_keys
from maskline.weights.load import load_network

LOSS_TOLERANCE = 1e-3  # relative, of each component
NORM_TOLERANCE = 1e-2  # relative, of a block's gradient
NEAR_TIE = 1e-5  # of logits
#: At full size PaddleDetection disagrees with itself: with and without denoising its ``loss_mask`` differs by 1e-3, but
#: all that enters is the same. In double precision ours are equal, and 1.6e-3 and 2.6e-3 from PaddleDetection's.
FULL_SIZE_LOSS_TOLERANCE = {"loss_mask": 4e-3}
FULL_SIZE_NORM_TOLERANCE = {"transformer.query_pos_head": 2e-2}  # seen: 1.2e-2; all other blocks 6e-3

Uniform = Callable[[str, tuple[int, ...]], np.ndarray]  # what PaddleDetection calls a draw, and its shape there
NewLabels = Callable[[np.ndarray], np.ndarray]  # which of all denoising labels in a row are replaced, to the new ones

DETAIL = stand_in.fixture("losses", "detail", "Mask-RT-DETR-S.json")
CONFIG = LossConfig()
FULL_SIZE = ("Mask-RT-DETR-S", "Mask-RT-DETR-S_dn100", "Mask-RT-DETR-L")


class Draws:
    """Known numbers in place of random ones, in the order in which the network and the loss ask for them."""

    def __init__(self, uniform: Uniform, new_labels: NewLabels, layers: int) -> None:
        self.uniform, self.new_labels = uniform, new_labels
        names = [f"L{i}/match" for i in range(layers)] + [f"L{i}/{k}" for i in range(layers) for k in ("over", "rand")]
        self.names = iter(names + [f"dnL{i}/{k}" for i in range(layers - 1) for k in ("over", "rand")])
        self.label_noise = np.zeros(0)

    def points(self, name: str, shape: tuple[int, ...]) -> Tensor:
        kept = shape if name.endswith("rand") else (shape[0], 1, *shape[1:])  # PaddleDetection has an axis of one there
        return torch.from_numpy(self.uniform(name, kept)).view(shape)

    def rand(self, shape: tuple[int, ...], **_: Any) -> Tensor:
        if len(shape) == 3:
            return self.points(next(self.names), tuple(shape))
        self.label_noise = self.uniform("dn/label_u", (shape[0] * shape[1],))  # all labels of a batch in a row
        return torch.from_numpy(self.label_noise).view(shape)

    def rand_like(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.uniform("dn/box_u", tuple(like.shape)))

    def randint_like(self, labels: Tensor, high: int) -> Tensor:
        """PaddleDetection draws for the chosen places only; ours for all, and then uses the chosen."""
        chosen = np.nonzero((self.label_noise < 0.25) & (labels.numpy().ravel() < high))[0]
        new = np.zeros(labels.numel(), np.int64)
        new[chosen] = self.new_labels(chosen)
        return torch.from_numpy(new).view(labels.shape)


@dataclass
class Step:
    """A training step up to the gradients."""

    network: MaskRTDETR
    names: dict[str, str]  # of parameters: PaddleDetection's to ours
    objects: Objects
    output: TrainingOutput
    losses: dict[str, Tensor]
    layers: list[Tensor]  # what `layer_losses` gave: for ordinary queries, and for denoising queries

    def parameters(self) -> dict[str, nn.Parameter]:
        """Those with a gradient, by PaddleDetection's names.

        Where there are no denoising queries, their embedding has none in PaddleDetection and one of zeros in ours.
        """
        ours = {n: p for n, p in self.network.named_parameters() if p.grad is not None}
        if self.output.groups is None:
            idle = ours.pop("decoder.label_embedding.weight", None)
            assert idle is None or not parts.gradient(idle).any()
        return {old: ours[new] for old, new in self.names.items() if new in ours}

    def norm(self, block: str) -> float:
        """Statistics of the gradient of all parameters below a name."""
        below = [p for n, p in self.parameters().items() if f"{n}.".startswith(f"{block}.")]
        inside = [parts.gradient(p).flatten().double() for p in below]
        return float(torch.cat(inside).norm()) if inside else 0.0

    def sampled(self, name: str, value: Tensor, every: int) -> np.ndarray:
        """Every n-th number in PaddleDetection's layout, which has linear weights the other way round."""
        owner = self.network.get_submodule(self.names[name].rpartition(".")[0])
        value = value.detach().T if isinstance(owner, nn.Linear) and value.ndim == 2 else value.detach()
        return value.contiguous().numpy().ravel()[::every]


def take_step(
    network: MaskRTDETR, model: str, image: Tensor, targets: list[UnitTarget], draws: Draws, *, train_norms: bool
) -> Step:
    """Freeze what PaddleDetection's configs freeze, then forward and losses with PaddleDetection's draws."""
    network.train(train_norms).backbone.eval()
    for module in network.frozen():
        module.requires_grad_(False)
    layers: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        for function in ("rand", "rand_like", "randint_like"):
            patch.setattr(torch, function, getattr(draws, function))
        patch.setattr(loss, "layer_losses", keeping(layers, loss.layer_losses))
        output = network.forward_train(image, targets)
        found = losses(output, targets)
    manifest = json.loads(stand_in.fixture("manifests", f"{model}.json").read_text())
    names = rename_keys([name for name, *_ in manifest], RENAME)
    return Step(network, names, Objects.of(targets), output, found, layers)


def assert_close(ours: float, theirs: float, tolerance: float, what: str) -> None:
    assert ours == pytest.approx(theirs, rel=tolerance, abs=1e-7), what


# every step on the way: Mask-RT-DETR-S, 320 x 320, three and five objects


@dataclass
class Detail:
    name: str  # with batch norm in training or not, with denoising or not
    record: dict[str, Any]
    optimizer: dict[str, Any]
    arrays: Any
    batch: ModuleType  # makes the images and the draws
    step: Step

    def in_double_precision(self) -> Step:
        network = copy.deepcopy(self.step.network).double()
        return detail_step(network, self.name, self.batch, selected_queries(self.arrays, self.name))

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[f"{self.name}/{key}"]

    def match_points(self, name: str) -> Tensor:
        return detail_draws(self.name, self.batch).points(f"{name}/match", (2, CONFIG.num_points, 2))

    def predictions(self) -> dict[str, Prediction]:
        """By their names in the record; ``L`` of all queries that are matched, ``dnL`` of denoising ones."""
        output = self.step.output
        ordinary = {f"L{i}": p for i, p in enumerate([output.encoder, *output.layers])}
        return ordinary | {f"dnL{i}": p for i, p in enumerate(output.denoising)}


def detail_draws(name: str, batch: ModuleType) -> Draws:
    labels = batch.integers("dn/new_label", 80, [200])
    return Draws(batch.uniform, lambda places: labels[places], 8 if name.endswith("_dn") else 7)


def selected_queries(arrays: Any, name: str) -> Tensor:
    return torch.from_numpy(arrays[f"{name}/enc_topk_index"]).long()


def load_batch_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("det_batch", DETAIL.with_name("det_batch.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["evalbn_nodn", "evalbn_dn", "trainbn_dn"])
def detail(request: pytest.FixtureRequest, pdparams: Path) -> Detail:
    if not DETAIL.exists():
        pytest.skip("PaddleDetection's records are not in the project")
    batch, name = load_batch_module(), request.param
    network = load_network("Mask-RT-DETR-S", pdparams)
    assert isinstance(network, MaskRTDETR)
    network.decoder.noise = Noise(100 if name.endswith("_dn") else 0)
    about, arrays = json.loads(DETAIL.read_text()), np.load(DETAIL.with_suffix(".npz"))
    step = detail_step(network, name, batch, selected_queries(arrays, name))
    return Detail(name, about[name], about["optimizer_step"], arrays, batch, step)


def detail_step(network: MaskRTDETR, name: str, batch: ModuleType, selected: Tensor) -> Step:
    """The step of a record, with gradients, in the network's precision; ``selected`` are PaddleDetection's queries."""
    dtype = next(network.parameters()).dtype

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(dtype) if array.dtype.kind == "f" else torch.from_numpy(array)

    made = batch.batch(320, 320)
    boxes = batch.cxcywh_normalised(made)
    targets = [UnitTarget(*map(tensor, o)) for o in zip(made["classes"], boxes, made["masks"], strict=True)]
    draws = detail_draws(name, batch)
    image = tensor(batch.norm_01(made))

    def select(decoder: QueryDecoder, logits: Tensor) -> Tensor:
        """PaddleDetection's: ours, where rounding may swap those that score nearly the same."""
        scores = logits.amax(dim=-1)
        ours = scores.topk(decoder.num_queries, dim=1).values
        torch.testing.assert_close(scores.gather(1, selected), ours, rtol=0, atol=NEAR_TIE)
        return selected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QueryDecoder, "select", select)
        step = take_step(network, "Mask-RT-DETR-S", image, targets, draws, train_norms=name.startswith("train"))
    parts.total(step.losses.values()).backward(retain_graph=True)
    return step


def test_denoising_queries(detail: Detail) -> None:
    groups = detail.step.output.groups
    if groups is None:
        assert detail.name == "evalbn_nodn"
        return
    assert groups.groups == detail.record["dn"]["num_group"]
    assert [p.tolist() for p in groups.positions] == detail.record["dn"]["positive_idx"]
    boxes = torch.sigmoid(torch.from_numpy(detail["dn_bbox_unact"]))
    torch.testing.assert_close(groups.boxes, boxes, rtol=0, atol=1e-6)
    content, theirs = groups.content.detach().numpy().ravel(), detail["dn_class_embed_sub"]
    np.testing.assert_array_equal(content[:: len(content) // (len(theirs) - 1) | 1][: len(theirs)], theirs)


def test_costs_and_matches(detail: Detail) -> None:
    """The same query for the same object, in each of seven or eight predictions."""
    objects = detail.step.objects
    for name, prediction in detail.predictions().items():
        if name.startswith("dn"):
            continue
        points = detail.match_points(name)
        costs = match_costs(prediction, objects, points, CONFIG.match_weights)
        for i, cost in enumerate(costs):
            theirs = detail[f"cost/{name}/{i}"]
            np.testing.assert_allclose(cost.numpy(), theirs, rtol=0, atol=1e-3 * np.abs(theirs).max(), err_msg=name)
        found = match(prediction, objects, points, CONFIG.match_weights)
        for i, (queries, rows) in enumerate(detail.record["matches"][name]):
            assert found.query[found.image == i].tolist() == queries, name
            assert (found.object[found.image == i] - objects.first()[i]).tolist() == rows, name


def test_fits(detail: Detail) -> None:
    """What the varifocal loss aims at: of masks in the last prediction, of boxes in all others."""
    objects = detail.step.objects
    every = detail.predictions()
    last = {
        max(n for n in every if n.startswith(kind)) for kind in ("L", "dn") if any(n.startswith(kind) for n in every)
    }
    for name, prediction in every.items():
        if name.startswith("dn"):
            assert detail.step.output.groups is not None
            pairs, theirs = denoising_pairs(detail.step.output.groups, objects), detail[f"vfl_iou/{name}"]
        else:
            points = detail.match_points(name)
            pairs = match(prediction, objects, points, CONFIG.match_weights)
            theirs = np.array(detail.record["vfl_iou_targets"][name])
        fit = (mask_fit if name in last else box_fit)(prediction, pairs, objects)
        np.testing.assert_allclose(fit.numpy(), theirs, rtol=0, atol=1e-3, err_msg=name)


def test_points_lie_where_masks_are_uncertain(detail: Detail) -> None:
    objects = detail.step.objects
    name, prediction = [item for item in detail.predictions().items() if item[0].startswith("L")][-1]
    pairs = match(prediction, objects, detail.match_points(name), CONFIG.match_weights)
    draws = detail_draws(detail.name, detail.batch)
    draws.names = iter([f"{name}/over", f"{name}/rand"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", draws.rand)
        points = training_points(prediction.masks[pairs.image, pairs.query][:, None].detach(), CONFIG, None)
    assert list(points.shape) == detail.record["points"][name]["shape"]
    means = points.mean(dim=(0, 1)).tolist()
    assert means == pytest.approx(detail.record["points"][name]["mean"], abs=1e-4)
    ours, theirs = set(map(tuple, points[0].tolist())), detail[f"points/{name}_first_mask_first_50"].tolist()
    assert sum(tuple(point) in ours for point in theirs) >= 49  # the order of nearly equal ones is rounding's


def test_components(detail: Detail) -> None:
    for name, theirs in detail.record["losses"].items():
        ours = parts.total(detail.step.losses.values()) if name == "loss" else detail.step.losses[name]
        assert_close(float(ours.detach()), theirs, LOSS_TOLERANCE, name)


def test_layers(detail: Detail) -> None:
    """Each component of each prediction."""
    normalisers = [sum(detail.step.objects.counts), sum(detail.step.objects.counts) * 20]
    ours: dict[str, float] = {}
    for kind, layers, normaliser in zip(("L", "dnL"), detail.step.layers, normalisers, strict=False):
        rows = (layers.detach() / normaliser).tolist()
        ours |= {f"{kind}{i}/{part}": v for i, row in enumerate(rows) for part, v in zip(PARTS, row, strict=True)}
    assert set(ours) == set(detail.record["per_layer"])
    for name, theirs in detail.record["per_layer"].items():
        assert_close(ours[name], theirs, LOSS_TOLERANCE, name)


def test_gradients(detail: Detail) -> None:
    """Norms of blocks and of every parameter, and single numbers; the same parameters have one."""
    record, theirs = detail.record, detail["grad_norms"]
    assert set(detail.step.parameters()) == set(record["grad_names"])
    rounding = 1e-7 * theirs.max()  # what a bias before a norm gets: mathematically nothing

    def apart(step: Step) -> dict[str, float]:
        """By how much of what is allowed, where it is more."""
        blocks = record["grad_norm_per_block"].items()
        far = {f"{name}.*": abs(step.norm(name) - norm) / (NORM_TOLERANCE * norm + 1e-7) for name, norm in blocks}
        grads = {name: parts.gradient(parameter) for name, parameter in step.parameters().items()}
        for name, norm in zip(record["grad_names"], theirs, strict=True):
            far[f"|{name}|"] = abs(float(grads[name].norm()) - norm) / (NORM_TOLERANCE * norm + rounding)
        for name in record["grad_representative"].keys() & grads.keys():
            about = record["grad_representative"][name]
            sample = step.sampled(name, grads[name], about["step"]) - detail[f"grad/{name}"]
            far[name] = float(np.abs(sample).max()) / (1e-2 * about["absmax"] + rounding)
        return {name: ratio for name, ratio in far.items() if ratio > 1}

    if apart(detail.step):  # PaddleDetection's rounding is most of the bar, so that this processor's may cross it
        assert not apart(detail.in_double_precision())


@pytest.mark.slow
def test_gradients_of_each_part(detail: Detail) -> None:
    for part, blocks in detail.record.get("grad_norm_per_block_by_component", {}).items():
        detail.step.network.zero_grad()
        losses_of_part = [value for name, value in detail.step.losses.items() if part in name.split("_")]
        parts.total(losses_of_part).backward(retain_graph=True)
        for block, theirs in blocks.items():
            assert_close(detail.step.norm(block), theirs, NORM_TOLERANCE, f"{part} {block}")


def test_optimizer_step(detail: Detail) -> None:
    """One step of AdamW with these gradients, clipped to a norm of 0.1, changes weights as in PaddleDetection."""
    if detail.name != "trainbn_dn":
        return
    parameters, about = detail.step.parameters(), detail.optimizer
    assert len(parameters) == about["num_params"]
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    groups = [
        {"params": [p for n, p in parameters.items() if n.startswith("backbone.") == slow], "lr": about["lr"] * factor}
        for slow, factor in ((True, 0.1), (False, 1.0))
    ]
    betas = about["beta1"], about["beta2"]
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=about["epsilon"], weight_decay=1e-4)
    gradients = {name: parts.gradient(parameter).clone() for name, parameter in parameters.items()}
    torch.nn.utils.clip_grad_norm_(parameters.values(), 0.1)
    optimizer.step()
    for name, one in about["params"].items():
        if detail.record["grad_representative"][name]["absmax"] < 1e-3:
            continue  # a bias before a norm: its gradient is rounding, and the step only its direction
        change = parameters[name].detach() - before[name]
        assert float(change.norm()) == pytest.approx(one["delta1_l2"], rel=NORM_TOLERANCE), name
        sample = detail.step.sampled(name, change, one["step"])
        theirs = detail.arrays[f"opt/step1/{name}"] - detail.arrays[f"opt/old/{name}"]
        assert np.mean(np.abs(sample - theirs) < 0.1 * about["lr"] * one["lr_mult"]) > 0.98, name
    for name, parameter in parameters.items():  # other tests use them too
        parameter.data, parameter.grad = before[name], gradients[name]


# whole models at full size


def full_size_targets() -> list[UnitTarget]:
    targets = []
    for seed, number in ((0, 3), (1, 2)):
        boxes, labels, _, masks = det_weights.ground_truth(640, 640, number, seed=seed)
        boxes = box_xyxy_to_cxcywh(torch.from_numpy(boxes) / 640)
        targets.append(UnitTarget(torch.from_numpy(labels), boxes, torch.from_numpy(masks)))
    return targets


@pytest.mark.slow
@pytest.mark.parametrize("case", FULL_SIZE)
def test_full_size(case: str, tmp_path: Path) -> None:
    file = stand_in.fixture("losses", f"{case}.json")
    if not file.exists():
        pytest.skip("PaddleDetection's numbers for this case are not in the project")
    record = json.loads(file.read_text())
    network = load_network(record["model"], stand_in.write(record["model"], tmp_path / "weights.pdparams")).double()
    assert isinstance(network, MaskRTDETR)
    copies = record["num_denoising"]
    network.decoder.noise = Noise(copies)
    image = torch.from_numpy(det_weights.tensor(640, 640, 7, 0.0, 1.0, n=2)).double()
    draws = Draws(
        lambda _, shape: det_weights.uniform(shape), lambda at: (7 * np.arange(len(at)) + 3) % 80, 8 if copies else 7
    )
    step = take_step(network, record["model"], image, full_size_targets(), draws, train_norms=True)
    parts.total(step.losses.values()).backward()
    theirs = dict(record["losses"])
    ours = {name: float(value.detach()) for name, value in step.losses.items()}
    assert_close(sum(ours.values()), theirs.pop("loss"), LOSS_TOLERANCE, "loss")
    for name, value in theirs.items():
        assert_close(ours[name], value, FULL_SIZE_LOSS_TOLERANCE.get(name, LOSS_TOLERANCE), name)
    for block, value in record["grad_norm"].items():
        assert_close(step.norm(block), value, FULL_SIZE_NORM_TOLERANCE.get(block, NORM_TOLERANCE), block)
    for block, number in record["params_with_grad"].items():
        assert sum(f"{n}.".startswith(f"{block}.") for n in step.parameters()) == number, block
