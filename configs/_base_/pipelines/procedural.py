# As procedural_pedes.py reads its people for CADA, but without masked words, or with any word masked.
procedural_image_size = (96, 48)  # (H, W)
procedural_tokenizer = dict(type='CaptionTokenizer', vocab='procedural', max_words=72, max_length=56)
procedural_plain_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=procedural_image_size),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=4, fill=(123, 117, 104)),
    dict(type='torchvision/RandomCrop', size=procedural_image_size),
    dict(type='EncodeCaptions', tokenizer=procedural_tokenizer),
    dict(type='PackPersonInputs'),
]
procedural_random_pipeline = [
    *procedural_plain_pipeline[:-1],
    dict(type='MaskTokens', tokenizer=procedural_tokenizer, probability=0.15),
    dict(type='PackPersonInputs'),
]
