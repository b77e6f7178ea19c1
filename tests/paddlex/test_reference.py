"""The list of keys: complete, in both languages, and the files written from it are what is read without a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from maskline import catalog
from maskline._options import settings_of
from maskline.paddlex.module import WITHOUT_EFFECT, load
from maskline.paddlex.pipeline import PipelineConfig, load_pipeline
from maskline.paddlex.reference import CHINESE, MEANINGS, PIPELINE_YAML, key_tables, keys, module_yaml, recipe_table
from maskline.training.settings import TrainOptions

#: SPEC 3.3's keys, as PaddleX's documents list them.
_DOCUMENTED = """
Global.model Global.mode Global.dataset_dir Global.device Global.output Global.export_with_pir
CheckDataset.convert.enable CheckDataset.convert.src_dataset_type
CheckDataset.split.enable CheckDataset.split.train_percent CheckDataset.split.val_percent
Train.num_classes Train.epochs_iters Train.batch_size Train.learning_rate Train.pretrain_weight_path
Train.warmup_steps Train.resume_path Train.log_interval Train.eval_interval Train.save_interval
Train.dy2st Train.amp Train.dist_ips Train.basic_config_path Train.uniform_output_enabled
Evaluate.weight_path Evaluate.log_interval Export.weight_path
Predict.batch_size Predict.model_dir Predict.input Predict.threshold Predict.kernel_option.run_mode
Predict.use_hpip Predict.hpi_config Predict.engine Predict.engine_config
"""
DOCUMENTED = _DOCUMENTED.split()


def test_every_key_has_a_meaning_and_every_meaning_a_key() -> None:
    """F74: also each documented key of PaddleX is there."""
    names = [key.name for key in keys()]
    assert len(set(names)) == len(names) and set(DOCUMENTED) <= set(names)
    assert {*MEANINGS, *CHINESE} <= set(names) and not set(MEANINGS) & set(CHINESE)
    for key in keys():
        assert key.meaning.en and re.search("[一-鿿]", key.meaning.zh), key
        assert key.meaning.en.startswith("maskline only: ") == key.meaning.zh.startswith("新增："), key


def test_an_option_of_training_is_described_once() -> None:
    """What PaddleX has too keeps the setting's words; the section has every shared setting, by its own name."""
    meanings = {key.name: key.meaning.en for key in keys()}
    assert meanings["Train.workers"] == "maskline only: data-loading processes per device"
    assert meanings["Train.log_interval"] == "steps between log lines"
    assert {f"Train.{name}" for name in settings_of(TrainOptions)} <= set(meanings)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_tables_have_every_key_once(language: str) -> None:
    """F74."""
    tables = key_tables(language)  # type: ignore[arg-type]
    assert all(tables.count(f"| `{key.name}` |") == 1 for key in keys())
    assert all(f"| {spec.name} | {spec.recipe.batch_size} |" in recipe_table() for spec in catalog.MODELS.values())


@pytest.mark.parametrize("name", list(catalog.MODELS))
def test_a_written_file_is_the_model_s_defaults(name: str, tmp_path: Path) -> None:
    """F26: a module file for each of the models."""
    path = tmp_path / "config.yaml"
    path.write_text(module_yaml(name), encoding="utf-8")
    assert load(str(path)) == load(name)
    text = path.read_text(encoding="utf-8")
    assert all(f"{key.rpartition('.')[2]}:" in text for key in {key.name for key in keys()} - WITHOUT_EFFECT)


def test_the_pipeline_s_file_is_that_of_paddlex() -> None:
    """F04: the content that PaddleX's command writes."""
    content = yaml.safe_load(PIPELINE_YAML)
    module = {"module_name": "instance_segmentation", "model_name": "Mask-RT-DETR-S", "model_dir": None}
    assert content == {
        "pipeline_name": "instance_segmentation",
        "SubModules": {"InstanceSegmentation": module | {"batch_size": 1, "threshold": 0.5}},
    }
    assert load_pipeline(content) == PipelineConfig("Mask-RT-DETR-S", None, 1, 0.5)


def test_a_written_file_refers_to_nothing_beyond_it() -> None:
    text = module_yaml("SOLOv2")
    assert "see below" not in text and "images per device\n" in text and "](" not in text
    assert "# inputs, see docs/predict.md#inputs\n" in text and " docs/data.md#convert\n" in text
