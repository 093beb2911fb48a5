# First step towards the start weights of cada_plus_procedural.py: as pretrain_web_dual.py, with a residual stem, and
# phrases are judged too.
_base_ = ['pretrain_web_dual.py']
model = dict(
    visual_encoder=dict(stem='residual'),
    loss_phrases=dict(type='PhraseMatchingLoss', weight=5.0),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.judging_pipeline}}))
