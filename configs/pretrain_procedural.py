_base_ = [
    '_base_/datasets/procedural_pedes.py',
    '_base_/models/cada_tiny.py',
    '_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=0, T_max=8, end=8, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8, val_interval=2)
