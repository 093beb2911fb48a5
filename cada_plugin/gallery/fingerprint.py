"""By what a gallery recognises the model that encoded it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cada_plugin.apis import Retriever


def fingerprint(retriever: "Retriever") -> str:
    """Model class, image size and a digest of all weights, such as ``CADA 96x48 5d1c0f6a2b9e``.

    Embeddings of two models cannot be compared even if they have the same length, so whatever changes them changes this
    text: the weights, their names, and the size that images are resized to.
    """
    return retriever.fingerprint()
