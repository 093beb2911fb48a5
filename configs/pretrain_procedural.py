# Second half of the start weights of cada_procedural.py: all associations, from pretrain_procedural_dual.py's encoders.
# Wrong partners are drawn, at first uniformly and then ever harder: with the hardest from the start, matching never
# leaves its base rate when it begins from nothing.
_base_ = ['pretrain_procedural_dual.py']
model = dict(
    text_decoder=dict(_delete_=True, type='AttributeDecoder', causal=False, width=128, depth=3, heads=4, max_positions=64, dropout=0.0),
    loss_atp=dict(_delete_=True, type='MatchingLoss'),
    loss_ara=dict(_delete_=True, type='MaskedAttributeLoss', weight=1.0),
)
load_from = 'work_dirs/pretrain_procedural_dual/epoch_8.pth'
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=11, end=11, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=11)
