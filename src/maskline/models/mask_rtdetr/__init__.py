"""Mask-RT-DETR: a real-time DETR that predicts masks from shared prototypes."""
