# CADA whose ARA masks any word, as BERT does.
_base_ = ['../cada_procedural.py', '../_base_/pipelines/procedural.py']
train_dataloader = dict(dataset=dict(pipeline={{_base_.procedural_random_pipeline}}))
