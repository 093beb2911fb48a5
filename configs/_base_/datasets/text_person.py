# Loaders and evaluation protocol of all data sets. The file of each data set adds its type, data_root and pipelines.
__loader = dict(num_workers=8, pin_memory=True, collate_fn=dict(type='person_collate'))
__evaluation = dict(
    batch_size=64,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    **__loader,
)
train_dataloader = dict(
    batch_size=24,  # per device; the released CUHK-PEDES run used 5 devices
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train'),
    **__loader,
)
val_dataloader = dict(dataset=dict(split='val', test_mode=True), **__evaluation)
test_dataloader = dict(dataset=dict(split='test', test_mode=True), **__evaluation)

__evaluator = dict(type='TextToImageRetrieval')
val_evaluator = __evaluator
test_evaluator = __evaluator

__protocol = dict(rerank_topk=32)
val_cfg = dict(type='RetrievalValLoop', **__protocol)
test_cfg = dict(type='RetrievalTestLoop', **__protocol)
