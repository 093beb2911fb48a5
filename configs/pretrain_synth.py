# Pre-training on SYNTH-PEDES, to fine-tune from afterwards. Validation, and so the best epoch, is on CUHK-PEDES.
_base_ = ['cada_cuhk.py']
train_dataloader = dict(dataset=dict(type='SynthPEDES', data_root='data/SYNTH-PEDES'))
