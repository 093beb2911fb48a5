# CLIP, fine-tuned with InfoNCE at a fixed temperature: the baseline of the IRRA paper.
_base_ = [
    '../_base_/datasets/icfg_pedes.py',
    '../_base_/pipelines/clip.py',
    '../_base_/models/clip_base.py',
    '../_base_/schedules/clip_60e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='CLIPRetriever',
    loss_itc=dict(type='InfoNCELoss', scale=50.0, learnable=False),
    tokenizer={{_base_.clip_tokenizer}},
    visual_encoder=dict(image_size={{_base_.clip_image_size}}),
)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline={{_base_.clip_plain_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.clip_test_pipeline}}))
