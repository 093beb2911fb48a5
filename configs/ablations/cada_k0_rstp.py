# CADA that is not re-ranked.
_base_ = ['../cada_rstp.py']
val_cfg = dict(rerank_topk=0)
test_cfg = dict(rerank_topk=0)
default_hooks = dict(checkpoint=dict(save_best='t2i_global/R1'))
