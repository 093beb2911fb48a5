# RDE: token-selection embedding, triplet alignment loss (TAL) and confident consensus division (CCD).
_base_ = [
    '../_base_/datasets/procedural_pedes.py',
    '../_base_/models/dual_small.py',
    '../_base_/schedules/procedural.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='RDE',
    loss_tal=dict(type='TripletAlignmentLoss', margin=0.1, temperature=0.015),
    selection_dim=256,
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type='LookAlikeSampler', batch_size=64, group_size=8),
    dataset=dict(pipeline={{_base_.plain_pipeline}}))
default_hooks = dict(consensus=dict(type='ConsensusDivisionHook'))
