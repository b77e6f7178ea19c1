"""Data sets: read, checked, fixed, converted, split, and looked at. COCO is the hub; no torch.

Needs the extra ``data`` (pycocotools, shapely, matplotlib, Jinja2, defusedxml).
"""
