# The encoders of CLIP ViT-B/16. Weights and tokenizer come from the same Hugging Face folder.
model = dict(
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(type='CLIPVisionEncoder', patch_size=16, width=768, depth=12, heads=12),
    text_encoder=dict(type='CLIPTextEncoder', width=512, depth=12, heads=8, max_positions=77),
    embed_dim=512,
    projection_bias=False,
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/clip-vit-base-patch16'),
)
