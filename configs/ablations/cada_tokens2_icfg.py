# CADA whose ATP has 2 groups of real tokens.
_base_ = ['../cada_icfg.py']
model = dict(grouping='tokens', num_groups=2)
