# CADA without ATP: nothing is re-ranked.
_base_ = ['../cada_icfg.py']
model = dict(loss_atp=None)
