"""Methods of editing: one file a method; importing it is what registers it."""

from hasten.editing.methods.flowalign import FlowAlign
from hasten.editing.methods.flowedit import FlowEdit
from hasten.editing.methods.inversion import Inversion
from hasten.editing.methods.masked import Masked
from hasten.editing.methods.rf_inversion import RfInversion
from hasten.editing.methods.sdedit import SDEdit

__all__ = ["FlowAlign", "FlowEdit", "Inversion", "Masked", "RfInversion", "SDEdit"]
