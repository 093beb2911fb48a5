# Pipelines for the published sets, as in the released code: 224x224 images, BERT's word pieces. docs/differences.md
# lists what differs from it.
image_size = (224, 224)  # (H, W); images are resized without keeping their aspect ratio
tokenizer = dict(type='CaptionTokenizer', vocab='bert-base-uncased', max_words=72, max_length=73)
__image = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=image_size),
]
__train = [
    *__image,
    dict(type='torchvision/RandomHorizontalFlip', p=0.5),
    dict(type='torchvision/Pad', padding=10),
    dict(type='torchvision/RandomCrop', size=image_size),
    # erased parts get CLIP's mean, which the preprocessor turns into zeros
    dict(type='torchvision/RandomErasing', scale=(0.02, 0.4), value=(123, 117, 104)),
    dict(type='EncodeCaptions', tokenizer=tokenizer),
]
# for CADA, with masked words
train_pipeline = [
    *__train,
    dict(type='TagAttributes', tagger=dict(type='NLTKTagger'), tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.4),
    dict(type='PackPersonInputs'),
]
# for CADA that judges phrases one by one; as pictures are mirrored, no phrase about left or right can be learnt
judging_pipeline = [
    *__train,
    dict(type='TagAttributes', tagger=dict(type='NLTKTagger'), tokenizer=tokenizer),
    dict(type='ReadPhrases', tagger=dict(type='NLTKTagger'), tokenizer=tokenizer),
    dict(type='ContradictPhrases', tokenizer=tokenizer),
    dict(type='MaskAttributes', tokenizer=tokenizer, unit='words', probability=0.4),
    dict(type='PackPersonInputs'),
]
# for models that mask nothing, so that no caption has to be tagged
plain_pipeline = [
    *__train,
    dict(type='PackPersonInputs'),
]
test_pipeline = [
    *__image,
    dict(type='EncodeCaptions', tokenizer=tokenizer),
    dict(type='PackPersonInputs'),
]
