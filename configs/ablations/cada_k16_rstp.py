# CADA that re-ranks the best 16 images.
_base_ = ['../cada_rstp.py']
val_cfg = dict(rerank_topk=16)
test_cfg = dict(rerank_topk=16)
