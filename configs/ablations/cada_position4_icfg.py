# CADA whose ATP has 4 groups of positions.
_base_ = ['../cada_icfg.py']
model = dict(grouping='position', num_groups=4)
