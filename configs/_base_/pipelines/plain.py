# As the published sets are read for CADA, but without masked words: nothing has to be tagged.
plain_image_size = (224, 224)  # (H, W)
plain_tokenizer = dict(type='CaptionTokenizer', vocab='bert-base-uncased', max_words=72, max_length=73)
plain_train_pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=plain_image_size),
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=10),
    dict(type='torchvision/RandomCrop', size=plain_image_size),
    dict(type='torchvision/RandomErasing', scale=(0.02, 0.4), value=(123, 117, 104)),
    dict(type='EncodeCaptions', tokenizer=plain_tokenizer),
    dict(type='PackPersonInputs'),
]
