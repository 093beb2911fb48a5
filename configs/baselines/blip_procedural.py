# BLIP fine-tuned: ITC and ITM, re-ranked.
_base_ = [
    '../_base_/datasets/procedural_pedes.py',
    '../_base_/pipelines/procedural.py',
    '../_base_/schedules/procedural_2e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='BLIP',
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(
        type='ViTEncoder', image_size={{_base_.image_size}}, patch_size=16, width=128, depth=2, heads=4, stem='conv'),
    text_encoder=dict(type='CrossModalBert', width=128, depth=3, heads=4, max_positions=64, dropout=0.0),
    tokenizer={{_base_.tokenizer}},
    embed_dim=128,
    loss_itc=dict(type='InfoNCELoss'),
    loss_itm=dict(type='MatchingLoss'),
    init_cfg=dict(type='Pretrained', checkpoint='cada_plugin://procedural_start.safetensors'),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.procedural_plain_pipeline}}))
