"""A text-to-image pipeline with layers that look along the frames of a clip: AnimateDiff."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch

from hasten.adapters.clip_text import ClipText
from hasten.adapters.folder import stock_scheduler
from hasten.adapters.pipeline_notes import PROMPTS
from hasten.adapters.prompted import load_prompted
from hasten.adapters.quiet import diffusers, quiet
from hasten.adapters.text_to_image import Options, made, new_text_encoder
from hasten.adapters.untyped import Net, Tokenizer
from hasten.adapters.vae_codec import VaeCodec
from hasten.core.artifact import FACTS
from hasten.core.errors import UserError, require
from hasten.core.family import inner
from hasten.core.files import JsonObject, new_folder
from hasten.core.model import Model


class TextToVideo(torch.nn.Module):
    """A U-Net over clips and its text encoder as ``net(x, t, tokens)``: x (n, c, frames, h, w),
    times (n,), tokens (n, length)."""

    def __init__(self, unet: torch.nn.Module, text_encoder: torch.nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        words = self.text_encoder(condition)[0].repeat_interleave(x.shape[2], dim=0)
        return self.unet(x, t, encoder_hidden_states=words, return_dict=False)[0]


def image_pipeline(source: str, device: torch.device) -> Model:
    """The text-to-image model that a model of clips begins with.

    Raises:
        UserError: it is none of a U-Net, an autoencoder and a CLIP text encoder.
    """
    try:
        model = load_prompted(source, [""], device, None)
    except UserError as error:
        raise UserError(f"recipe field 'begin': {error}") from error
    require(
        isinstance(model.codec, VaeCodec) and model.family.text(model.net) is not None,
        f"recipe field 'begin' is {source!r}; it takes a Stable Diffusion pipeline, as recipes/"
        "shapes.yaml trains one.",
    )
    return model


def new_text_to_video(begin: Model, motion: Options, tokenizer: Tokenizer) -> TextToVideo:
    """The U-Net of ``begin`` with new motion layers, which change nothing yet, and its text encoder
    grown by the words of ``tokenizer``.

    Raises:
        UserError: motion layers that do not take their options.
    """
    unet, text = inner(begin.net), begin.family.text(begin.net)
    assert isinstance(text, ClipText)
    adapter = made("motion", diffusers().MotionAdapter, motion)
    with quiet():
        whole = diffusers().UNetMotionModel.from_unet2d(unet, adapter)
    for name, part in whole.named_modules():
        if name.endswith("proj_out") and "motion_modules" in name:
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    whole.requires_grad_(True)
    return TextToVideo(whole, grown(text, tokenizer))


def grown(text: ClipText, tokenizer: Tokenizer) -> Net:
    """The text encoder of ``text`` for ``tokenizer``, which knows its tokens and more: a new one
    begins with the mean of the embeddings of the pieces that it was read in before."""
    old: Tokenizer = text.tokenizer
    module: Net = text.encoder.encoder  # type: ignore[assignment]
    options = {name: getattr(module.config, name) for name in SIZES}
    other: Net = new_text_encoder(options, tokenizer)
    weights = {key: value for key, value in module.state_dict().items() if TOKENS not in key}
    missing = other.load_state_dict(weights, strict=False)
    require(not missing.unexpected_keys, "the text encoder has weights that a new one has not.")
    mine, its = other.get_input_embeddings().weight, module.get_input_embeddings().weight
    with torch.no_grad():
        for token, number in tokenizer.get_vocab().items():
            known = old.get_vocab().get(token)
            pieces = [known] if known is not None else _pieces(old, token)
            mine[number] = its[pieces].mean(0)
    return other


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TOKENS = "token_embedding"


def _pieces(tokenizer: Tokenizer, token: str) -> list[int]:
    """The tokens of which an older tokenizer makes a new one."""
    ids = tokenizer(token.replace("</w>", ""), add_special_tokens=False).input_ids
    return ids or [tokenizer.unk_token_id]


def save_text_to_video(
    model: Model, net: TextToVideo, tokenizer: Tokenizer, motion: Options, folder: Path, card: str
) -> None:
    """Write an AnimateDiffPipeline as diffusers writes it, with the prompts and plans of ``model``
    beside it; weights in float16, those of the text encoder in float32."""
    stock, codec = diffusers(), model.codec
    assert isinstance(codec, VaeCodec)
    adapter: Net = made("motion", stock.MotionAdapter, motion)
    unet: Net = net.unet
    for name in ("down_blocks", "up_blocks"):
        for mine, its in zip(getattr(adapter, name), getattr(unet, name), strict=True):
            mine.motion_modules.load_state_dict(its.motion_modules.state_dict())
    if getattr(adapter, "mid_block", None) is not None:
        state = unet.mid_block.motion_modules.state_dict()
        adapter.mid_block.motion_modules.load_state_dict(state)
    pipe = stock.AnimateDiffPipeline(
        vae=copy.deepcopy(codec.vae).half(),
        text_encoder=net.text_encoder,
        tokenizer=tokenizer,
        unet=copy.deepcopy(unet).half(),
        motion_adapter=adapter.half(),
        scheduler=stock_scheduler(model),
    )
    with new_folder(folder) as target, quiet():
        pipe.save_pretrained(str(target))
        (target / "README.md").write_text(card, encoding="utf-8")
        (target / PROMPTS).write_text("\n".join(model.prompts) + "\n", encoding="utf-8")
        facts: JsonObject = {"plans": list(model.plans), "call": {"num_frames": model.shape[1]}}
        (target / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
