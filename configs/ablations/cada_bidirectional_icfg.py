# CADA whose attribute decoder sees the whole caption.
_base_ = ['../cada_icfg.py']
model = dict(text_decoder=dict(causal=False))
