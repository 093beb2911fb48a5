# Recipe of the released code: AdamW, learning rate 1e-5, weight decay 0.05 on all parameters, cosine to 0 (one step per
# epoch), no warm-up.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-5, weight_decay=0.05, fused=True),
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=30, end=30, eta_min=0.0, by_epoch=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=30, val_interval=1)
# as in the released CUHK-PEDES run: 24 pairs on each of 5 devices
auto_scale_lr = dict(enable=False, base_batch_size=120)
