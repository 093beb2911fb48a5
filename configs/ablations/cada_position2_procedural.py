# CADA whose ATP has 2 groups of positions.
_base_ = ['../cada_procedural.py']
model = dict(grouping='position', num_groups=2)
