"""What makes a network cheaper."""

from hasten.levers.reuse import Blocks, Deep, Encoder, FirstBlock

__all__ = ["Blocks", "Deep", "Encoder", "FirstBlock"]
