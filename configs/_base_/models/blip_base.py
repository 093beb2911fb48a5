# BLIP at the sizes of its base model, for fine-tuning. What a config sets beside it: tokenizer and image size.
model = dict(
    type='BLIP',
    # CLIP's mean and deviation, in 0..255
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(type='ViTEncoder', patch_size=16, width=768, depth=12, heads=12),
    text_encoder=dict(type='CrossModalBert', width=768, depth=12, heads=12, max_positions=512, dropout=0.1),
    embed_dim=256,
    loss_itc=dict(type='InfoNCELoss'),
    loss_itm=dict(type='MatchingLoss'),
    # BLIP's 129M weights (BLIP's release, "model_base.pth"); a Hugging Face folder of BLIP does as well
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/model_base.pth'),
)
