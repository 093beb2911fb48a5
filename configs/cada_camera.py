# The main example: CADA on procedural pedestrians of the camera world, in minutes on two CPU cores. As the published
# recipe starts from BLIP's weights, which come from the web, this config starts from small weights of the web world.
# pretrain_web.py makes them; nobody is in both worlds.
_base_ = [
    '_base_/datasets/procedural_camera.py',
    '_base_/models/cada_small.py',
    '_base_/schedules/procedural_camera.py',
    '_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
    negative_scale=(10.0, 30.0),
    false_captions=0.5,
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/pretrain_web/worlds_start.safetensors'),
)
train_dataloader = dict(sampler=dict(_delete_=True, type='LookAlikeSampler', batch_size=64, group_size=8))
