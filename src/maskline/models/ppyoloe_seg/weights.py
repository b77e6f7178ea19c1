"""Rules from PaddleDetection's parameter names for PP-YOLOE-seg to ours.

Each rule is a regular expression and its replacement; all rules are applied to a name, in order.
"""

RENAME = (
    # batch norm
    (r"\.bn\.", ".norm."),
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
    # blocks, in backbone and neck
    (r"\.(?:blocks|convs)\.(\d)\.conv1\.", r".blocks.\1.conv."),
    (r"\.(?:blocks|convs)\.(\d)\.conv2\.alpha$", r".blocks.\1.rep.alpha"),
    (r"\.(?:blocks|convs)\.(\d)\.conv2\.conv1\.", r".blocks.\1.rep.dense."),
    (r"\.(?:blocks|convs)\.(\d)\.conv2\.conv2\.", r".blocks.\1.rep.pointwise."),
    # backbone
    (r"^backbone\.stem\.conv1\.", "backbone.stem.0."),
    (r"^backbone\.stem\.conv2\.", "backbone.stem.1."),
    (r"^backbone\.stem\.conv3\.", "backbone.stem.2."),
    (r"^(backbone\.stages\.\d)\.conv_down\.", r"\1.down."),
    (r"^(backbone\.stages\.\d)\.attn\.", r"\1.attention."),
    # neck
    (r"^neck\.fpn_stages\.(\d)\.0\.", r"neck.top_down.\1."),
    (r"^neck\.pan_stages\.(\d)\.0\.", r"neck.bottom_up.\1."),
    (r"\.convs\.spp\.", ".pyramid."),
    (r"^neck\.fpn_routes\.", "neck.lateral."),
    (r"^neck\.pan_routes\.", "neck.down."),
    # head
    (r"^yolo_head\.stem_cls\.", "head.class_gates."),
    (r"^yolo_head\.stem_reg\.", "head.box_gates."),
    (r"^yolo_head\.stem_ins\.", "head.mask_gates."),
    (r"^yolo_head\.pred_cls\.", "head.class_heads."),
    (r"^yolo_head\.pred_reg\.", "head.box_heads."),
    (r"^yolo_head\.pred_ins\.", "head.mask_heads."),
    (r"^yolo_head\.proj_conv\.weight$", "head.bins"),
    (r"^yolo_head\.proto\.upsample\.", "head.prototypes.enlarge."),
    (r"^yolo_head\.proto\.", "head.prototypes."),
)
