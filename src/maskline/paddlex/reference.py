"""What each key of a module's configuration means: one list, for the documents in both languages and for the files
that `maskline config` writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_type_hints

from maskline import catalog
from maskline._checks import check_count, check_threshold
from maskline.paddlex import values
from maskline.paddlex.module import WITHOUT_EFFECT, ModuleConfig, model_defaults
from maskline.paddlex.pipeline import MODULE, PIPELINE

Language: TypeAlias = Literal["en", "zh"]


class Text(NamedTuple):
    """The same in both languages, in Markdown."""

    en: str
    zh: str


class Key(NamedTuple):
    """A key as it stands in `ModuleConfig`."""

    name: str  # Section.key
    check: Callable[..., Any]
    default: Any  # MISSING where the model has its own


_NOTHING = Text("no effect", "无作用")
_ENGINE = "see [devices](predict.md#devices-and-acceleration)", "见[设备与加速](predict.md#设备与加速)"

#: What the checks of values let pass.
KINDS: Mapping[Callable[..., Any], Text] = {
    values.as_text: Text("text", "文本"),
    values.as_model: Text("text", "文本"),
    values.one_of: Text("text", "文本"),
    values.as_devices: Text("text", "文本"),
    values.as_switch: Text("truth value", "真假值"),
    values.as_natural: Text("whole number from 0", "非负整数"),
    values.as_rate: Text("number above 0", "正数"),
    values.as_percent: Text("number, 0 to 100", "0 到 100 的数"),
    values.as_precision: Text("`OFF`, `O1`, `O2`", "`OFF`、`O1`、`O2`"),
    values.as_mapping: Text("mapping", "映射"),
    values.as_inputs: Text("text, or a list of them", "文本或其列表"),
    check_threshold: Text("number, 0 to 1, or a mapping from class to one", "0 到 1 的数，或类别到它的映射"),
    check_count: Text("whole number from 1", "正整数"),
}

#: Every key. "ours": the reference does not have it.
MEANINGS: Mapping[str, Text] = {
    "Global.model": Text("one of the models, in any case", "模型名称，不分大小写"),
    "Global.mode": Text(
        "`check_dataset`, `train`, `evaluate`, `export`, `predict`",
        "`check_dataset`（检查数据）、`train`（训练）、`evaluate`（评估）、`export`（导出）、`predict`（预测）",
    ),
    "Global.dataset_dir": Text(
        "the folder of the data set; needed by `check_dataset`, `train` and `evaluate`",
        "数据集目录；`check_dataset`、`train`、`evaluate` 必需",
    ),
    "Global.device": Text(
        "`cpu`, `gpu`, `gpu:0`, `gpu:0,1,2,3` … None: the first GPU if there is one, else the CPU. Only training uses "
        "several; the other modes use the first",
        "`cpu`、`gpu`、`gpu:0`、`gpu:0,1,2,3` 等。None：有 GPU 用第一块，否则用 CPU。只有训练使用多块，"
        "其余模式用第一块",
    ),
    "Global.output": Text(
        "the folder for results; with None, `predict` saves nothing, and the other modes refuse",
        "结果目录；为 None 时 `predict` 不保存，其余模式报错",
    ),
    "Global.export_with_pir": Text("no effect: the export is ONNX", "无作用：导出格式为 ONNX"),
    "CheckDataset.convert.enable": Text("convert to COCO first, in place", "先原地转换为 COCO 格式"),
    "CheckDataset.convert.src_dataset_type": Text(
        "format to convert from, such as `LabelMe` ([all](data.md#convert)), in any case; needed if enabled",
        "源格式，如 `LabelMe`（[全部](data.md#转换)），不分大小写；启用转换时必需",
    ),
    "CheckDataset.split.enable": Text(
        "split into train and val again first (after converting)", "先重新划分训练集与验证集（在转换之后）"
    ),
    "CheckDataset.split.train_percent": Text("share of the images to train with", "训练图像所占百分比"),
    "CheckDataset.split.val_percent": Text(
        "share of the images to evaluate with; of the two one is enough, both must make 100",
        "验证图像所占百分比；两者给一个即可，同时给出时之和须为 100",
    ),
    "CheckDataset.split.seed": Text("ours: the same seed divides alike", "新增：种子相同则划分相同"),
    "CheckDataset.split.stratify": Text("ours: give each class its share in both parts", "新增：按类别分层"),
    "CheckDataset.split.group": Text(
        "ours: images that stay together: `folder`, `similar`, `key:NAME`, or a regular expression on file names",
        "新增：须分在一起的图像：`folder`、`similar`、`key:NAME`，或匹配文件名的正则表达式",
    ),
    "Train.num_classes": Text(
        "classes of the data set: if given, it must have as many; there the default is 2",
        "数据集类别数：给出时须与数据集一致；原系统默认 2",
    ),
    "Train.epochs_iters": Text("epochs", "训练轮数"),
    "Train.batch_size": Text("images on each device, see below", "每块设备的图像数，见下表"),
    "Train.learning_rate": Text(
        "base learning rate; None: the model's, see below, scaled to the images of a step",
        "基础学习率；None：用模型的默认值（见下表），并按每步图像数缩放",
    ),
    "Train.pretrain_weight_path": Text(
        "weights to start from: a file, `official` or its address (the default); None or `backbone`: the model's own "
        "pretrained backbone; `scratch`: nothing",
        "初始权重：文件、`official` 或官方地址（默认）；None 或 `backbone`：模型自带的预训练主干；`scratch`：从零开始",
    ),
    "Train.warmup_steps": Text(
        "iterations in which the learning rate rises, a tenth of the run at most",
        "学习率上升的迭代数，至多为全程的十分之一",
    ),
    "Train.resume_path": Text(
        "checkpoint to go on from: its folder, a file in it, or the output folder of its run",
        "接着训练的检查点：其目录、其中的文件，或那次训练的输出目录",
    ),
    "Train.log_interval": Text("iterations between two lines of the log", "两行日志之间的迭代数"),
    "Train.eval_interval": Text(
        "epochs between two evaluations, each with a checkpoint", "两次评估（含保存）之间的轮数"
    ),
    "Train.save_interval": Text(
        "epochs between two checkpoints; None: as `eval_interval`", "两次保存之间的轮数；None：同 `eval_interval`"
    ),
    "Train.amp": Text("mixed precision: fp16, on the CPU bf16", "混合精度：fp16，CPU 上为 bf16"),
    "Train.processes": Text(
        "ours: processes on the CPU; each GPU has its own", "新增：CPU 上的进程数；每块 GPU 各有一个"
    ),
    "Train.workers": Text("ours: processes that read images, for each device", "新增：每块设备读取图像的进程数"),
    "Train.threads": Text(
        "ours: processor threads of each process that trains; None: one for each core",
        "新增：每个训练进程的处理器线程数；None：每个核一个",
    ),
    "Train.accumulate": Text("ours: batches of one step", "新增：一步累积的批数"),
    "Train.patience": Text(
        "ours: end after so many evaluations without a better AP", "新增：AP 连续若干次评估不再提高即停止"
    ),
    "Train.clip_norm": Text(
        "ours: largest norm of the gradient; None: the recipe's", "新增：梯度范数上限；None：用模型的配方"
    ),
    "Train.drop_background": Text("ours: leave out training images without objects", "新增：训练时去掉没有目标的图像"),
    "Train.augment": Text(
        "ours: values of the [augmentation](train.md#augmentation) other than the recipe's, such as "
        "`{copy_paste: 0.5}`",
        "新增：与配方不同的[数据增强](../train.md#augmentation)取值，如 `{copy_paste: 0.5}`",
    ),
    "Train.seed": Text("ours: all randomness follows from it", "新增：一切随机性由它决定"),
    "Train.unaligned": Text(
        "ours: the Mask R-CNN weights to start from are PaddleDetection's since August 2024, see "
        "[predict.md](predict.md)",
        "新增：初始的 Mask R-CNN 权重由 2024 年 8 月之后的 PaddleDetection 训练，见[预测](predict.md)",
    ),
    "Train.dy2st": _NOTHING,
    "Train.dist_ips": _NOTHING,
    "Train.basic_config_path": _NOTHING,
    "Train.uniform_output_enabled": _NOTHING,
    "Evaluate.weight_path": Text("weights to evaluate; None: the official ones", "要评估的权重；None：官方权重"),
    "Evaluate.unaligned": Text(
        "ours: as `Train.unaligned`, of `weight_path`", "新增：同 `Train.unaligned`，指 `weight_path`"
    ),
    "Evaluate.log_interval": Text("images between two lines of the log", "两行日志之间的图像数"),
    "Export.weight_path": Text(
        "a `.pdparams` or `.safetensors` file, or the address of the model's official weights (the default); None: "
        "these too",
        "`.pdparams` 或 `.safetensors` 文件，或官方权重的地址（默认）；None：也是官方权重",
    ),
    "Export.unaligned": Text(
        "ours: as `Train.unaligned`, of `weight_path`", "新增：同 `Train.unaligned`，指 `weight_path`"
    ),
    "Predict.batch_size": Text("images in one run of the network", "网络一次处理的图像数"),
    "Predict.model_dir": Text("an exported model; None: the official one", "导出的模型目录；None：官方模型"),
    "Predict.input": Text("what to predict: see [inputs](predict.md#inputs)", "预测的输入，见[输入](predict.md#输入)"),
    "Predict.threshold": Text("keep scores above it; None: the model's own", "保留高于它的得分；None：模型自带的阈值"),
    "Predict.kernel_option.run_mode": _NOTHING,
    "Predict.use_hpip": Text(f"pick the fastest backend; {_ENGINE[0]}", f"选用最快的后端；{_ENGINE[1]}"),
    "Predict.hpi_config": Text(
        f"options of the backend; `hpip_config` is the same; {_ENGINE[0]}",
        f"后端选项；`hpip_config` 与之相同；{_ENGINE[1]}",
    ),
    "Predict.engine": Text(f"the backend; {_ENGINE[0]}", f"后端；{_ENGINE[1]}"),
    "Predict.engine_config": Text(f"options of the backend; {_ENGINE[0]}", f"后端选项；{_ENGINE[1]}"),
}

_HEADS: Mapping[Language, str] = {
    "en": "| key | type | default | meaning |\n|---|---|---|---|",
    "zh": "| 键 | 类型 | 默认值 | 含义 |\n|---|---|---|---|",
}
_OF_THE_MODEL = Text("of the model", "随模型")
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
    """All keys, in the order of the files."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from keys(hint, f"{prefix}{field.name}.")
        else:
            check = get_args(hint)[1]
            yield Key(f"{prefix}{field.name}", check.func if isinstance(check, partial) else check, field.default)


