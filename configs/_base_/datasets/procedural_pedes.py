# Procedural pedestrians of the camera world: the target of the small start weights, which come from the web world.
# No download is needed: the data set is generated if it is missing.
_base_ = ['text_person.py', '../pipelines/procedural.py']
data_root = 'data/procedural_pedes'
build = dict(world='camera', seed=1, identities=dict(train=3000, val=100, test=1000), images_per_identity=3)

__dataset = dict(type='ProceduralPEDES', data_root=data_root, build=build)
__loader = dict(num_workers=1, pin_memory=False)  # one worker, because the config is meant for two cores
train_dataloader = dict(batch_size=64, dataset=dict(pipeline={{_base_.train_pipeline}}, **__dataset), **__loader)
val_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}, **__dataset), **__loader)
test_dataloader = dict(dataset=dict(pipeline={{_base_.test_pipeline}}, **__dataset), **__loader)
