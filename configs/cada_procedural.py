# The main example: CADA on procedural pedestrians, in minutes on two CPU cores. As the published recipe starts from BLIP's
# weights, this config starts from small weights that ship with the plugin. pretrain_procedural.py made them, with other
# people.
_base_ = [
    '_base_/datasets/procedural_pedes.py',
    '_base_/models/cada_tiny.py',
    '_base_/schedules/procedural_2e.py',
    '_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
    negative_scale=(20.0, 40.0),
    init_cfg=dict(type='Pretrained', checkpoint='cada_plugin://procedural_start.safetensors'),
)
