_base_ = ['published.py']
data_root = 'data/RSTPReid'
__dataset = dict(type='RSTPReid', data_root=data_root)
train_dataloader = dict(dataset=__dataset)
val_dataloader = dict(dataset=__dataset)
test_dataloader = dict(dataset=__dataset)
__protocol = dict(rerank_topk=128)  # k of the released code for RSTPReid
val_cfg = __protocol
test_cfg = __protocol
