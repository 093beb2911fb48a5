# Your own pictures: a folder with annotations.csv (file_path,caption,id) or annotations.json beside them.
_base_ = ['procedural_pedes.py']
data_root = 'data/custom'
__dataset = dict(_delete_=True, type='CustomPEDES', data_root=data_root)
train_dataloader = dict(dataset=dict(split='train', pipeline={{_base_.train_pipeline}}, **__dataset))
val_dataloader = dict(dataset=dict(split='val', test_mode=True, pipeline={{_base_.test_pipeline}}, **__dataset))
test_dataloader = dict(dataset=dict(split='test', test_mode=True, pipeline={{_base_.test_pipeline}}, **__dataset))
build = None
