# How drawn pedestrians are read: small images, a small vocabulary, and no erasing. With a few hundred identities to
# learn from, a matcher needs to see what the caption names.
image_size = (96, 48)  # (H, W)
tokenizer = dict(type='CaptionTokenizer', vocab='procedural', max_words=72, max_length=56)
__image = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
]
__train = [
    *__image,
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=4, fill=(123, 117, 104)),
    dict(type='torchvision/RandomCrop', size=image_size),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
]
# for CADA, with masked words
train_pipeline = [
    *__train,
    dict(type='TagAttributes', tagger=dict(type='LexiconTagger'), tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.3),
    dict(type='PackPersonInputs'),
]
# for models that mask nothing
plain_pipeline = [
    *__train,
    dict(type='PackPersonInputs'),
]
# any word is masked, as BERT and IRRA do
random_pipeline = [
    *__train,
    dict(type='MaskTokens', tokenizer=tokenizer, probability=0.15),
    dict(type='PackPersonInputs'),
]
test_pipeline = [
    *__image,
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='PackPersonInputs'),
]
