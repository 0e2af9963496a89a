"""The attention backends of diffusers, chosen for one network alone."""

from __future__ import annotations

import torch

from hasten.adapters.untyped import Net
from hasten.core.errors import UserError, require


def choose_backend_(net: torch.nn.Module, name: str) -> None:
    """Let every attention of ``net`` that asks diffusers for its kernel use the backend ``name``.
    (``net.set_attention_backend`` would choose it for every other network as well.)

    Raises:
        UserError: no such backend, a package of it is missing, or no attention that asks.
    """
    from diffusers.models import attention_dispatch

    kind = type(net).__name__
    any_net: Net = net
    processors: list[Net] = [getattr(part, "processor", None) for part in any_net.modules()]
    asking = [one for one in processors if hasattr(one, "_attention_backend")]
    known = {each.value: each for each in attention_dispatch.AttentionBackendName}
    require(
        name in known,
        f"lever option name is {name!r}, no attention backend of diffusers; it has "
        f"{', '.join(sorted(known))}.",
    )
    require(
        bool(asking),
        f"the attention of a {kind} does not ask diffusers for its kernel; choose one of torch's: "
        "torch-math, torch-flash, torch-efficient or torch-cudnn.",
    )
    try:
        attention_dispatch._check_attention_backend_requirements(known[name])
    except Exception as error:  # whatever a package's absence raises
        raise UserError(f"attention backend {name!r} cannot be used: {error}") from error
    for processor in asking:
        processor._attention_backend = known[name]
