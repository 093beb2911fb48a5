# CADA that is not re-ranked.
_base_ = ['../cada_icfg.py']
test_cfg = dict(rerank_topk=0)
