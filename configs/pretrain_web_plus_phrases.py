# Third step towards the start weights of cada_plus_procedural.py: two more epochs, in which phrases weigh twice as much.
_base_ = ['pretrain_web_plus.py']
model = dict(loss_phrases=dict(weight=10.0))
load_from = 'work_dirs/pretrain_web_plus/epoch_3.pth'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=2, end=2, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=2, val_interval=2)
