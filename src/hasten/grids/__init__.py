"""Which levels to visit: one file a grid; importing it is what registers it."""

from hasten.grids.bezier import Bezier
from hasten.grids.given import Given
from hasten.grids.karras import Karras
from hasten.grids.log_snr import LogSNR
from hasten.grids.quadratic import Quadratic
from hasten.grids.uniform import Uniform

__all__ = ["Bezier", "Given", "Karras", "LogSNR", "Quadratic", "Uniform"]
