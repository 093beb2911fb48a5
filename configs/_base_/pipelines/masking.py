# Other ways to choose the words that ARA masks, for the published sets.
__size = (224, 224)  # (H, W)
__tokenizer = dict(type='CaptionTokenizer', vocab='bert-base-uncased', max_words=72, max_length=73)
__steps = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=__size),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=10),
    dict(type='torchvision/RandomCrop', size=__size),
    dict(type='torchvision/RandomErasing', scale=(0.02, 0.4), value=(123, 117, 104)),
    dict(type='EncodeCaptions', tokenizer=__tokenizer),
]
masked_phrases_pipeline = [
    *__steps,
    dict(type='TagAttributes', tagger=dict(type='NLTKTagger'), tokenizer=__tokenizer),
    dict(type='MaskAttributes', tokenizer=__tokenizer, unit='phrases', probability=0.8),
    dict(type='PackPersonInputs'),
]
masked_random_pipeline = [
    *__steps,
    dict(type='MaskTokens', tokenizer=__tokenizer, probability=0.15),
    dict(type='PackPersonInputs'),
]
