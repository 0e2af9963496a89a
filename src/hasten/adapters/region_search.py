"""Which parts of a U-Net can be computed in regions: they are found by what they hold."""

from __future__ import annotations

from torch import nn

from hasten.adapters.region_parts import Attending, Convolution, Part, Residual
from hasten.adapters.tiles import Window
from hasten.adapters.untyped import Net

LISTS = ("resnets", "attentions", "downsamplers", "upsamplers")
ATTENTION = ("to_q", "to_k", "to_v", "to_out")
TRANSFORMER = {"norm", "proj_in", "transformer_blocks", "proj_out"}
RESIDUAL = ("norm1", "conv1", "norm2", "conv2", "time_emb_proj", "conv_shortcut", "nonlinearity")


def parts_of(unet: Net) -> list[Part]:
    """The parts of a U-Net that can be computed in regions; all others run in full."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    held = [
        module for block in blocks for name in LISTS for module in getattr(block, name, None) or ()
    ]
    found = [_part(module) for module in (unet.conv_in, *held) if module is not None]
    return [part for part in (*found, _tail(unet)) if part is not None]


def _part(module: Net) -> Part | None:
    """The module as a part, if it is of a kind that is known."""
    if _is_plain(module):
        return Convolution(module, module, Window.of(module))
    if all(hasattr(module, name) for name in RESIDUAL):
        return Residual(module) if _is_residual(module) else None
    if {name for name, _ in module.named_children()} == TRANSFORMER:
        return _attending(module, module.norm) if _is_transformer(module) else None
    if _is_attention(module):
        norm = getattr(module, "group_norm", None)
        known = getattr(module, "spatial_norm", None) is None and (norm is None or _is_norm(norm))
        return _attending(module, norm) if known else None
    return _resized(module)


def _attending(module: nn.Module, norm: nn.GroupNorm | None) -> Part:
    return Attending(module, norm, [part for part in module.modules() if _is_attention(part)])


def _resized(module: Net) -> Part | None:
    """A convolution that halves maps, or that sees them doubled."""
    conv = getattr(module, "conv", None)
    if conv is None or not _is_plain(conv) or getattr(module, "norm", None) is not None:
        return None
    if getattr(module, "interpolate", False) and module.use_conv and module.name == "conv":
        same = conv.stride[0] == 1 and 2 * conv.padding[0] == conv.kernel_size[0] - 1
        return Convolution(module, conv, Window.of(conv), grows=True) if same else None
    if conv.stride[0] == 2 and hasattr(module, "padding") and module.use_conv:
        return Convolution(module, conv, Window.of(conv, after=int(module.padding == 0)))
    return None


def _tail(unet: Net) -> Part | None:
    """The last convolution, with what normalises its input."""
    if not _is_plain(unet.conv_out):
        return None
    norm, act = getattr(unet, "conv_norm_out", None), getattr(unet, "conv_act", None)
    before = (norm, act) if norm is not None and act is not None and _is_norm(norm) else None
    return Convolution(unet.conv_out, unet.conv_out, Window.of(unet.conv_out), before)


def _is_residual(block: Net) -> bool:
    convolutions = all(
        _is_plain(conv) and conv.stride[0] == 1 and 2 * conv.padding[0] == conv.kernel_size[0] - 1
        for conv in (block.conv1, block.conv2)
    )
    same_size = block.upsample is None and block.downsample is None
    timed = block.time_embedding_norm in ("default", "scale_shift")
    return convolutions and same_size and timed and _is_norm(block.norm1) and _is_norm(block.norm2)


def _is_transformer(module: Net) -> bool:
    """Whether it sees one cell at a time but for self-attention, and knows no places."""
    strange = any(
        getattr(block, name, None) is not None
        for block in module.transformer_blocks
        for name in ("fuser", "pos_embed")
    )
    pointwise = getattr(module.proj_in, "kernel_size", (1, 1)) == (1, 1)
    return not strange and pointwise and _is_norm(module.norm)


def _is_attention(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in ATTENTION)


def _is_norm(module: nn.Module) -> bool:
    return type(module) is nn.GroupNorm


def _is_plain(module: Net) -> bool:
    """A square convolution with zeros around it whose weights say all: no adapter adds to it, and
    nothing moves them while it runs."""
    if type(module) is not nn.Conv2d or "forward" in vars(module):
        return False
    pairs = module.kernel_size, module.stride, module.padding
    square = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in pairs)
    return square and module.dilation == (1, 1) and module.padding_mode == "zeros"
