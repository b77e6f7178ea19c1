"""The meaning of every key of a module configuration, for the documents in both languages and `maskline config`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from inspect import get_annotations
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from maskline import catalog
from maskline._checks import check_count, check_threshold
from maskline._options import Setting, hints_of, names_of, settings_of
from maskline.paddlex import values
from maskline.paddlex.module import WITHOUT_EFFECT, ModuleConfig, model_defaults
from maskline.paddlex.pipeline import MODULE, PIPELINE

Language: TypeAlias = Literal["en", "zh"]


class Text(NamedTuple):
    """A text in both languages, in Markdown."""

    en: str
    zh: str


class Key(NamedTuple):
    """A key of `ModuleConfig`."""

    name: str  # Section.key
    default: Any  # MISSING if it depends on the model
    kind: Text
    meaning: Text


_NOTHING = Text("no effect", "无作用")
_ENGINE = "see [devices](predict.md#devices-and-acceleration)", "见[设备与加速](predict.md#设备与加速)"

#: The values that a check accepts.
KINDS: Mapping[Callable[..., Any], Text] = {
    values.as_text: Text("string", "字符串"),
    values.as_model: Text("string", "字符串"),
    values.one_of: Text("string", "字符串"),
    values.as_devices: Text("string", "字符串"),
    values.as_switch: Text("boolean", "布尔值"),
    values.as_precision: Text("`OFF`, `O1`, `O2`", "`OFF`、`O1`、`O2`"),
    values.as_mapping: Text("mapping", "映射"),
    values.as_inputs: Text("string, or a list of strings", "字符串或其列表"),
    check_threshold: Text("number, 0 to 1, or a mapping from class to number", "0 到 1 的数，或类别到数的映射"),
    check_count: Text("integer, 1 or more", "正整数"),
}

NATURAL = Text("integer, 0 or more", "非负整数")

#: "maskline only": PaddleX does not have the key.
MEANINGS: Mapping[str, Text] = {
    "Global.model": Text("model name, in any case", "模型名称，不分大小写"),
    "Global.mode": Text(
        "`check_dataset`, `train`, `evaluate`, `export`, `predict`",
        "`check_dataset`（检查数据）、`train`（训练）、`evaluate`（评估）、`export`（导出）、`predict`（预测）",
    ),
    "Global.dataset_dir": Text(
        "folder of the data set; required by `check_dataset`, `train` and `evaluate`",
        "数据集目录；`check_dataset`、`train`、`evaluate` 必需",
    ),
    "Global.device": Text(
        "`cpu`, `gpu`, `gpu:0`, `gpu:0,1,2,3` … None: the first GPU, else the CPU. Only training uses several devices; "
        "the other modes use the first",
        "`cpu`、`gpu`、`gpu:0`、`gpu:0,1,2,3` 等。None：有 GPU 用第一块，否则用 CPU。只有训练使用多块，"
        "其余模式用第一块",
    ),
    "Global.output": Text(
        "folder for results; with None, `predict` saves nothing, and the other modes raise an error",
        "结果目录；为 None 时 `predict` 不保存，其余模式报错",
    ),
    "Global.export_with_pir": Text("no effect: the export is ONNX", "无作用：导出格式为 ONNX"),
    "CheckDataset.convert.enable": Text("convert to COCO first, in place", "先原地转换为 COCO 格式"),
    "CheckDataset.convert.src_dataset_type": Text(
        "source format, such as `LabelMe`, in any case; required if enabled; see [all formats](data.md#convert)",
        "源格式，如 `LabelMe`（[全部格式](data.md#转换)），不分大小写；启用转换时必需",
    ),
    "CheckDataset.split.enable": Text(
        "split into train and val again (after converting)", "重新划分训练集与验证集（在转换之后）"
    ),
    "CheckDataset.split.train_percent": Text("percentage of images for training", "训练图片所占百分比"),
    "CheckDataset.split.val_percent": Text(
        "percentage of images for evaluation; one of the two is enough, both must add up to 100",
        "验证图片所占百分比；两者给一个即可，同时给出时之和须为 100",
    ),
    "CheckDataset.split.seed": Text("maskline only: random seed of the split", "新增：划分的随机种子"),
    "CheckDataset.split.stratify": Text(
        "maskline only: keep the class proportions in both splits", "新增：按类别分层划分"
    ),
    "CheckDataset.split.group": Text(
        "maskline only: how to group images that stay in one split: `folder`, `similar`, `key:NAME`, or a regular "
        "expression on file names",
        "新增：须分在同一子集的图片：`folder`、`similar`、`key:NAME`，或匹配文件名的正则表达式",
    ),
    "Train.num_classes": Text(
        "number of classes; if given, it must equal that of the data set. PaddleX's default is 2",
        "类别数；给出时须与数据集一致。PaddleX 默认为 2",
    ),
    "Train.batch_size": Text("images per device, see below", "每个设备的图片数，见下表"),
    "Train.learning_rate": Text(
        "base learning rate; None: the model's, see below, scaled to the batch size over all devices",
        "基础学习率；None：用模型的默认值（见下表），并按所有设备的总批量缩放",
    ),
    "Train.pretrain_weight_path": Text(
        "initial weights: a file, `official` or its URL (default); None or `backbone`: the model's pretrained "
        "backbone; `scratch`: random",
        "初始权重：文件、`official` 或官方 URL（默认）；None 或 `backbone`：模型的预训练骨干网络；`scratch`：随机",
    ),
    "Train.resume_path": Text(
        "checkpoint to resume from: its folder, a file in it, or the output folder of its run",
        "恢复训练的检查点：其目录、其中的文件，或那次训练的输出目录",
    ),
    "Train.amp": Text("mixed precision: fp16, or bf16 on the CPU", "混合精度：fp16，CPU 上为 bf16"),
    "Train.augment": Text(
        "maskline only: values of the [augmentation](train.md#augmentation) that replace the recipe's, such as "
        "`{copy_paste: 0.5}`",
        "新增：替换配方的[数据增强](../train.md#augmentation)取值，如 `{copy_paste: 0.5}`",
    ),
    "Train.unaligned": Text(
        "maskline only: the initial Mask R-CNN weights were trained with PaddleDetection since August 2024, see "
        "[predict.md](predict.md)",
        "新增：初始的 Mask R-CNN 权重由 2024 年 8 月之后的 PaddleDetection 训练，见[预测](predict.md)",
    ),
    "Train.dy2st": _NOTHING,
    "Train.dist_ips": _NOTHING,
    "Train.basic_config_path": _NOTHING,
    "Train.uniform_output_enabled": _NOTHING,
    "Evaluate.weight_path": Text("weights to evaluate; None: the official ones", "要评估的权重；None：官方权重"),
    "Evaluate.unaligned": Text(
        "maskline only: as `Train.unaligned`, for `weight_path`", "新增：同 `Train.unaligned`，用于 `weight_path`"
    ),
    "Evaluate.log_interval": Text("images between log lines", "两行日志之间的图片数"),
    "Export.weight_path": Text(
        "a `.pdparams` or `.safetensors` file, or the URL of the model's official weights (default); None: the "
        "official weights",
        "`.pdparams` 或 `.safetensors` 文件，或官方权重的地址（默认）；None：也是官方权重",
    ),
    "Export.unaligned": Text(
        "maskline only: as `Train.unaligned`, for `weight_path`", "新增：同 `Train.unaligned`，用于 `weight_path`"
    ),
    "Predict.batch_size": Text("images per run of the network", "网络一次处理的图片数"),
    "Predict.model_dir": Text("an exported model; None: the official one", "导出的模型目录；None：官方模型"),
    "Predict.input": Text("inputs, see [inputs](predict.md#inputs)", "预测的输入，见[输入](predict.md#输入)"),
    "Predict.threshold": Text("keep scores above it; None: the model's own", "保留高于它的分数；None：模型自带的阈值"),
    "Predict.kernel_option.run_mode": _NOTHING,
    "Predict.use_hpip": Text(f"use the fastest backend; {_ENGINE[0]}", f"选用最快的后端；{_ENGINE[1]}"),
    "Predict.hpi_config": Text(
        f"backend options; `hpip_config` is an alias; {_ENGINE[0]}",
        f"后端选项；也可写作 `hpip_config`；{_ENGINE[1]}",
    ),
    "Predict.engine": Text(f"backend; {_ENGINE[0]}", f"后端；{_ENGINE[1]}"),
    "Predict.engine_config": Text(f"backend options; {_ENGINE[0]}", f"后端选项；{_ENGINE[1]}"),
}

#: Keys whose meaning in English is the help of a setting. Without a translation, documents in Chinese have that too.
CHINESE: Mapping[str, str] = {
    "Train.epochs_iters": "训练轮数",
    "Train.warmup_steps": "学习率预热的步数，至多为全程的十分之一",
    "Train.log_interval": "两行日志之间的步数",
    "Train.eval_interval": "两次评估（含保存）之间的轮数",
    "Train.save_interval": "两次保存之间的轮数；None：与评估一样频繁",
    "Train.processes": "新增：CPU 上的训练进程数（使用 GPU 时每块一个）",
    "Train.workers": "新增：每个设备的数据加载进程数",
    "Train.threads": "新增：每个训练进程的 CPU 线程数；None：每个核心一个",
    "Train.accumulate": "新增：每个优化步累积的批数",
    "Train.patience": "新增：连续这么多次评估 AP 没有提高即停止",
    "Train.clip_norm": "新增：梯度范数上限；None：用模型的配方",
    "Train.drop_background": "新增：训练时不使用没有目标的图片",
    "Train.seed": "新增：随机种子",
}

_HEADS: Mapping[Language, str] = {
    "en": "| key | type | default | meaning |\n|---|---|---|---|",
    "zh": "| 键 | 类型 | 默认值 | 含义 |\n|---|---|---|---|",
}
_OF_THE_MODEL = Text("model-dependent", "随模型")
_FROM_C = Text("from `-c`", "来自 `-c`")

PIPELINE_YAML = f"""\
pipeline_name: {PIPELINE}

