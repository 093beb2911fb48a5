# CADA without ARA.
_base_ = ['../cada_cuhk.py']
model = dict(text_decoder=None, loss_ara=None)
