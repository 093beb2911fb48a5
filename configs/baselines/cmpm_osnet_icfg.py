# OSNet of torchreid and a bidirectional LSTM, trained with CMPM and CMPC.
_base_ = [
    '../_base_/datasets/icfg_pedes.py',
    '../_base_/models/cmpm.py',
    '../_base_/schedules/cmpm_60e.py',
    '../_base_/default_runtime.py',
]
model = dict(num_classes=3102, tokenizer={{_base_.tokenizer}}, visual_encoder=dict(name='osnet_x1_0'))
train_dataloader = dict(batch_size=64, dataset=dict(pipeline={{_base_.plain_pipeline}}))
