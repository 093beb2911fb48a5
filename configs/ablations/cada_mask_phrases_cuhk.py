# CADA whose ARA masks whole attribute phrases.
_base_ = ['../cada_cuhk.py', '../_base_/pipelines/masking.py']
train_dataloader = dict(dataset=dict(pipeline={{_base_.masked_phrases_pipeline}}))
