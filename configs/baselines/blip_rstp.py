# BLIP, fine-tuned with ITC and ITM; the ITM head re-ranks.
_base_ = [
    '../_base_/datasets/rstpreid.py',
    '../_base_/models/blip_base.py',
    '../_base_/schedules/cada_30e.py',
    '../_base_/default_runtime.py',
]
model = dict(tokenizer={{_base_.tokenizer}}, visual_encoder=dict(image_size={{_base_.image_size}}))
train_dataloader = dict(dataset=dict(pipeline={{_base_.plain_pipeline}}))
