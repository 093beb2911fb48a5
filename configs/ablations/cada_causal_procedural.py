# CADA whose attribute decoder sees only the words before a masked one, as released.
_base_ = ['../cada_procedural.py']
model = dict(text_decoder=dict(causal=True))
