# Drawn pedestrians (see README): needs no download, is made where it is missing. Small images, a small vocabulary, and
# no erasing: with a few hundred identities to learn from, a matcher needs to see what the caption names.
_base_ = ['text_person.py']
data_root = 'data/procedural_pedes'
build = dict(seed=1, identities=dict(train=1200, val=100, test=400), images_per_identity=3)
image_size = (96, 48)  # (H, W)
tokenizer = dict(type='CaptionTokenizer', vocab='procedural', max_words=72, max_length=56)

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

# one worker: two cores have nothing to spare
__dataset = dict(type='ProceduralPEDES', data_root=data_root, build=build)
train_dataloader = dict(
    batch_size=64, num_workers=1, pin_memory=False, dataset=dict(pipeline=train_pipeline, **__dataset))
val_dataloader = dict(num_workers=1, pin_memory=False, dataset=dict(pipeline=test_pipeline, **__dataset))
test_dataloader = dict(num_workers=1, pin_memory=False, dataset=dict(pipeline=test_pipeline, **__dataset))
