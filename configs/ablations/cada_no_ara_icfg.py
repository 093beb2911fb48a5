# CADA without ARA.
_base_ = ['../cada_icfg.py']
model = dict(text_decoder=None, loss_ara=None)
