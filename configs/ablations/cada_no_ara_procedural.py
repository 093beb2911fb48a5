# CADA without ARA.
_base_ = ['../cada_procedural.py']
model = dict(text_decoder=None, loss_ara=None)
