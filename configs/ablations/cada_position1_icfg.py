# CADA whose ATP has 1 group of positions.
_base_ = ['../cada_icfg.py']
model = dict(grouping='position', num_groups=1)
