# A network of torchreid with ImageNet's weights and a bidirectional LSTM. What a config sets beside it: the network's
# name, tokenizer and num_classes.
model = dict(
    type='CMPMRetriever',
    data_preprocessor=dict(  # ImageNet's mean and deviation, in 0..255
        type='PersonDataPreprocessor', mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    visual_encoder=dict(type='TorchreidEncoder', pretrained=True),
    text_encoder=dict(type='BiLSTMEncoder', word_width=512, hidden=512),
    embed_dim=512,
    projection_bias=True,
    loss_cmpm=dict(type='CMPMLoss'),
    loss_cmpc=dict(type='CMPCLoss'),
)
