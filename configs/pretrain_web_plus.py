# Second step towards the start weights of cada_plus_procedural.py: as pretrain_web.py, with a residual stem, and phrases
# are judged too.
_base_ = ['pretrain_web.py']
model = dict(
    visual_encoder=dict(stem='residual'),
    loss_phrases=dict(type='PhraseMatchingLoss', weight=5.0),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.judging_pipeline}}))
load_from = 'work_dirs/pretrain_web_plus_dual/epoch_3.pth'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=3, end=3, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=3, val_interval=3)
