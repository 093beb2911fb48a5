# What helped CADA on procedural pedestrians, together: phrases that are judged one by one (ours), whose evidence joins the
# match logit, and hubness that is subtracted from the cosine (NNN). To match takes about twice as long, so half as many
# images are re-ranked, and a search takes as long as that of cada_procedural. docs/findings.md has what each part is worth.
_base_ = ['cada_procedural.py']
# The two weights were chosen among 1,000 further people, who are in no split: 1.0 of 0.25 to 4, and 20 of 10 to 40.
model = dict(loss_phrases=dict(type='PhraseMatchingLoss'), phrase_weight=1.0)
train_dataloader = dict(dataset=dict(pipeline={{_base_.judging_pipeline}}))
__retrieval = dict(rerank_topk=16, cosine_weight=20.0, hubness=dict(weight=0.75, neighbours=128))
val_cfg = __retrieval
test_cfg = __retrieval
trained_weights = None
