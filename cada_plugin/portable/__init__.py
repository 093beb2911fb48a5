"""Modules that need neither torch nor MMEngine, so that a search runs where these are not installed: reading pictures,
cleaning captions, hits, signals."""
