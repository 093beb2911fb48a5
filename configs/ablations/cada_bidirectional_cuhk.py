# CADA whose attribute decoder sees the whole caption.
_base_ = ['../cada_cuhk.py']
model = dict(text_decoder=dict(causal=False))
