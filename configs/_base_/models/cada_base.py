# CADA at the sizes of BLIP base, as released. A config that uses this file also sets the tokenizer and image size
# of its data set.
__bert = dict(width=768, depth=12, heads=12, max_positions=512, dropout=0.1)

model = dict(
    type='CADA',
    # CLIP's mean and standard deviation, on the scale 0..255
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(type='ViTEncoder', patch_size=16, width=768, depth=12, heads=12),
    text_encoder=dict(type='CrossModalBert', **__bert),
    # the released code kept BLIP's causal decoder; the paper describes a bidirectional one
    text_decoder=dict(type='AttributeDecoder', causal=True, **__bert),
    embed_dim=256,
    loss_global=dict(type='GlobalAssociationLoss', scale=50.0),
    loss_atp=dict(type='MatchingLoss'),
    loss_ara=dict(type='MaskedAttributeLoss', weight=0.1),
    grouping=dict(type='PositionGroups', num_groups=2),
    negatives='hardest',
    # BLIP's release, pre-trained on 129M images ("model_base.pth"); a Hugging Face folder of BLIP works as well
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/model_base.pth'),
)
