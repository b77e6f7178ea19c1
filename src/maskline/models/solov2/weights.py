"""Rules from PaddleDetection's parameter names for SOLOv2 to ours.

Each rule is a regular expression and its replacement; all rules are applied to a name, in order. Their files
hold the last layers of the heads twice, under two names, which become one here.
"""

from maskline.models.backbones.resnet import RENAME as RESNET
from maskline.models.fpn import RENAME as FPN

RENAME = (
    *RESNET,
    *FPN,
    # head; last layers twice
    (r"^solov2_head\.(?:bbox_head\.)?solo_kernel\.", "head.kernel."),
    (r"^solov2_head\.(?:bbox_head\.)?solo_cate\.", "head.category."),
    (r"^solov2_head\.bbox_head\.kernel_convs\.", "head.kernel_convs."),
    (r"^solov2_head\.bbox_head\.cate_convs\.", "head.category_convs."),
    # mask features, which kernels are applied to; last layer twice
    (
        r"^mask_head\.conv_pre_feat\d\.mask_feat_head\.convs_all_levels\.(\d)\.conv(\d)\.",
        r"mask_features.levels.\1.\2.",
    ),
    (r"^mask_head\.(?:mask_feat_head\.conv_pred\.0|conv_pred)\.", "mask_features.merge."),
)
