"""Features that PaddleX documents (F), known bugs of PaddleX (B), and the tests that cover them.

A test covers one if its docstring begins with the ids: ``F07, B65: the old form of the file is accepted``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

TESTS = Path(__file__).parents[1]
_IDS = re.compile(r"((?:[FB]\d\d, )*[FB]\d\d)[:.]")

FEATURES: Mapping[str, str] = {
    "F01": "`--pipeline instance_segmentation --input IMAGE --device …` prints one result",
    "F02": "`--threshold` filters instances by score",
    "F03": "`--save_path` writes `<stem>_res.json` and an image; nothing is written without it",
    "F04": "`--get_pipeline_config NAME --save_path PATH`",
    "F05": "the same without `--save_path`: into the working directory, without asking",
    "F06": "`--pipeline FILE.yaml`",
    "F07": "the old form of that file",
    "F08": "`model_dir` in the file: a custom model",
    "F09": "options override the file",
    "F10": "`create_pipeline(pipeline=…)`, a name or a file",
    "F11": "`create_pipeline(config=…)`, which overrides a name, with a warning",
    "F12": "`device=…`; None is the first GPU, else the CPU",
    "F13": "`use_hpip` changes the speed, not the results",
    "F14": "`predict` is a generator",
    "F15": "arrays are BGR, and give the same results as their file",
    "F16": "image paths, in every listed format",
    "F17": "URLs, cached",
    "F18": "folders, recursive and sorted",
    "F19": "lists of all of these, in order",
    "F20": 'dicts `{"img": …}`, and lists of them',
    "F21": "PDF: one result per page",
    "F22": "TIFF: one result per page",
    "F23": "`create_model(model_name, model_dir, device, use_hpip, threshold)`",
    "F24": "`predict(input, batch_size, threshold)`: results do not depend on the batch",
    "F25": "`threshold` of `predict` overrides that of `create_model`, which overrides the file's",
    "F26": "all fifteen model names",
    "F27": "the printed result: `{'res': …}` with path, page and boxes, and masks as `...`",
    "F28": "boxes: `cls_id`, `label`, `score`, `coordinate`, as plain Python numbers",
    "F29": "`print(json_format / format_json, indent, ensure_ascii)`",
    "F30": "`save_to_json(save_path, indent, ensure_ascii)`, a folder or a file",
    "F31": "`save_to_img(save_path)`, a folder or a file",
    "F32": "`.json`, and `.img` with a PIL image",
    "F33": "arrays, including masks, become lists in the JSON",
    "F34": "`save_to_json(FILE)` writes exactly that file",
    "F35": "`predict(device=…)`",
    "F36": "`npu`, `xpu`, `mlu`, `dcu` … are known; if unavailable, the message lists the available devices",
    "F37": "`gpu:0,1`: a copy on each device, results in order",
    "F38": "`--serve`",
    "F39": "POST /instance-segmentation with Base64",
    "F40": "POST with a URL",
    "F41": "`threshold` in the request",
    "F42": "`visualize` in the request",
    "F43": "`logId`, `errorCode`, `errorMsg`",
    "F44": "clients that do not expect `logId`",
    "F45": "`bbox`, `categoryId`, `score`, `mask`",
    "F46": "`categoryName`",
    "F47": "masks as COCO RLE",
    "F48": "the image as Base64",
    "F49": "the error envelope",
    "F50": "GET /health",
    "F51": "clients in seven languages: maskline's, and those in the documentation, which need a copy of it",
    "F52": "the high-performance switch and `hpi_config`",
    "F53": "the high-stability protocol",
    "F54": "edge deployment",
    "F55": "`main.py -c … -o Global.mode=check_dataset` prints `Check dataset passed !`",
    "F56": "the keys of `check_dataset_result.json`",
    "F57": "sample images and a histogram",
    "F58": "conversion from LabelMe, by file and by `-o`",
    "F59": "splitting by percentages, with `.bak` files",
    "F60": "informative errors of conversion and splitting",
    "F61": "training with `epochs_iters`, `batch_size`, `learning_rate`, `num_classes`",
    "F62": "training on several devices",
    "F63": "training output: results, log, configuration, weights, best model",
    "F64": "`resume_path`",
    "F65": "`pretrain_weight_path`, a file or a URL",
    "F66": "evaluation, with AP in `evaluate_result.json`",
    "F67": "export, and prediction from the exported folder",
    "F68": "mode predict with `Predict.model_dir` and `Predict.input`",
    "F69": "trained models work in the pipeline and in `create_model`",
    "F70": "a tutorial that starts with LabelMe annotation",
    "F71": "the model list with AP, times, sizes, links",
    "F72": "advice on choosing a model",
    "F73": "`create_pipeline` applies the settings in the file; the command takes its path",
    "F74": "every configuration key is documented",
    "F75": "a failure leaves `{done_flag: false, err_type, err_msg}` and exit code 1",
    "F76": "the cache, its environment variables, and a message if offline",
    "F77": "old and new paths of the module files",
    "F78": "`predict(x)` and `predict(x=…)`",
    "F79": "results of arrays have the same names for JSON and image",
    "F80": "empty results are supported everywhere",
    "F81": "a demo in the browser",
    "F82": "fine-tuning after poor results, and using the weights in the file",
    "F83": "sample data sets",
    "F84": "training writes weights and an exported model; prediction uses the latter",
    "F85": "the default threshold is 0.5",
}

FAULTS: Mapping[str, str] = {
    "B01": "the pipeline file's `threshold` has no effect",
    "B02": "red and blue are swapped in saved images",
    "B03": "masks shift by one after an empty box is dropped",
    "B04": "masks are silently cropped to their boxes, and may be empty",
    "B05": "SOLOv2 results have other keys",
    "B06": "`print(format_json=…)`, as documented everywhere, is a TypeError",
    "B07": "`np.float32(…)` in printed results",
    "B08": "results are printed to standard error",
    "B09": "86 MB of JSON for 20 instances",
    "B10": "drawing downloads a font",
    "B11": "colours depend on the order of instances, and fade",
    "B12": "NumPy's print options are changed for the whole process",
    "B13": "dicts, nested lists, tuples, paths and PIL images are silently ignored",
    "B14": "an unknown suffix crashes, or duplicates results",
    "B15": "a folder in a list breaks the order",
    "B16": "two URLs with the same file name give one image",
    "B17": "URLs with a query or without a suffix are refused",
    "B18": "a file whose name begins with http is treated as a URL",
    "B19": "inputs with the same name overwrite each other's results",
    "B20": "one bad file ends the whole run",
    "B21": "`batch_size` persists in later calls; 0 is a bare AssertionError",
    "B22": "a batch with different sizes crashes (R-CNN)",
    "B23": "a batch with different sizes gives wrong masks (Mask-RT-DETR)",
    "B24": "`predict(device=…, batch_size=…)` of a pipeline is ignored",
    "B25": "unknown arguments are ignored",
    "B26": "thresholds are not checked",
    "B27": "`train_samples` counts annotations",
    "B28": "only ten images are checked, errors are bare KeyErrors",
    "B29": "different classes in train and val: an error of the plotting library",
    "B30": "LabelMe: lost backups, polygons only, Windows paths, groups",
    "B31": "the documented conversion from VOC fails",
    "B32": "splitting loses or duplicates images, overwrites backups, has no seed",
    "B33": "a single percentage is a TypeError",
    "B34": "`-o` evaluates code; `e`, `n`, `on` become None; `=` in values fails",
    "B35": "training from the package fails: its configurations are missing",
    "B36": "`train_result.json` is written only after failures",
    "B37": "`train_results.json` lists files that do not exist",
    "B38": "evaluation on the CPU crashes",
    "B39": "the schedule does not follow the number of epochs",
    "B40": "module files require four GPUs and a folder of one machine",
    "B41": "images without objects are excluded from the AP",
    "B42": "AP is parsed from printed text, with three decimals",
    "B43": "no AP per class, no curves",
    "B44": "service: client errors are 500",
    "B45": "service: the key `image` is missing, `logId` is not returned",
    "B46": "service: the documented Node.js and PHP clients fail",
    "B47": "service: one at a time, no limits, fetches any URL",
    "B48": "service: a dependency is missing from its extra",
    "B49": "service: its title is FastAPI 0.1.0",
    "B50": "service: the high-stability client fails without images",
    "B51": "documented devices are refused",
    "B52": "after falling back to the CPU, gpu:0 is reported; `cuda:0` is a bare AssertionError",
    "B53": "high-performance inference is documented for all models, but does nothing for 8 of 15",
    "B54": "edge deployment is advertised, but no model of this kind supports it",
    "B55": "`engine='onnxruntime'` does not work for any model",
    "B56": "a warning about batches at every start",
    "B57": "the model name is required with a folder that contains it",
    "B58": "downloads are not checked",
    "B59": "results can't be pickled; `.str` is a dict",
    "B60": "`save_to_img('x.txt')` makes a folder, `.ras` crashes",
    "B61": "`page_index` counts from 0, but is documented as a page number",
    "B62": "PDFs in folders: not supported according to the documentation, but read",
    "B63": "exit code 0 without an input; `--help` hides `--threshold`; no `--version`",
    "B64": "interactive questions in non-interactive use",
    "B65": "the old form of the pipeline file is a KeyError",
    "B66": "a sixteenth model is listed, but does not exist",
    "B67": "100 masks at full size before the threshold: 829 MB at full HD",
    "B68": "`.json` and print copy the image and all masks",
    "B69": "grey arrays are predicted but can't be drawn",
    "B70": "no progress, no summary",
    "B71": "environment variables set to False count as true",
    "B72": "documented keys without effect, or that crash",
    "B73": "sample images of train and val overwrite each other",
    "B74": "the check requires exactly one folder `images`",
    "B75": "start takes three seconds; folders are created on import",
}

#: Ids that no test covers, with the reason.
NOT_SHOWN: Mapping[str, str] = {}


def shown() -> dict[str, list[str]]:
    """By id: the tests that cover it, as ``file::function``."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name, ids in _claims(ast.parse(path.read_text(encoding="utf-8"))):
            for id_ in ids:
                found.setdefault(id_, []).append(f"{path.relative_to(TESTS).as_posix()}::{name}")
    return found


def _claims(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            start = _IDS.match(ast.get_docstring(node) or "")
            if start:
                yield node.name, start[1].split(", ")


def markdown_table(what: Mapping[str, str]) -> str:
    """One row per id: its description, and its tests or the reason why there are none."""
    tests = shown()
    lines = ["| | description | tests |", "|---|---|---|"]
    for id_, text in what.items():
        proof = "<br>".join(f"`{name}`" for name in tests.get(id_, ())) or f"not covered: {NOT_SHOWN.get(id_, '?')}"
        lines.append(f"| {id_} | {text} | {proof} |")
    return "\n".join(lines)
