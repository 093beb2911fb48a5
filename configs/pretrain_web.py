# Second step towards the start weights of cada_procedural.py: all associations, from the encoders that pretrain_web_dual.py
# trained. Negatives are sampled uniformly at first and become harder over the run. With the hardest negatives from the
# start, an untrained match head never gets better than its base rate. Look-alikes meet in its batches, and half of the
# wrong captions are false copies of the true one, because colours and things have to be bound.
_base_ = ['pretrain_web_dual.py']
model = dict(
    false_captions=0.5,
    text_decoder=dict(
        _delete_=True, type='AttributeDecoder', causal=False, width=128, depth=2, heads=4, max_positions=64,
        dropout=0.0),
    loss_atp=dict(_delete_=True, type='MatchingLoss'),
    loss_ara=dict(_delete_=True, type='MaskedAttributeLoss', weight=1.0),
)
train_dataloader = dict(sampler=dict(_delete_=True, type='LookAlikeSampler', batch_size=64, group_size=8))
load_from = 'work_dirs/pretrain_web_dual/epoch_3.pth'
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=5, end=5, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=5, val_interval=5)
