"""Data sets: read, checked, fixed, converted, split, and looked at. COCO is the hub; no torch.

Needs the extra ``data``: all but the list of formats and the options imports `maskline.data.extra`.
"""
