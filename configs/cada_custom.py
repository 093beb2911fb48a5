# Train on your own pictures: a folder of pictures with annotations.csv (file_path,caption,id) or annotations.json.
#     cada train cada_custom --cfg-options data_root=my_people
# The start weights have seen procedural people only, and their vocabulary has 626 entries. For photographs, put what is
# below _base_ into a config based on cada_cuhk.py, which starts from BLIP's weights and reads all words.
_base_ = ['cada_procedural.py']
data_root = 'data/custom'
trained_weights = None  # those of the base know procedural people
__dataset = dict(_delete_=True, type='CustomPEDES', data_root=data_root)
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),  # also right for fewer pairs than a batch
    dataset=dict(split='train', pipeline={{_base_.train_pipeline}}, **__dataset),
)
val_dataloader = dict(dataset=dict(split='val', test_mode=True, pipeline={{_base_.test_pipeline}}, **__dataset))
test_dataloader = dict(dataset=dict(split='test', test_mode=True, pipeline={{_base_.test_pipeline}}, **__dataset))
