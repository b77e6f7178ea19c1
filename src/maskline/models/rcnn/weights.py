"""Rules from PaddleDetection's parameter names for Mask R-CNN and Cascade Mask R-CNN to ours.

Each rule is a regular expression and its replacement; all rules are applied to a name, in order.
"""

from maskline.models.backbones.resnet import RENAME as RESNET
from maskline.models.fpn import RENAME as FPN

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
