# CADA with the global association alone: a dual encoder.
_base_ = ['../cada_icfg.py']
model = dict(text_decoder=None, loss_atp=None, loss_ara=None)
