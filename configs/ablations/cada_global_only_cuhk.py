# CADA with the global association alone: a dual encoder.
_base_ = ['../cada_cuhk.py']
model = dict(text_decoder=None, loss_atp=None, loss_ara=None)
default_hooks = dict(checkpoint=dict(save_best='t2i_global/R1'))
