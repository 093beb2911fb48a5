_base_ = ['text_person.py']
__dataset = dict(type='CUHKPEDES', data_root='data/CUHK-PEDES')
train_dataloader = dict(dataset=__dataset)
val_dataloader = dict(dataset=__dataset)
test_dataloader = dict(dataset=__dataset)
