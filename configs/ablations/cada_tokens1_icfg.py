# CADA whose ATP has 1 group of real tokens.
_base_ = ['../cada_icfg.py']
model = dict(grouping='tokens', num_groups=1)
