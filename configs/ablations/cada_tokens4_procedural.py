# CADA whose ATP has 4 groups of real tokens.
_base_ = ['../cada_procedural.py']
model = dict(grouping='tokens', num_groups=4)
