"""SOLOv2: a one-stage network without boxes, whose masks are convolutions that it predicts itself."""
