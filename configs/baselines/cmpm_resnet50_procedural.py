# ResNet-50 of torchreid and a bidirectional LSTM, trained with CMPM and CMPC. It starts from scratch, because ImageNet
# weights need a download. Two CPU cores manage only two epochs: they show that it runs and learns, but say nothing
# about the method.
_base_ = [
    '../_base_/datasets/procedural_pedes.py',
    '../_base_/models/cmpm.py',
    '../_base_/default_runtime.py',
]
model = dict(
    num_classes=3000,
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(name='resnet50', pretrained=False),
    text_encoder=dict(word_width=128, hidden=256),
    embed_dim=256,
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.plain_pipeline}}))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3, fused=True), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=2, end=2, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
