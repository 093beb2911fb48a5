# CADA at BLIP-base sizes, as released. What a config sets beside it: tokenizer and image size, those of its data set.
__bert = dict(width=768, depth=12, heads=12, max_positions=512, dropout=0.1)

model = dict(
    type='CADA',
    # CLIP's mean and deviation, in 0..255
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(type='ViTEncoder', patch_size=16, width=768, depth=12, heads=12),
    text_encoder=dict(type='CrossModalBert', **__bert),
    # the released code kept BLIP's causal decoder; the paper's text reads as bidirectional
    text_decoder=dict(type='AttributeDecoder', causal=True, **__bert),
    embed_dim=256,
    loss_global=dict(type='GlobalAssociationLoss', scale=50.0),
    loss_atp=dict(type='MatchingLoss'),
    loss_ara=dict(type='MaskedAttributeLoss', weight=0.1),
    grouping=dict(type='PositionGroups', num_groups=2),
    negatives='hardest',
    # BLIP's 129M weights (BLIP's release, "model_base.pth"); a Hugging Face folder of BLIP does as well
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/model_base.pth'),
)
