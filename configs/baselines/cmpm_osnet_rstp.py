# OSNet of torchreid and a bidirectional LSTM under CMPM and CMPC.
_base_ = [
    '../_base_/datasets/rstpreid.py',
    '../_base_/pipelines/plain.py',
    '../_base_/schedules/cmpm_60e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='CMPMRetriever',
    num_classes=3701,
    data_preprocessor=dict(  # ImageNet's mean and deviation, in 0..255
        type='PersonDataPreprocessor', mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    visual_encoder=dict(type='TorchreidEncoder', name='osnet_x1_0', pretrained=True),
    text_encoder=dict(type='BiLSTMEncoder', word_width=512, hidden=512),
    tokenizer={{_base_.tokenizer}},
    embed_dim=512,
    projection_bias=True,
)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline={{_base_.plain_train_pipeline}}))
default_hooks = dict(checkpoint=dict(save_best='t2i_global/R1'))
