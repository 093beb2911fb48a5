from .datasets import ShopWindow
from .models import ColourRetriever

__all__ = ["ColourRetriever", "ShopWindow"]
