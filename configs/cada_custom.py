# Your own pictures, from the small weights that ship with the plugin:
#     cada train cada_custom --cfg-options data_root=my_people
# These weights know drawn people only, and 606 words. For photographs, derive a config from cada_cuhk.py, which starts
# from BLIP's weights and reads all words, and set its data sets to those of _base_/datasets/custom.py.
_base_ = [
    '_base_/datasets/custom.py',
    '_base_/models/cada_tiny.py',
    '_base_/schedules/procedural_2e.py',
    '_base_/default_runtime.py',
]
model = dict(
    tokenizer={{_base_.tokenizer}},
    visual_encoder=dict(image_size={{_base_.image_size}}),
    negative_temperature=(20.0, 40.0),
    init_cfg=dict(type='Pretrained', checkpoint='cada_plugin://procedural_start.safetensors'),
)
