"""What the documents promise (F), what is wrong with the reference (B), and which tests show how it is here.

A test shows one by beginning its docstring with the ids: ``F07, B65: the old form of the file is accepted``.
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
    "F02": "`--threshold` keeps fewer or more",
    "F03": "`--save_path` writes `<stem>_res.json` and an image; nothing is written without it",
    "F04": "`--get_pipeline_config NAME --save_path PATH`",
    "F05": "the same without `--save_path`: into the working directory, without a question",
    "F06": "`--pipeline FILE.yaml`",
    "F07": "the old form of that file",
    "F08": "`model_dir` in it: a model of one's own",
    "F09": "options win over the file",
    "F10": "`create_pipeline(pipeline=…)`, a name or a file",
    "F11": "`create_pipeline(config=…)`, which wins over a name, with a warning",
    "F12": "`device=…`; None is the first GPU, else the CPU",
    "F13": "`use_hpip` changes the speed, not the results",
    "F14": "`predict` is a generator",
    "F15": "arrays are BGR, and give what their file gives",
    "F16": "paths of images, in every listed format",
    "F17": "URLs, kept in the cache",
    "F18": "folders, to the bottom, sorted",
    "F19": "lists of all of these, in order",
    "F20": 'dicts `{"img": …}`, and lists of them',
    "F21": "PDF: a result for each page",
    "F22": "TIFF: a result for each page",
    "F23": "`create_model(model_name, model_dir, device, use_hpip, threshold)`",
    "F24": "`predict(input, batch_size, threshold)`: results do not depend on the batch",
    "F25": "the threshold of `predict` wins over that of `create_model`, over the file's",
    "F26": "each of the fifteen names",
    "F27": "the printed result: `{'res': …}` with path, page, boxes, and masks as `...`",
    "F28": "boxes: `cls_id`, `label`, `score`, `coordinate`, as plain Python numbers",
    "F29": "`print(json_format / format_json, indent, ensure_ascii)`",
    "F30": "`save_to_json(save_path, indent, ensure_ascii)`, a folder or a file",
    "F31": "`save_to_img(save_path)`, a folder or a file",
    "F32": "`.json`, and `.img` with a PIL image",
    "F33": "arrays become lists in the JSON, masks too",
    "F34": "`save_to_json(FILE)` writes exactly that file",
    "F35": "`predict(device=…)`",
    "F36": "`npu`, `xpu`, `mlu`, `dcu` … are known; where absent, the message says what there is",
    "F37": "`gpu:0,1`: a copy on each device, results in order",
    "F38": "`--serve`",
    "F39": "POST /instance-segmentation with Base64",
    "F40": "POST with a URL",
    "F41": "`threshold` in the request",
    "F42": "`visualize` in the request",
    "F43": "`logId`, `errorCode`, `errorMsg`",
    "F44": "clients that expect no `logId`",
    "F45": "`bbox`, `categoryId`, `score`, `mask`",
    "F46": "`categoryName`",
    "F47": "masks as COCO run lengths",
    "F48": "the image as Base64",
    "F49": "the envelope of errors",
    "F50": "GET /health",
    "F51": "clients in seven languages: ours, and the documents' own listings, which need a copy of the documents",
    "F52": "the high-performance switch and `hpi_config`",
    "F53": "the high-stability protocol",
    "F54": "running on the edge",
    "F55": "`main.py -c … -o Global.mode=check_dataset` prints `Check dataset passed !`",
    "F56": "the keys of `check_dataset_result.json`",
    "F57": "sample images and a histogram",
    "F58": "conversion from LabelMe, by file and by `-o`",
    "F59": "division by percentages, keeping `.bak`",
    "F60": "errors of conversion and division say what is wrong",
    "F61": "training with `epochs_iters`, `batch_size`, `learning_rate`, `num_classes`",
    "F62": "training on several devices",
    "F63": "what training leaves: results, log, configuration, weights, best model",
    "F64": "`resume_path`",
    "F65": "`pretrain_weight_path`, a file or an address",
    "F66": "evaluation, and AP in `evaluate_result.json`",
    "F67": "export, then prediction from the folder",
    "F68": "mode predict with `Predict.model_dir` and `Predict.input`",
    "F69": "what was trained works in the pipeline and in `create_model`",
    "F70": "a tutorial from annotating with LabelMe",
    "F71": "the list of models with AP, times, sizes, links",
    "F72": "which model to choose",
    "F73": "what the file says is what `create_pipeline` does; the command takes its path",
    "F74": "every key of the configuration documented",
    "F75": "a failure leaves `{done_flag: false, err_type, err_msg}` and exit code 1",
    "F76": "the cache, its variables, and a message without a network",
    "F77": "old and new paths of the module files",
    "F78": "`predict(x)` and `predict(x=…)`",
    "F79": "results of arrays have names that JSON and image share",
    "F80": "nothing found is fine everywhere",
    "F81": "a demo to try in the browser",
    "F82": "poor results: train on, then put the weights into the file",
    "F83": "sample data sets",
    "F84": "training leaves weights and an exported model; prediction takes the latter",
    "F85": "no threshold is 0.5",
}

FAULTS: Mapping[str, str] = {
    "B01": "the pipeline file's `threshold` has no effect",
    "B02": "red and blue are swapped in saved images",
    "B03": "masks shift by one after an empty box is dropped",
    "B04": "masks are cut at their boxes in silence, and may have no pixels",
    "B05": "SOLOv2's results have other keys",
    "B06": "`print(format_json=…)` of all documents is a TypeError",
    "B07": "`np.float32(…)` in printed results",
    "B08": "results are printed to standard error",
    "B09": "86 MB of JSON for 20 instances",
    "B10": "images need a font from the network",
    "B11": "colours change with the order of instances, and fade",
    "B12": "numpy's print options are changed for the whole process",
    "B13": "dicts, nested lists, tuples, paths and PIL images are ignored in silence",
    "B14": "an unknown suffix crashes, or doubles results",
    "B15": "a folder in a list breaks the order",
    "B16": "two URLs of one file name give one image",
    "B17": "URLs with a query or without a suffix are refused",
    "B18": "a file whose name begins with http is taken for a URL",
    "B19": "inputs of the same name overwrite each other's results",
    "B20": "one bad file ends the whole run",
    "B21": "`batch_size` sticks to later calls; 0 is a bare AssertionError",
    "B22": "a batch of different sizes crashes (R-CNN)",
    "B23": "a batch of different sizes has wrong masks (Mask-RT-DETR)",
    "B24": "`predict(device=…, batch_size=…)` of a pipeline is ignored",
    "B25": "unknown arguments are swallowed",
    "B26": "thresholds are not checked",
    "B27": "`train_samples` counts annotations",
    "B28": "only ten images are checked, errors are bare KeyErrors",
    "B29": "different classes in train and val: an error of the plotting library",
    "B30": "LabelMe: lost backups, polygons only, Windows paths, groups",
    "B31": "a promised conversion from VOC fails",
    "B32": "division loses or doubles images, overwrites backups, has no seed",
    "B33": "only one percentage is a TypeError",
    "B34": "`-o` evaluates code; `e`, `n`, `on` become None; no `=` in values",
    "B35": "training from the package fails: its configurations are missing",
    "B36": "`train_result.json` appears only after failures",
    "B37": "`train_results.json` lists files that do not exist",
    "B38": "evaluation on the CPU crashes",
    "B39": "the schedule does not follow the number of epochs",
    "B40": "module files want four GPUs and a folder of one machine",
    "B41": "images without objects are left out of the AP",
    "B42": "AP is read off printed text, with three decimals",
    "B43": "no AP by class, no curves",
    "B44": "service: clients' mistakes are 500",
    "B45": "service: the key `image` vanishes, `logId` is not returned",
    "B46": "service: the documents' Node.js and PHP clients fail",
    "B47": "service: one at a time, no limits, fetches any URL",
    "B48": "service: a dependency is missing from its extra",
    "B49": "service: called FastAPI 0.1.0",
    "B50": "service: the high-stability client fails without images",
    "B51": "devices that documents name are refused",
    "B52": "after falling back to the CPU, gpu:0 is reported; `cuda:0` is a bare AssertionError",
    "B53": "high-performance inference is promised for all models, and brings nothing for 8 of 15",
    "B54": "the edge is promised, no model of the kind supports it",
    "B55": "`engine='onnxruntime'` works for none of the models",
    "B56": "a warning about batches at every start",
    "B57": "the model's name must be given with a folder that knows it",
    "B58": "downloads are not checked",
    "B59": "results can't be pickled; `.str` is a dict",
    "B60": "`save_to_img('x.txt')` makes a folder, `.ras` crashes",
    "B61": "pages count from 0 where documents say page number",
    "B62": "PDFs in folders: documents say no, code says yes",
    "B63": "exit code 0 without an input; `--help` hides `--threshold`; no `--version`",
    "B64": "questions asked where nobody can answer",
    "B65": "the old form of the pipeline file is a KeyError",
    "B66": "a sixteenth model that does not exist",
    "B67": "100 masks at full size before the threshold: 829 MB at full HD",
    "B68": "`.json` and print copy the image and all masks",
    "B69": "grey arrays are predicted but can't be drawn",
    "B70": "no progress, no summary",
    "B71": "variables set to False count as true",
    "B72": "documented keys without effect, or that crash",
    "B73": "sample images of train and val overwrite each other",
    "B74": "the check wants exactly one folder `images`",
    "B75": "three seconds to start, folders made on import",
}

#: What no test here shows, and why.
NOT_SHOWN: Mapping[str, str] = {}


def shown() -> dict[str, list[str]]:
    """By id: the tests that show it, as ``file::function``."""
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
    """One row for each id: what it is, and the tests, or why there is none."""
    tests = shown()
    lines = ["| | what | shown by |", "|---|---|---|"]
    for id_, text in what.items():
        proof = "<br>".join(f"`{name}`" for name in tests.get(id_, ())) or f"not shown: {NOT_SHOWN.get(id_, '?')}"
        lines.append(f"| {id_} | {text} | {proof} |")
    return "\n".join(lines)
