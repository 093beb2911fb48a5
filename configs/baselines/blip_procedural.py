# BLIP's fine-tuning with ITC and ITM, with the small encoders of the procedural pedestrians; the ITM head re-ranks.
_base_ = [
    '../_base_/datasets/procedural_pedes.py',
    '../_base_/models/blip_base.py',
    '../_base_/schedules/procedural_2e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}, width=128, depth=2, heads=4, stem='conv'),
    text_encoder=dict(width=128, depth=3, heads=4, max_positions=64, dropout=0.0),
    embed_dim=128,
    init_cfg=dict(checkpoint='cada_plugin://procedural_start.safetensors'),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.plain_pipeline}}))
