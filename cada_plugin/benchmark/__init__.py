"""Compare models: train and test several configs with several seeds, measure their cost, say what is more than noise.

``plan`` is what a command line asks for, with all its checks; ``run`` does it, in subprocesses that ``jobs`` looks
after; ``cost`` measures one config; ``report`` and ``charts`` write what is known so far. ``cada benchmark`` starts it.
"""
