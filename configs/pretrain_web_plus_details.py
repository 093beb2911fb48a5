# Fourth step towards the start weights of cada_plus_procedural.py: two epochs more, as the third.
_base_ = ['pretrain_web_plus_phrases.py']
load_from = 'work_dirs/pretrain_web_plus_phrases/epoch_2.pth'
