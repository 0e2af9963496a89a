"""What a pipeline's text encoders made of a prompt, kept from call to call."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch.utils import _pytree as pytree

from hasten.adapters.untyped import Pipeline
from hasten.core.artifact import weights_stamp
from hasten.core.errors import require

METHOD = "encode_prompt"


def text_encoders(pipe: Pipeline) -> dict[str, torch.nn.Module]:
    """The text encoders of ``pipe`` by the attributes that hold them."""
    parts = {name: getattr(pipe, name) for name in pipe.components if "text_encoder" in name}
    return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}


def remembering(kind: type, size: int) -> Callable[..., object]:
    """The method ``encode_prompt`` of the pipeline ``kind``, with the answers of its last ``size``
    calls. A call that is given tensors is not kept, and other weights are another call.

    Raises:
        UserError: it has no such method.
    """
    encode = getattr(kind, METHOD, None)
    require(
        encode is not None,
        f"{kind.__name__} has no {METHOD}, whose answers could be kept; drop 'prompt-cache'.",
    )
    assert encode is not None
    signature, kept = inspect.signature(encode), OrderedDict[Hashable, object]()

    @functools.wraps(encode)
    def remembered(self: Pipeline, *inputs: object, **options: object) -> object:
        bound = signature.bind(self, *inputs, **options)
        given = {name: value for name, value in bound.arguments.items() if name != "self"}
        try:
            key = _frozen(given), tuple(map(weights_stamp, text_encoders(self).values()))
        except TypeError:  # what cannot be compared by its value
            return encode(self, *inputs, **options)
        if key not in kept:
            kept[key] = encode(self, *inputs, **options)
        kept.move_to_end(key)
        while len(kept) > size:
            kept.popitem(last=False)
        return pytree.tree_map_only(torch.Tensor, torch.clone, kept[key])

    return remembered


def _frozen(value: object) -> Hashable:
    """``value``, comparable by what it says.

    Raises:
        TypeError: a tensor, or an object of another kind.
    """
    if isinstance(value, dict):
        return tuple((name, _frozen(part)) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__name__, *map(_frozen, value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return type(value).__name__, value
    if isinstance(value, (torch.device, torch.dtype)):
        return str(value)
    raise TypeError(type(value).__name__)
