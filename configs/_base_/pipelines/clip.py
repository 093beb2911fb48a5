# Pipelines of IRRA, which are common for CLIP baselines: 384x128 images, and the tokenizer from the folder of CLIP's
# weights. The names begin with clip_, because a config also has the pipelines of its data set.
clip_image_size = (384, 128)  # (H, W)
clip_tokenizer = dict(type='CLIPCaptionTokenizer', vocab='checkpoints/clip-vit-base-patch16')
__image = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=clip_image_size),
]
__train = [
    *__image,
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=10),
    dict(type='torchvision/RandomCrop', size=clip_image_size),
    # erased parts get CLIP's mean, which the preprocessor turns into zeros
    dict(type='torchvision/RandomErasing', scale=(0.02, 0.4), value=(123, 117, 104)),
    dict(type='EncodeCaptions', tokenizer=clip_tokenizer),
]
clip_plain_pipeline = [
    *__train,
    dict(type='PackPersonInputs'),
]
clip_random_pipeline = [
    *__train,
    dict(type='MaskTokens', tokenizer=clip_tokenizer, probability=0.15),
    dict(type='PackPersonInputs'),
]
clip_test_pipeline = [
    *__image,
    dict(type='EncodeCaptions', tokenizer=clip_tokenizer),
    dict(type='PackPersonInputs'),
]
