# First step towards the start weights of cada_procedural.py: the two encoders alone, with the global association, on
# procedural people of the web world.
_base_ = [
    '_base_/datasets/procedural_web.py',
    '_base_/models/cada_small.py',
    '_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
    text_decoder=None,
    loss_atp=None,
    loss_ara=None,
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0),
)
# The learning rate is 1e-3: with 2e-3 and more, the contrastive loss stays at ln(batch), which is chance.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=3, end=3, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=3)
