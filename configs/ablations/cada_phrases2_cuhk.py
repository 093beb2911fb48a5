# CADA whose ATP has 2 groups of whole phrases.
_base_ = ['../cada_cuhk.py']
model = dict(grouping='phrases', num_groups=2)
