"""Mask R-CNN and Cascade Mask R-CNN: two-stage detectors that predict a mask for each box."""
