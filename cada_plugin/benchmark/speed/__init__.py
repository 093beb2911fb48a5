"""The speed benchmark: our path timed against a plain one of the same mathematics, or against torchreid.

``work`` and ``whole`` say what is timed, on ``inputs`` that are drawn; ``plain_path`` is the other side; ``measure``
times the sides in turn; ``report`` and ``curves`` show what was found. ``cada speed`` starts it.
"""
