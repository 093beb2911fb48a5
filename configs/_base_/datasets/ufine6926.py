_base_ = ['text_person.py']
data_root = 'data/UFine6926'
# captions of about 81 words need about 168 tokens
tokenizer = dict(type='CaptionTokenizer', vocab='bert-base-uncased', max_words=168, max_length=168)
train_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size={{_base_.image_size}}),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=10),
    dict(type='torchvision/RandomCrop', size={{_base_.image_size}}),
    dict(type='torchvision/RandomErasing', scale=(0.02, 0.4), value=(123, 117, 104)),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='TagAttributes', tagger=dict(type='NLTKTagger'), tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.4),
    dict(type='PackPersonInputs'),
]
test_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size={{_base_.image_size}}),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='PackPersonInputs'),
]
train_dataloader = dict(dataset=dict(type='UFine6926', data_root=data_root, pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(type='UFine6926', data_root=data_root, pipeline=test_pipeline))
# There is no validation split: the last epoch is tested.
val_dataloader = None
val_evaluator = None
val_cfg = None
