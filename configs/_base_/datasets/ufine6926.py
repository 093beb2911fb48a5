_base_ = ['text_person.py', '../pipelines/ufine.py']
data_root = 'data/UFine6926'
__dataset = dict(type='UFine6926', data_root=data_root)
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline}}, **__dataset))
test_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}, **__dataset))
# There is no validation split, so the last epoch is tested. No epoch is chosen by results on the test split.
val_dataloader = None
val_evaluator = None
val_cfg = None
