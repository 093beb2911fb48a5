# The CLIP baseline of the IRRA paper, InfoNCE at a fixed temperature, with the small encoders of the procedural pedestrians.
_base_ = [
    '../_base_/datasets/procedural_pedes.py',
    '../_base_/models/dual_small.py',
    '../_base_/schedules/procedural.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='CLIPRetriever',
    loss_itc=dict(type='InfoNCELoss', scale=50.0, learnable=False),
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type='LookAlikeSampler', batch_size=64, group_size=8),
    dataset=dict(pipeline={{_base_.plain_pipeline}}))
