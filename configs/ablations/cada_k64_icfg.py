# CADA that re-ranks the best 64 images.
_base_ = ['../cada_icfg.py']
test_cfg = dict(rerank_topk=64)
