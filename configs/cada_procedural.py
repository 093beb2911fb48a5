# The main job, on drawn pedestrians, in minutes on two CPU cores. It starts from small weights that ship with the
# plugin, as the published recipe starts from BLIP's; pretrain_procedural.py made them, on other people.
_base_ = [
    '_base_/datasets/procedural_pedes.py',
    '_base_/models/cada_tiny.py',
    '_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
    negative_temperature=(20.0, 40.0),
    init_cfg=dict(type='Pretrained', checkpoint='cada_plugin://procedural_start.safetensors'),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=4, end=4, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=1)
