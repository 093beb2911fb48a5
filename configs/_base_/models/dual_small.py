# The encoders of cada_small.py without cross-attention. On procedural pedestrians all transformer baselines have these
# encoders and start from the same weights, so that the table compares methods and not backbones.
model = dict(
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(
        type='ViTEncoder', patch_size=16, width=128, depth=3, heads=4, stem='conv'),
    text_encoder=dict(type='BertTextEncoder', width=128, depth=3, heads=4, max_positions=64, dropout=0.0),
    embed_dim=128,
    projection_bias=True,
    init_cfg=dict(type='Pretrained', checkpoint='cada_plugin://web_start.safetensors'),
)
