# The plugin's data set and evaluation, the host's model.
default_scope = 'my_reid'
work_dir = 'work_dirs/plugin_data_host_model'

model = dict(
    type='ColourRetriever',
    data_preprocessor=dict(
        type='cada_plugin.PersonDataPreprocessor', mean=(122.8, 116.7, 104.1), std=(68.5, 66.6, 70.3)),
    tokenizer=dict(vocab='procedural'),
)

__pipeline = [
    dict(type='LoadPersonImage'),
    dict(type='torchvision/Resize', size=(96, 48)),
    dict(type='EncodeCaptions', tokenizer=dict(type='CaptionTokenizer', vocab='procedural')),
    dict(type='PackPersonInputs'),
]
__people = dict(
    type='cada_plugin.ProceduralPEDES',
    data_root='data/few_people',
    build=dict(seed=5, identities=dict(train=2, val=2, test=2), images_per_identity=2),
    pipeline=__pipeline,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='person_collate'),
    dataset=dict(split='train', **__people),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='person_collate'),
    dataset=dict(split='test', test_mode=True, **__people),
)
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict(type='cada_plugin.RetrievalTestLoop', rerank_topk=0)  # it has no second stage
test_evaluator = dict(type='cada_plugin.TextToImageRetrieval')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
custom_hooks = [dict(type='cada_plugin.EpochSeedHook')]
