_base_ = ['published.py']
data_root = 'data/CUHK-PEDES'
__dataset = dict(type='CUHKPEDES', data_root=data_root)
train_dataloader = dict(dataset=__dataset)
val_dataloader = dict(dataset=__dataset)
test_dataloader = dict(dataset=__dataset)
