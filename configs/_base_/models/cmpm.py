# A convolutional network of torchreid with ImageNet weights, and a bidirectional LSTM. A config that uses this file
# also sets the name of the network, tokenizer and num_classes.
model = dict(
    type='CMPMRetriever',
    data_preprocessor=dict(  # ImageNet's mean and standard deviation, on the scale 0..255
        type='PersonDataPreprocessor', mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    visual_encoder=dict(type='TorchreidEncoder', pretrained=True),
    text_encoder=dict(type='BiLSTMEncoder', word_width=512, hidden=512),
    embed_dim=512,
    projection_bias=True,
    loss_cmpm=dict(type='CMPMLoss'),
    loss_cmpc=dict(type='CMPCLoss'),
)
