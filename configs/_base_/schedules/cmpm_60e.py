# The optimiser of the CMPM paper (Adam, learning rate 2e-4), with two steps down to a tenth; batch 64 on one device.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-4, weight_decay=4e-5, fused=True))
param_scheduler = [dict(type='MultiStepLR', milestones=[30, 50], gamma=0.1, by_epoch=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=60, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=64)
