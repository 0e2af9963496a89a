"""Where the walk begins: one file a start; importing it is what registers it."""

from hasten.starts.noise import PureNoise

__all__ = ["PureNoise"]
