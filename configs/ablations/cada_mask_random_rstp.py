# CADA whose ARA masks any word, as BERT does.
_base_ = ['../cada_rstp.py', '../_base_/pipelines/masking.py']
train_dataloader = dict(dataset=dict(pipeline={{_base_.masked_random_pipeline}}))
