"""The list of families: complete, and all that a new one has to be added to."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import toy
from fixtures.discs import make_discs

from maskline import catalog, create_model, models
from maskline.errors import ParameterError, WeightsError
from maskline.models import families
from maskline.models.families import FAMILIES, family_of
from maskline.models.family import Family
from maskline.models.network import Network
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.training import TrainSettings, train
from maskline.training.augment import recipe_augment
from maskline.weights.load import config_in_file, load_network, save_weights


def test_catalog_and_families_name_the_same_models() -> None:
    assert {family.name for family in FAMILIES} == set(catalog.FAMILIES)
    assert len(FAMILIES) == len(catalog.FAMILIES)
    for family in FAMILIES:
        assert set(family.configs) == {row.name for row in catalog.MODELS.values() if row.family == family.name}


@pytest.mark.parametrize("name", catalog.MODELS)
def test_every_model_keeps_the_contract_of_networks(name: str) -> None:
    with torch.device("meta"):
        network = models.build(name, 3)
    assert isinstance(network, Network) and network.num_classes == 3
    assert network.config == family_of(name).configs[name]
    parts = set(network.modules())
    assert {decisive.layer for decisive in network.decisive()} <= parts and set(network.frozen()) <= parts
    assert any(parameter.startswith("backbone.") for parameter, _ in network.named_parameters())
    assert network.weights_config().keys() == set(network.trained_with)
    assert len(network.state_dict()[family_of(name).class_parameter]) == 3
    recipe_augment(name)


@pytest.mark.parametrize("missing", ["forward", "losses", "frozen", "decisive", "mask_layout"])
def test_a_network_that_owes_something_is_not_built(missing: str) -> None:
    part = type("Part", (toy.Toy,), {missing: getattr(Network, missing)})
    with pytest.raises(TypeError, match=f"abstract.* {missing}"):
        part(toy.ToyConfig(), 3)


def test_values_of_a_configuration_are_checked() -> None:
    """By their names and their types."""
    assert toy.FAMILY.config(toy.NAME, {"width": 5}) == toy.ToyConfig(width=5)
    for wrong, message in (({"depth": 5}, "configuration of Toy-S has no 'depth'"), ({"squared": 1}, "squared is 1")):
        with pytest.raises(ParameterError, match=message):
            toy.FAMILY.config(toy.NAME, wrong)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Family[toy.ToyConfig]:
    """A family more: an entry in the tuple, and its rows in the catalog."""
    monkeypatch.setattr(families, "FAMILIES", (*FAMILIES, toy.FAMILY))
    monkeypatch.setitem(catalog.FAMILIES, toy.FAMILY_NAME, toy.FACTS)
    monkeypatch.setitem(catalog.MODELS, toy.NAME, toy.SPEC)
    return toy.FAMILY


@pytest.mark.usefixtures("added")
def test_a_family_more_reads_weights_of_paddledetection(tmp_path: Path) -> None:
    """Renamed, turned round where they are linear, and of as many classes as they have."""
    torch.manual_seed(0)
    network = models.build(toy.NAME, 5)
    turned = {"classes.weight": "head.cls.weight", "boxes.weight": "head.reg.weight"}
    others = {"classes.bias": "head.cls.bias", "boxes.bias": "head.reg.bias"}
    others |= {f"masks.{part}": f"head.seg.{part}" for part in ("weight", "bias")}
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    arrays = {turned[n]: a.T.copy() if n in turned else a for n, a in state.items() if n in turned}
    arrays |= {others.get(name, name): array for name, array in state.items() if name not in turned}
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    loaded = load_network(toy.NAME, path, {"squared": True})
    assert loaded.num_classes == 5 and loaded.weights_config() == {"squared": True}
    for name, tensor in loaded.state_dict().items():
        np.testing.assert_array_equal(tensor, state[name], err_msg=name)
    with pytest.raises(WeightsError, match="does not fit SOLOv2"):
        load_network("SOLOv2", path)


@pytest.mark.usefixtures("added")
def test_a_family_more_trains_and_exports(tmp_path: Path) -> None:
    """A run from weights that say what they were trained with, to a graph that predicts; the backbone stays."""
    data = make_discs(tmp_path / "discs", train=2, val=1)
    weights = tmp_path / "w.safetensors"
    torch.manual_seed(0)
    before = models.build(toy.NAME, 2).state_dict()
    save_weights(before, weights, toy.NAME, ("disc", "ring"), {"squared": True})
    settings = TrainSettings(
        model=toy.NAME, data=data, output=tmp_path / "run", weights=str(weights), epochs=1, batch_size=2,
        device="cpu", workers=0,
    )  # fmt: skip
    train(settings)
    best = tmp_path / "run" / "best_model"
    file = best / "best_model.safetensors"
    assert config_in_file(file, toy.NAME) == {"squared": True}
    after = load_network(toy.NAME, file).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not name.startswith("backbone.")}
    record = Graph(best / "inference" / "inference.onnx", Device("cpu")).record
    assert record.mask_layout == toy.Toy.mask_layout and "squared=True" in record.made_by
    model = create_model(model_dir=best / "inference", threshold=0.0, device="cpu")
    (result,) = model.predict(data / "images" / "val0.png")
    assert model.labels == ("disc", "ring") and len(result.instances) > 0
