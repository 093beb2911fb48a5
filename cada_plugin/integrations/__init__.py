"""Bridges to other codebases (yacs configs, torchreid). The core of the plugin does not depend on them."""
