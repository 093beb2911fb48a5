# The host's data set, the plugin's model and evaluation.
default_scope = 'my_reid'
work_dir = 'work_dirs/host_data_plugin_model'

__tokenizer = dict(type='CaptionTokenizer', vocab='procedural')
__bert = dict(width=32, depth=1, heads=2, max_positions=128)
model = dict(
    type='cada_plugin.CADA',
    data_preprocessor=dict(type='PersonDataPreprocessor', mean=(122.8, 116.7, 104.1), std=(68.5, 66.6, 70.3)),
    visual_encoder=dict(type='ViTEncoder', image_size=(96, 48), width=32, depth=1, heads=2),
    text_encoder=dict(type='CrossModalBert', **__bert),
    tokenizer=__tokenizer,
    loss_global=dict(type='GlobalAssociationLoss'),
    loss_atp=dict(type='MatchingLoss'),
    grouping=dict(type='TokenGroups'),
)

__pipeline = [
    dict(type='cada_plugin.LoadPersonImage'),
    dict(type='cada_plugin.torchvision/Resize', size=(96, 48)),
    dict(type='cada_plugin.EncodeCaptions', tokenizer=dict(type='cada_plugin.CaptionTokenizer', vocab='procedural')),
    dict(type='cada_plugin.PackPersonInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='person_collate'),
    dataset=dict(type='ShopWindow', data_root='pictures', pipeline=__pipeline),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='person_collate'),
    dataset=dict(type='ShopWindow', data_root='pictures', test_mode=True, pipeline=__pipeline),
)
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict(type='cada_plugin.RetrievalTestLoop', rerank_topk=2)
test_evaluator = dict(type='cada_plugin.TextToImageRetrieval')
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
randomness = dict(seed=0)  # with two people, an unlucky order would fill a batch with one, who has no wrong partner
