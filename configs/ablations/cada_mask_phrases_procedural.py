# CADA whose ARA masks whole attribute phrases.
_base_ = ['../cada_procedural.py', '../_base_/pipelines/procedural.py']
train_dataloader = dict(dataset=dict(pipeline={{_base_.procedural_phrases_pipeline}}))
