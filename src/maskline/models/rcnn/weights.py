"""Names of the reference's Mask R-CNN and Cascade Mask R-CNN weights, rewritten to ours.

Every rule is a regular expression and its replacement; all rules are applied to a name, in this order.
"""

RESNET = (
    # batch norm
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
    # stem
    (r"^backbone\.conv1\.conv1(?:_1)?\.", "backbone.stem.0."),
    (r"^backbone\.conv1\.conv1_2\.", "backbone.stem.1."),
    (r"^backbone\.conv1\.conv1_3\.", "backbone.stem.2."),
    # stages
    (r"^backbone\.res2\.res2", "backbone.stages.0."),
    (r"^backbone\.res3\.res3", "backbone.stages.1."),
    (r"^backbone\.res4\.res4", "backbone.stages.2."),
    (r"^backbone\.res5\.res5", "backbone.stages.3."),
    # blocks: a, b, c …; or, in a long stage, a, b1, b2 …
    *((rf"^(backbone\.stages\.\d)\.{letter}\.", rf"\g<1>.{i}.") for i, letter in enumerate("abcdef")),
    (r"^(backbone\.stages\.\d)\.b(\d+)\.", r"\1.\2."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
    (r"\.short\.conv\.(conv|norm)\.", r".shortcut.\1."),
    (r"\.short\.", ".shortcut."),
)

FPN = (
    *((rf"^neck\.fpn_inner_res{i + 2}_sum(?:_lateral)?\.", f"neck.lateral.{i}.") for i in range(4)),
    *((rf"^neck\.fpn_res{i + 2}_sum\.", f"neck.output.{i}.") for i in range(4)),
)

RENAME = (
    # the stage that C4 applies to regions
    (r"^bbox_head\.head\.res5\.", "backbone.res5."),
    *RESNET,
    *FPN,
    # proposals
    (r"^rpn_head\.rpn_feat\.rpn_conv\.", "rpn.conv."),
    (r"^rpn_head\.rpn_rois_score\.", "rpn.score."),
    (r"^rpn_head\.rpn_rois_delta\.", "rpn.delta."),
    # boxes: one stage, or several
    (r"^bbox_head\.head\.fc6\.", "box_heads.0.fc1."),
    (r"^bbox_head\.head\.fc7\.", "box_heads.0.fc2."),
    (r"^bbox_head\.head\.(\d)\.fc6\.", r"box_heads.\1.fc1."),
    (r"^bbox_head\.head\.(\d)\.fc7\.", r"box_heads.\1.fc2."),
    (r"^bbox_head\.bbox_(score|delta)\.", r"box_heads.0.\1."),
    (r"^bbox_head\.bbox_(score|delta)_stage(\d)\.", r"box_heads.\2.\1."),
    # masks
    *((rf"^mask_head\.head\.upsample\.mask_inter_feat_{i + 1}\.", f"mask_head.convs.{i}.") for i in range(4)),
    (r"^mask_head\.head\.upsample\.conv5_mask\.", "mask_head.enlarge."),
    (r"^mask_head\.mask_fcn_logits\.", "mask_head.logits."),
)
