# cada_procedural.py without start weights, for comparison.
_base_ = ['cada_procedural.py']
model = dict(
    init_cfg=None,
    negative_scale=(0.0, 20.0),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=7, end=7, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=7, val_interval=7)
