"""Exported folders on the Hugging Face Hub, through ``huggingface_hub``, which transformers brings along."""

import os
from pathlib import Path

from cada_plugin.errors import CheckpointError, first_line
from cada_plugin.export.manifest import MANIFEST


def fetch(source: str | os.PathLike, revision: str | None = None) -> Path:
    """The local folder of ``source``: itself if it is one, else a download of a repository of the Hub.

    Raises:
        CheckpointError: there is neither such a folder nor such a repository, or the Hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), revision=revision))
    except Exception as error:  # of huggingface_hub, its HTTP client, or the network: no common class
        raise CheckpointError(
            f"{source} is no folder here, and no repository of the Hub could be fetched ({first_line(error)}): check "
            "the name, the network, and HF_TOKEN for a private one"
        ) from error


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder that this plugin wrote in one commit, and return the commit's address.

    Raises:
        CheckpointError: the Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(folder_path=folder, repo_id=repository, commit_message=f"Folder with {MANIFEST}")
    except Exception as error:  # of huggingface_hub, its HTTP client, or the network: no common class
        raise CheckpointError(
            f"{repository} could not be pushed to the Hub ({first_line(error)}): check its name, the network, and that "
            "HF_TOKEN may write"
        ) from error
    return str(commit)
