_base_ = ['published.py']
data_root = 'data/ICFG-PEDES'
__dataset = dict(type='ICFGPEDES', data_root=data_root)
train_dataloader = dict(dataset=__dataset)
test_dataloader = dict(dataset=__dataset)
# There is no validation split, so the last epoch is tested. No epoch is chosen by results on the test split.
val_dataloader = None
val_evaluator = None
val_cfg = None
