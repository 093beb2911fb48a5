# Pipelines for procedural pedestrians. Pictures are used at the size at which they are drawn, because
# smaller ones do not show shoes and glasses. They are not flipped: captions tell left from right.
image_size = (128, 64)  # (H, W)
tokenizer = dict(type='CaptionTokenizer', vocab='procedural', max_words=72, max_length=64)
__image = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
]
__train = [
    *__image,
    dict(type='torchvision/Pad', padding=4, fill=(123, 117, 104)),
    dict(type='torchvision/RandomCrop', size=image_size),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
]
# for CADA, with masked words and false copies of captions
train_pipeline = [
    *__train,
    dict(type='FalsifyCaption', tokenizer=tokenizer),
    dict(type='TagAttributes', tagger=dict(type='LexiconTagger'), tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.3),
    dict(type='PackPersonInputs'),
]
# for CADA that judges phrases one by one
judging_pipeline = [
    *__train,
    dict(type='FalsifyCaption', tokenizer=tokenizer),
    dict(type='TagAttributes', tagger=dict(type='LexiconTagger'), tokenizer=tokenizer),
    dict(type='ReadPhrases', tagger=dict(type='LexiconTagger'), tokenizer=tokenizer),
    dict(type='ContradictPhrases', tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.3),
    dict(type='PackPersonInputs'),
]
# for models that mask nothing
plain_pipeline = [
    *__train,
    dict(type='PackPersonInputs'),
]
# for models that mask any word, as BERT and IRRA do
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
