# CADA whose ATP has one group for each attribute phrase.
_base_ = ['../cada_procedural.py']
model = dict(grouping='phrases', num_groups=None)
