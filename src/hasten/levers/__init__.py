"""What makes a network cheaper."""

from hasten.levers.feature_cache import Blocks, Deep, Encoder, FirstBlock

__all__ = ["Blocks", "Deep", "Encoder", "FirstBlock"]
