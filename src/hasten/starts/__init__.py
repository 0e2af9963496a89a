"""Where the walk begins: one file a start; importing it is what registers it."""

from hasten.starts.from_plan import FromPlan
from hasten.starts.gaussian import Gaussian
from hasten.starts.generator import Generator, offer
from hasten.starts.mixture import Mixture
from hasten.starts.noise import PureNoise
from hasten.starts.vae import VAE

__all__ = ["VAE", "FromPlan", "Gaussian", "Generator", "Mixture", "PureNoise", "offer"]
