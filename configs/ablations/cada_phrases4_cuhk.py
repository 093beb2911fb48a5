# CADA whose ATP has 4 groups of whole phrases.
_base_ = ['../cada_cuhk.py']
model = dict(grouping='phrases', num_groups=4)
