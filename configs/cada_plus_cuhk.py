# CADA on CUHK-PEDES with what helped on procedural pedestrians, see cada_plus_procedural.py. Nobody has trained it yet.
_base_ = ['cada_cuhk.py']
model = dict(
    loss_ranking=dict(type='MatchRankingLoss', cosine_weight=1.0, negatives=5),
    loss_phrases=dict(type='PhraseMatchingLoss'),
    phrase_weight=1.0,
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.judging_pipeline}}))
__retrieval = dict(hubness=dict(weight=0.75, neighbours=128))
val_cfg = __retrieval
test_cfg = __retrieval
