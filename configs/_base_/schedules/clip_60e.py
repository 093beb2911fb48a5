# IRRA's recipe, which is common for CLIP baselines: Adam with learning rate 1e-5 (new layers: five times that; biases:
# twice that and no decay), weight decay 4e-5, batch 64 on one device, 60 epochs: 5 of warm-up, then cosine.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-5, weight_decay=4e-5, fused=True),
    paramwise_cfg=dict(
        bias_lr_mult=2.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            reasoning=dict(lr_mult=5.0), selection=dict(lr_mult=5.0), classifier=dict(lr_mult=5.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=5, by_epoch=True),
    dict(type='CosineAnnealingLR', T_max=55, begin=5, end=60, by_epoch=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=60, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=64)
