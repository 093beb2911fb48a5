# Procedural pedestrians of the web world, on which the small start weights are trained. Nobody is also in the camera
# world.
_base_ = ['procedural_pedes.py']
data_root = 'data/procedural_web'
build = dict(
    world='web', seed=2, identities=dict(train=12000, val=100, test=100), images_per_identity=2, twin_fraction=0.4)

train_dataloader = dict(dataset=dict(data_root=data_root, build=dict(_delete_=True, **build)))
val_dataloader = dict(dataset=dict(data_root=data_root, build=dict(_delete_=True, **build)))
test_dataloader = dict(dataset=dict(data_root=data_root, build=dict(_delete_=True, **build)))
