# BLIP at the sizes of its base model, for fine-tuning. A config that uses this file also sets tokenizer and image size.
model = dict(
    type='BLIP',
    # CLIP's mean and standard deviation, on the scale 0..255
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
    # BLIP's release, pre-trained on 129M images ("model_base.pth"); a Hugging Face folder of BLIP works as well
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/model_base.pth'),
)
