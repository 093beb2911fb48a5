# IRRA: similarity distribution matching (SDM), identity loss and implicit relation reasoning.
_base_ = [
    '../_base_/datasets/procedural_pedes.py',
    '../_base_/models/dual_small.py',
    '../_base_/schedules/procedural.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='IRRA',
    num_classes=3000,
    loss_sdm=dict(type='SDMLoss'),
    loss_id=dict(type='IdentityLoss'),
    loss_irr=dict(type='MaskedAttributeLoss', weight=1.0),
    reasoning_heads=4,
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type='LookAlikeSampler', batch_size=64, group_size=8),
    dataset=dict(pipeline={{_base_.random_pipeline}}))
