"""Formats beside COCO, each with what `maskline.data.convert.Format` asks for."""
