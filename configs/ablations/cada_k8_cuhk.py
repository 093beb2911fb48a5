# CADA that re-ranks the best 8 images.
_base_ = ['../cada_cuhk.py']
val_cfg = dict(rerank_topk=8)
test_cfg = dict(rerank_topk=8)
