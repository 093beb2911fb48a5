# Your own pictures: a folder with annotations.csv (file_path,caption,id) or annotations.json, and the pictures beside it.
#     cada train cada_custom --cfg-options data_root=my_people
# The weights that it starts from know drawn people only, and 606 words. For photographs, write the same five lines on top
# of cada_cuhk.py, which starts from BLIP's weights and reads all words.
_base_ = ['cada_procedural.py']
data_root = 'data/custom'
__dataset = dict(_delete_=True, type='CustomPEDES', data_root=data_root)
train_dataloader = dict(dataset=dict(split='train', pipeline={{_base_.train_pipeline}}, **__dataset))
val_dataloader = dict(dataset=dict(split='val', test_mode=True, pipeline={{_base_.test_pipeline}}, **__dataset))
test_dataloader = dict(dataset=dict(split='test', test_mode=True, pipeline={{_base_.test_pipeline}}, **__dataset))
