"""maskline: instance segmentation from a photo to masks."""

__version__ = "0.1.0"
