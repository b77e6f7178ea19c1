"""PP-YOLOE-seg: a one-stage detector without anchor boxes that predicts masks from shared prototypes."""
