# CADA without ATP: nothing is re-ranked.
_base_ = ['../cada_cuhk.py']
model = dict(loss_atp=None)
default_hooks = dict(checkpoint=dict(save_best='t2i_global/R1'))
