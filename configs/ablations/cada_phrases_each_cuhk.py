# CADA whose ATP has one group for each attribute phrase.
_base_ = ['../cada_cuhk.py']
model = dict(grouping='phrases', num_groups=None)
