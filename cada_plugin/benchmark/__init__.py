"""Compares models: trains and tests several configs with several seeds, measures their cost, tests significance.

``plan`` checks a command line and turns it into a plan; ``run`` executes the plan in subprocesses, which ``jobs``
manages; ``cost`` measures one config; ``report`` and ``charts`` write the results so far. The command is ``cada
benchmark``.
"""
