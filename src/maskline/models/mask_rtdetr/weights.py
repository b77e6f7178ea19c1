"""Rules from PaddleDetection's parameter names for Mask-RT-DETR to ours.

Each rule is a regular expression and its replacement; all rules are applied to a name, in order.
"""

RENAME = (
    # batch norm
    (r"\.bn\.", ".norm."),
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
    # backbone
    (r"\.stem\.stem1\.", ".stem.down1."),
    (r"\.stem\.stem2a\.", ".stem.branch1."),
    (r"\.stem\.stem2b\.", ".stem.branch2."),
    (r"\.stem\.stem3\.", ".stem.down2."),
    (r"\.stem\.stem4\.", ".stem.project."),
    (r"^(backbone\.stages\.\d+)\.downsample\.", r"\1.down."),
    (r"^(backbone\..*\.layers\.\d+)\.conv1\.", r"\1.pointwise."),
    (r"^(backbone\..*\.layers\.\d+)\.conv2\.", r"\1.depthwise."),
    (r"\.aggregation_squeeze_conv\.", ".squeeze."),
    (r"\.aggregation_excitation_conv\.", ".excite."),
    # attention, in neck and decoder
    (r"\.in_proj_(weight|bias)$", r".in_proj.\1"),
    # neck
    (r"^neck\.input_proj\.(\d)\.0\.", r"neck.project.\1.conv."),
    (r"^neck\.input_proj\.(\d)\.1\.", r"neck.project.\1.norm."),
    (r"^neck\.encoder\.0\.", "neck.encoder."),
    (r"^neck\.lateral_convs\.", "neck.lateral."),
    (r"^neck\.fpn_blocks\.", "neck.top_down."),
    (r"^neck\.downsample_convs\.", "neck.down."),
    (r"^neck\.pan_blocks\.", "neck.bottom_up."),
    (r"\.bottlenecks\.(\d)\.conv1\.", r".blocks.\1.dense."),
    (r"\.bottlenecks\.(\d)\.conv2\.", r".blocks.\1.pointwise."),
    (r"^neck\.mask_feat_head\.scale_heads\.0\.0\.0\.", "neck.mask_features.stride8."),
    (r"^neck\.mask_feat_head\.scale_heads\.1\.0\.0\.", "neck.mask_features.stride16."),
    (r"^neck\.mask_feat_head\.scale_heads\.2\.0\.0\.", "neck.mask_features.stride32.0."),
    (r"^neck\.mask_feat_head\.scale_heads\.2\.2\.0\.", "neck.mask_features.stride32.1."),
    (r"^neck\.mask_feat_head\.output_conv\.", "neck.mask_features.merge."),
    (r"^neck\.enc_mask_lateral\.", "neck.mask_features.lateral."),
    (r"^neck\.enc_mask_output\.0\.", "neck.mask_features.smooth."),
    (r"^neck\.enc_mask_output\.1\.", "neck.mask_features.project."),
    # decoder
    (r"^transformer\.input_proj\.", "decoder.project."),
    (r"^transformer\.decoder\.layers\.", "decoder.layers."),
    (r"^transformer\.denoising_class_embed\.", "decoder.label_embedding."),
    (r"^transformer\.query_pos_head\.", "decoder.position_head."),
    (r"^transformer\.mask_query_head\.", "decoder.mask_head."),
    (r"^transformer\.enc_output\.", "decoder.memory_head."),
    (r"^transformer\.dec_norm\.", "decoder.norm."),
    (r"^transformer\.score_head\.", "decoder.class_head."),
    (r"^transformer\.bbox_head\.", "decoder.box_head."),
)
