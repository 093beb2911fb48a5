# CADA for procedural pedestrians, small enough to be trained in minutes on two CPU cores.
__bert = dict(width=128, heads=4, max_positions=64, dropout=0.0)

model = dict(
    type='CADA',
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(type='ViTEncoder', patch_size=16, width=128, depth=3, heads=4, stem='conv'),
    text_encoder=dict(type='CrossModalBert', depth=3, **__bert),
    text_decoder=dict(type='AttributeDecoder', causal=False, depth=2, **__bert),
    embed_dim=128,
    loss_global=dict(type='GlobalAssociationLoss', scale=50.0),
    loss_atp=dict(type='MatchingLoss'),
    loss_ara=dict(type='MaskedAttributeLoss', weight=1.0),
    grouping=dict(type='TokenGroups', num_groups=2),
    negatives='sampled',
    negative_scale=(0.0, 20.0),
)
