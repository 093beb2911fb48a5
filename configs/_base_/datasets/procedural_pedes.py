# Drawn pedestrians (see README): needs no download, is made where it is missing.
data_root = 'data/procedural_pedes'
build = dict(seed=1, identities=dict(train=1200, val=100, test=400), images_per_identity=3)
image_size = (96, 48)  # (H, W)
tokenizer = dict(type='CaptionTokenizer', vocab='procedural', max_length=56)

train_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=4, fill=(123, 117, 104)),
    dict(type='torchvision/RandomCrop', size=image_size),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='TagAttributes', tagger=dict(type='LexiconTagger'), tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.3),
    dict(type='PackPersonInputs'),
]
test_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='PackPersonInputs'),
]

__dataset = dict(type='ProceduralPEDES', data_root=data_root, build=build)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='person_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline, **__dataset),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=False,
    drop_last=False,
    collate_fn=dict(type='person_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', test_mode=True, pipeline=test_pipeline, **__dataset),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=False,
    drop_last=False,
    collate_fn=dict(type='person_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', test_mode=True, pipeline=test_pipeline, **__dataset),
)
val_evaluator = dict(type='TextToImageRetrieval')
test_evaluator = dict(type='TextToImageRetrieval')
val_cfg = dict(type='RetrievalValLoop', rerank_topk=32)
test_cfg = dict(type='RetrievalTestLoop', rerank_topk=32)
