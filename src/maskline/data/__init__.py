"""Read, check, fix, convert, split and visualise data sets. COCO is the hub format; no torch.

Needs the extra ``data``: all but the list of formats and the options imports `maskline.data.extra`.
"""
