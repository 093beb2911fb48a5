# What helped CADA on procedural pedestrians, together: an image encoder that sees more (a residual stem, with start weights
# of its own), a match head that also learns to put the true image before several wrong ones (ours), phrases that are
# judged one by one and whose evidence joins the match logit (ours), and hubness subtracted from the cosine (NNN). A search
# takes 1.15 times as long as that of cada_procedural (0.77 with rerank_topk=16, for 1.3 points of R@1); to encode an
# image, once, takes 3.7 times the arithmetic.
# docs/findings.md has what each part is worth.
_base_ = ['cada_procedural.py']
# The two weights were chosen with an earlier head and the image encoder of cada_procedural, among 1,000 further people
# (seed 11 of the camera world): 1.0 of 0.25 to 4, and 20 of 10 to 40.
__cosine_weight = 20.0
model = dict(
    visual_encoder=dict(stem='residual'),
    loss_ranking=dict(type='MatchRankingLoss', cosine_weight=__cosine_weight, negatives=5),
    loss_phrases=dict(type='PhraseMatchingLoss', weight=10.0),
    phrase_weight=1.0,
    init_cfg=dict(type='Pretrained', checkpoint='cada_plugin://web_plus_start.safetensors'),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.judging_pipeline}}))
__retrieval = dict(cosine_weight=__cosine_weight, hubness=dict(weight=0.75, neighbours=128))
val_cfg = __retrieval
test_cfg = __retrieval
# What this config itself trained, with seed 0; `cada demo` searches with it.
trained_weights = 'cada_plugin://cada_plus_procedural.safetensors'
