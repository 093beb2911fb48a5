# cada_procedural.py without start weights, for comparison.
_base_ = ['cada_procedural.py']
trained_weights = None
model = dict(init_cfg=None, negative_scale=(0.0, 20.0))
