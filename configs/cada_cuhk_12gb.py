# CADA on CUHK-PEDES on one GPU of 12 GB, with the global batch of the released run, which had five GPUs: low-rank updates
# of all encoders, and activations that are computed again in the backward pass. Train it with --amp. Low-rank updates
# learn at a higher rate than whole weights. Nobody has run this recipe to its end yet.
_base_ = ['cada_cuhk.py']
model = dict(
    lora=dict(rank=16),
    visual_encoder=dict(checkpointing=True),
    text_encoder=dict(checkpointing=True),
    text_decoder=dict(checkpointing=True),
)
train_dataloader = dict(batch_size=120)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
