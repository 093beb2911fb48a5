# CADA whose ATP has 1 group of whole phrases.
_base_ = ['../cada_rstp.py']
model = dict(grouping='phrases', num_groups=1)
