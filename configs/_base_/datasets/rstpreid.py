_base_ = ['text_person.py']
data_root = 'data/RSTPReid'
__dataset = dict(type='RSTPReid', data_root=data_root)
train_dataloader = dict(dataset=__dataset)
val_dataloader = dict(dataset=__dataset)
test_dataloader = dict(dataset=__dataset)
# released k for RSTPReid
val_cfg = dict(rerank_topk=128)
test_cfg = dict(rerank_topk=128)
