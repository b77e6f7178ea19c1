"""Weights from files: every key accounted for, every fault reported at once."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import stand_in
from safetensors.torch import load_file
from torch import nn

from maskline import catalog, models
from maskline.errors import InputNotFoundError, UnknownNameError, WeightsError
from maskline.models.families import family_of
from maskline.models.mask_rtdetr.network import MaskRTDETR
from maskline.models.mask_rtdetr.weights import RENAME
from maskline.weights.arrays import rename_keys
from maskline.weights.load import empty_network, labels_in_file, load_network, mismatches, save_weights


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    return path


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return stand_in.state("Mask-RT-DETR-S")


def test_every_key_is_used_once_in_the_right_layout(pdparams: Path, arrays: dict[str, np.ndarray]) -> None:
    network = load_network("Mask-RT-DETR-S", pdparams)
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    renamed = rename_keys(list(arrays), RENAME)
    assert set(renamed.values()) == set(state) and len(renamed) == len(state) == 646
    linear = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    for old, new in renamed.items():
        expected = arrays[old].T if new in linear else arrays[old]
        np.testing.assert_array_equal(state[new].numpy(), expected, err_msg=new)
    assert not network.training


def test_every_rename_rule_is_needed(arrays: dict[str, np.ndarray]) -> None:
    names = list(arrays)
    unused = [
        pattern
        for pattern, _ in RENAME
        if not any(re.search(pattern, intermediate) for n in names for intermediate in steps(n))
    ]
    assert not unused


def steps(name: str) -> list[str]:
    """A name before each rule."""
    names = [name]
    for pattern, replacement in RENAME:
        names.append(re.sub(pattern, replacement, names[-1]))
    return names


def test_two_names_never_become_one() -> None:
    with pytest.raises(WeightsError, match="'a.x' and 'b.x' both map to 'c.x'"):
        rename_keys(["a.x", "b.x"], ((r"^[ab]\.", "c."),))


def test_all_faults_in_one_message(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    wrong = dict(arrays)
    del wrong["transformer.dec_norm.weight"]
    wrong["neck.enc_mask_output.1.bias"] = np.zeros(7, np.float32)
    wrong["extra.weight"] = np.zeros((2, 3), np.float32)
    with pytest.raises(WeightsError) as caught:
        load_network("Mask-RT-DETR-S", write(tmp_path / "w.pdparams", wrong))
    first, *rest = str(caught.value).split("\n  ")
    assert "does not fit Mask-RT-DETR-S: 1 missing, 1 unexpected, 1 misshapen keys" in first
    assert rest == [
        "missing: decoder.norm.weight [256]",
        "unexpected: extra.weight [2, 3]",
        "misshapen: neck.mask_features.project.bias (neck.enc_mask_output.1.bias in the file) is [7], expected [128]",
    ]


def test_weights_of_another_size_are_recognised(pdparams: Path) -> None:
    with pytest.raises(WeightsError, match="these are the weights of Mask-RT-DETR-S: name that model"):
        load_network("Mask-RT-DETR-L", pdparams)


def test_weights_say_how_many_classes_there_are(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    few = dict(arrays)
    for key in ("transformer.score_head.weight", "transformer.score_head.bias"):
        few[key] = few[key][..., :3].copy()
    few["transformer.denoising_class_embed.weight"] = few["transformer.denoising_class_embed.weight"][:3].copy()
    network = load_network("Mask-RT-DETR-S", write(tmp_path / "w.pdparams", few))
    assert isinstance(network, MaskRTDETR)
    assert network.num_classes == 3 and network.decoder.class_head.out_features == 3


def test_safetensors_round_trip(tmp_path: Path, pdparams: Path) -> None:
    network = load_network("Mask-RT-DETR-S", pdparams)
    save_weights(network.state_dict(), tmp_path / "w.safetensors", "Mask-RT-DETR-S", ["a", "b"])
    assert labels_in_file(tmp_path / "w.safetensors") == ("a", "b")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert len(load_file(tmp_path / "w.safetensors")) == 646
    again = load_network("Mask-RT-DETR-S", tmp_path / "w.safetensors").state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no weights file"):
        load_network("Mask-RT-DETR-S", tmp_path / "none.pdparams")
    with pytest.raises(UnknownNameError, match="did you mean"):
        load_network("Mask-RT-DETR-Z", tmp_path / "none.pdparams")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_network("Mask-RT-DETR-S", tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match="0 missing|646 missing"):
        load_network("Mask-RT-DETR-S", write(tmp_path / "empty.pdparams", {"x": np.zeros(1, np.float32)}))


@pytest.mark.parametrize("spec", catalog.MODELS.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("classes", [1, 7])
def test_a_parameter_of_each_network_shows_the_number_of_classes(spec: catalog.Model, classes: int) -> None:
    """And a network made for a state of that many is one whose weights fit."""
    with torch.device("meta"):
        state = models.build(spec.name, classes).state_dict()
    assert state[family_of(spec.name).class_parameter].shape == (classes,)
    assert not mismatches(empty_network(spec.name, state), {k: v for k, v in state.items() if "num_batches" not in k})
    assert mismatches(empty_network(spec.name, {}), {k: v for k, v in state.items() if "num_batches" not in k})
