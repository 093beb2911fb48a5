# Loader of the published data sets, as the released recipe reads them (see README for the differences).
# The data sets' own files set type, data_root and split sizes.
image_size = (224, 224)  # (H, W), resized, not cropped
tokenizer = dict(type='CaptionTokenizer', vocab='bert-base-uncased', max_words=72, max_length=73)

train_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=10),
    dict(type='torchvision/RandomCrop', size=image_size),
    # filled with CLIP's mean, which the preprocessor turns into zeros
    dict(type='torchvision/RandomErasing', scale=(0.02, 0.4), value=(123, 117, 104)),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='TagAttributes', tagger=dict(type='NLTKTagger'), tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.4),
    dict(type='PackPersonInputs'),
]
test_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='PackPersonInputs'),
]

train_dataloader = dict(
    batch_size=24,  # per device; the released CUHK-PEDES run used 5 devices
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type='person_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    pin_memory=True,
    drop_last=False,
    collate_fn=dict(type='person_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=8,
    pin_memory=True,
    drop_last=False,
    collate_fn=dict(type='person_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', test_mode=True, pipeline=test_pipeline),
)
val_evaluator = dict(type='TextToImageRetrieval')
test_evaluator = dict(type='TextToImageRetrieval')
val_cfg = dict(type='RetrievalValLoop', rerank_topk=32)
test_cfg = dict(type='RetrievalTestLoop', rerank_topk=32)