def key_tables(language: Language = "en") -> str:
    """All keys in Markdown: a heading and a table for each section."""
    lines = []
    section = None
    for key in keys():
        if key.name.split(".")[0] != section:
            section = key.name.split(".")[0]
            lines += [f"\n### {section}\n", _HEADS[language]]
        kind, meaning = (getattr(text, language) for text in (KINDS[key.check], MEANINGS[key.name]))
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
    """The configuration file of a model's jobs: every key that has an effect, its default, and what it means.

    Raises:
        UnknownNameError: no such model.
    """
    spec = catalog.get(model)
    own = {"Global": {"model": spec.name}} | model_defaults(spec)
    lines = [f"# {spec.name}: python main.py -c THIS_FILE -o Global.mode=train -o Global.dataset_dir=DIR", ""]
    for section in fields(ModuleConfig):
        lines += [*_yaml_section(section.name, own.get(section.name, {})), ""]
    return "\n".join(lines)


def _yaml_section(section: str, own: Mapping[str, Any]) -> list[str]:
    """A section of the file; ``own`` are the defaults of the model."""
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
        lines += [f"{indent}# {_plain(MEANINGS[key.name].en)}", f"{indent}{name}: {_scalar(value)}"]
    return lines


def _scalar(value: Any) -> str:
    return "null" if value is None else str(value)


def _plain(markdown: str) -> str:
    """Without links, code marks, and references to tables of the page."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("`", "").replace(", see below", "")
