"""Bridges to other codebases. Nothing in the plugin imports them."""
