# CADA that re-ranks the best 32 images.
_base_ = ['../cada_rstp.py']
val_cfg = dict(rerank_topk=32)
test_cfg = dict(rerank_topk=32)