SubModules:
  {MODULE}:
    module_name: {PIPELINE}
    model_name: {catalog.DEFAULT_MODEL}
    model_dir: null
    batch_size: 1
    threshold: 0.5
"""


def keys(kind: Any = ModuleConfig, prefix: str = "") -> Iterator[Key]:
    """All keys, in the order of the files: PaddleX's keys of a section, then those inherited from our settings."""
    hints, described = hints_of(kind), settings_of(kind)
    defaults = {field.name: field.default for field in fields(kind)}
    own = get_annotations(kind)
    for name in names_of(kind):
        if is_dataclass(hints[name]):
            yield from keys(hints[name], f"{prefix}{name}.")
        elif name in described:
            meaning = _meaning(f"{prefix}{name}", described[name], defaults[name], ours=name not in own)
            yield Key(f"{prefix}{name}", defaults[name], _kind(described[name]), meaning)
        else:
            check = get_args(hints[name])[1]
            text = KINDS[check.func if isinstance(check, partial) else check]
            yield Key(f"{prefix}{name}", defaults[name], text, MEANINGS[f"{prefix}{name}"])


def _meaning(key: str, setting: Setting, default: Any, *, ours: bool) -> Text:
    """As written for the key; else the help of the setting."""
    if key in MEANINGS:
        return MEANINGS[key]
    unset = f"; None: {setting.option.unset}" if setting.option.unset and default is None else ""
    text = f"{setting.option.help.rstrip('.')}{unset}"
    if not text[1:2].isupper():
        text = f"{text[0].lower()}{text[1:]}"
    return Text(f"maskline only: {text}" if ours else text, CHINESE.get(key, text))


