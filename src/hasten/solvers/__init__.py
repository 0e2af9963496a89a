"""How to cross the levels: one file a solver; importing it is what registers it."""

from hasten.solvers.adaptive_ode import AdaptiveODE
from hasten.solvers.adaptive_sde import AdaptiveSDE
from hasten.solvers.consistency import Consistency
from hasten.solvers.ddim import DDIM
from hasten.solvers.ddpm import DDPM
from hasten.solvers.deis import DEIS
from hasten.solvers.dpmpp import DPMpp
from hasten.solvers.dpmpp_sde import DPMppSDE
from hasten.solvers.euler import Euler
from hasten.solvers.heun import Heun
from hasten.solvers.ipndm import IPNDM
from hasten.solvers.langevin import Langevin
from hasten.solvers.reference import ODE, SDE
from hasten.solvers.restart import Restart
from hasten.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "IPNDM",
    "ODE",
    "SDE",
    "AdaptiveODE",
    "AdaptiveSDE",
    "Consistency",
    "DPMpp",
    "DPMppSDE",
    "Euler",
    "Heun",
    "Langevin",
    "Restart",
    "UniPC",
]
