# BLIP's fine-tuning with ITC and ITM, with the small encoders of the procedural pedestrians; the ITM head re-ranks.
_base_ = [
    '../_base_/datasets/procedural_pedes.py',
    '../_base_/models/blip_base.py',
    '../_base_/schedules/procedural.py',
    '../_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}, width=128, depth=3, heads=4, stem='conv'),
    text_encoder=dict(width=128, depth=3, heads=4, max_positions=64, dropout=0.0),
    embed_dim=128,
    init_cfg=dict(checkpoint='cada_plugin://web_start.safetensors'),
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type='LookAlikeSampler', batch_size=64, group_size=8),
    dataset=dict(pipeline={{_base_.plain_pipeline}}))
# as in cada_procedural.py
val_cfg = dict(cosine_weight=15.0)
test_cfg = dict(cosine_weight=15.0)
