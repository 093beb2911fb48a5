# Drawn pedestrians (see README): needs no download, is made where it is missing.
_base_ = ['text_person.py', '../pipelines/procedural.py']
data_root = 'data/procedural_pedes'
build = dict(seed=1, identities=dict(train=1200, val=100, test=400), images_per_identity=3)

__dataset = dict(type='ProceduralPEDES', data_root=data_root, build=build)
__loader = dict(num_workers=1, pin_memory=False)  # one worker: two cores have nothing to spare
train_dataloader = dict(batch_size=64, dataset=dict(pipeline={{_base_.train_pipeline}}, **__dataset), **__loader)
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}, **__dataset), **__loader)
test_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}, **__dataset), **__loader)
