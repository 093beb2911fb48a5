# Settings that all runs share. This is pure data in MMEngine's text style: types are strings, and there is no code.
default_scope = 'cada_plugin'
custom_imports = dict(imports=['cada_plugin'], allow_failed_imports=False)
runner_type = 'CalmRunner'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Two checkpoints are kept, so that a run killed while it writes one can resume from the other. If validation does
    # not re-rank, t2i_global/R1 chooses the best epoch; without a validation split, none is chosen.
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='t2i/R1', rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='EpochSeedHook'),
    dict(type='SyncBuffersHook'),  # averages batch norm's statistics, which differ between processes
    dict(type='PendingValidationHook'),
    dict(type='TrainingProgressHook'),  # for schedules inside a model
    dict(type='LookAlikeHook'),  # for LookAlikeSampler
    dict(type='ProgressHook'),  # progress bar
    dict(type='RankedGalleryHook'),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)
log_processor = dict(window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