def _kind(setting: Setting) -> Text:
    """Type and range of a setting."""
    option = setting.option
    if setting.kind in (bool, str, Mapping):
        return KINDS[{bool: values.as_switch, str: values.as_text, Mapping: values.as_mapping}[setting.kind]]
    if setting.kind is int:
        return NATURAL if option.least == 0 else KINDS[check_count]
    if option.above is not None:
        return Text(f"number above {option.above:g}", "正数" if option.above == 0 else f"大于 {option.above:g} 的数")
    return Text(f"number, {option.least} to {option.most}", f"{option.least} 到 {option.most} 的数")


def key_tables(language: Language = "en") -> str:
    """All keys in Markdown: a heading and a table for each section."""
    lines = []
    section = None
    for key in keys():
        if key.name.split(".")[0] != section:
            section = key.name.split(".")[0]
            lines += [f"\n### {section}\n", _HEADS[language]]
        kind, meaning = (getattr(text, language) for text in (key.kind, key.meaning))
        lines.append(f"| `{key.name}` | {kind} | {_default(key, language)} | {meaning} |")
    return "\n".join(lines).lstrip()


def _default(key: Key, language: Language) -> str:
    if key.name == "Global.model":
        return str(getattr(_FROM_C, language))
    return str(getattr(_OF_THE_MODEL, language)) if key.default is MISSING else f"`{key.default}`"


def recipe_table(language: Language = "en") -> str:
    """The defaults that depend on the model, in Markdown."""
    head = Text("model", "模型")
    lines = [f"| {getattr(head, language)} | `Train.batch_size` | `Train.learning_rate` |\n|---|---|---|"]
    for spec in catalog.MODELS.values():
        lines.append(f"| {spec.name} | {spec.recipe.batch_size} | {spec.recipe.learning_rate:g} |")
    return "\n".join(lines)


def module_yaml(model: str) -> str:
    """The configuration file of a model: every key that has an effect, with its default and meaning.

    Raises:
        UnknownNameError: unknown model.
    """
    spec = catalog.get(model)
    own = {"Global": {"model": spec.name}} | model_defaults(spec)
    lines = [f"# {spec.name}: python main.py -c THIS_FILE -o Global.mode=train -o Global.dataset_dir=DIR", ""]
    for section in fields(ModuleConfig):
        lines += [*_yaml_section(section.name, own.get(section.name, {})), ""]
    return "\n".join(lines)


def _yaml_section(section: str, own: Mapping[str, Any]) -> list[str]:
    """A section of the file; ``own`` holds the defaults of the model."""
    lines = [f"{section}:"]
    inner = ""
    for key in keys():
        if not key.name.startswith(f"{section}.") or key.name in WITHOUT_EFFECT:
            continue
        *folders, name = key.name.split(".")[1:]
        if folders and folders[0] != inner:
            inner = folders[0]
            lines.append(f"  {inner}:")
        indent = "    " if folders else "  "
        value = own.get(name) if key.default is MISSING else key.default
        lines += [f"{indent}# {_plain(key.meaning.en)}", f"{indent}{name}: {_scalar(value)}"]
    return lines


def _scalar(value: Any) -> str:
    return "null" if value is None else str(value)


def _plain(markdown: str) -> str:
    """Links as the files that they lead to; no code marks, and no references to tables on the page."""
    text = re.sub(r"see \[[^]]*\]\(([^)]*)\)", r"see docs/\1", markdown)
    text = re.sub(r"\[([^]]*)\]\(([^)]*)\)", r"\1 (docs/\2)", text)
    return text.replace("`", "").replace(", see below", "")
