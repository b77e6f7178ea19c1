"""``inference.yml``, in PaddleX's format, for people and programs."""

from __future__ import annotations

from typing import Any

import yaml

from maskline import catalog
from maskline.runtime.graph import Record


def inference_yml(spec: catalog.Model, record: Record, mode: str = "onnx") -> str:
    """Return the ``inference.yml`` that PaddleX would write next to an exported model."""
    pre = record.preprocess
    resize: dict[str, Any] = {
        "type": "Resize",
        "target_size": [pre.height, pre.width],
        "keep_ratio": pre.keep_ratio,
        "interp": ("nearest", "linear", "cubic", "area", "lanczos4").index(pre.interpolation),
    }
    normalise: dict[str, Any] = {"type": "NormalizeImage", "mean": list(pre.mean), "std": list(pre.std)}
    normalise |= {"norm_type": "mean_std", "is_scale": True} if any(pre.mean) else {"norm_type": "none"}
    steps = [normalise, resize] if pre.float_resize else [resize, normalise]
    steps.append({"type": "Permute"})
    if pre.pad_stride:
        steps.append({"type": "PadStride", "stride": pre.pad_stride})
    config = {
        "mode": mode,
        "draw_threshold": record.threshold,
        "metric": "COCO",
        "use_dynamic_shape": pre.keep_ratio,
        "Global": {"model_name": record.model},
        "arch": spec.arch,
        "min_subgraph_size": spec.min_subgraph_size,
        "mask": True,
        "Preprocess": steps,
        "label_list": list(record.labels),
    }
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text
