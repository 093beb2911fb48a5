"""The speed benchmark: times our code against a plain implementation of the same mathematics, or against torchreid.

``work`` and ``whole`` define what is timed, on the random ``inputs``; ``plain_path`` is the plain implementation;
``measure`` times the sides in alternation; ``report`` and ``curves`` show the results. The command is ``cada speed``.
"""
