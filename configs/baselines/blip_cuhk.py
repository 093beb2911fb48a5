# BLIP fine-tuned: ITC and ITM, re-ranked.
_base_ = [
    '../_base_/datasets/cuhk_pedes.py',
    '../_base_/pipelines/plain.py',
    '../_base_/schedules/cada_30e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='BLIP',
    data_preprocessor=dict(
        type='PersonDataPreprocessor',
        mean=(122.7709383, 116.7460125, 104.09373615),
        std=(68.5005327, 66.6321579, 70.32316305),
    ),
    visual_encoder=dict(
        type='ViTEncoder', image_size={{_base_.image_size}}, patch_size=16, width=768, depth=12, heads=12),
    text_encoder=dict(type='CrossModalBert', width=768, depth=12, heads=12, max_positions=512, dropout=0.1),
    tokenizer={{_base_.tokenizer}},
    embed_dim=256,
    loss_itc=dict(type='InfoNCELoss'),
    loss_itm=dict(type='MatchingLoss'),
    # BLIP's 129M weights (BLIP's release, "model_base.pth"); a Hugging Face folder of BLIP does as well
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/model_base.pth'),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.plain_train_pipeline}}))
