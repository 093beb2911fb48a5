# CADA that re-ranks the best 64 images.
_base_ = ['../cada_rstp.py']
val_cfg = dict(rerank_topk=64)
test_cfg = dict(rerank_topk=64)
