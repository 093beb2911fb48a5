# RDE: token-selection embedding, triplet alignment loss (TAL) and confident consensus division (CCD).
_base_ = [
    '../_base_/datasets/cuhk_pedes.py',
    '../_base_/pipelines/clip.py',
    '../_base_/models/clip_base.py',
    '../_base_/schedules/clip_60e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='RDE',
    loss_tal=dict(type='TripletAlignmentLoss', margin=0.1, temperature=0.015),
    tokenizer={{_base_.clip_tokenizer}},
    visual_encoder=dict(image_size={{_base_.clip_image_size}}),
)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline={{_base_.clip_plain_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.clip_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.clip_test_pipeline}}))
default_hooks = dict(consensus=dict(type='ConsensusDivisionHook'))
