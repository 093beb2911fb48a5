# The pipelines of published.py for longer captions: about 81 words, which need up to about 168 tokens.
image_size = (224, 224)  # (H, W); images are resized without keeping their aspect ratio
tokenizer = dict(type='CaptionTokenizer', vocab='bert-base-uncased', max_words=168, max_length=168)
__image = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
]
train_pipeline = [
    *__image,
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=10),
    dict(type='torchvision/RandomCrop', size=image_size),
    # erased parts get CLIP's mean, which the preprocessor turns into zeros
    dict(type='torchvision/RandomErasing', scale=(0.02, 0.4), value=(123, 117, 104)),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='TagAttributes', tagger=dict(type='NLTKTagger'), tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.4),
    dict(type='PackPersonInputs'),
]
test_pipeline = [
    *__image,
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='PackPersonInputs'),
]
