# IRRA: similarity distribution matching (SDM), identity loss and implicit relation reasoning.
_base_ = [
    '../_base_/datasets/cuhk_pedes.py',
    '../_base_/pipelines/clip.py',
    '../_base_/models/clip_base.py',
    '../_base_/schedules/clip_60e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='IRRA',
    num_classes=11003,
    loss_sdm=dict(type='SDMLoss'),
    loss_id=dict(type='IdentityLoss'),
    loss_irr=dict(type='MaskedAttributeLoss', weight=1.0),
    tokenizer={{_base_.clip_tokenizer}},
    visual_encoder=dict(image_size={{_base_.clip_image_size}}),
)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline={{_base_.clip_random_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.clip_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.clip_test_pipeline}}))
