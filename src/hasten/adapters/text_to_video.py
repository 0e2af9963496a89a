"""A text-to-image pipeline with layers that look along the frames of a clip: AnimateDiff."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from hasten.adapters.clip_text import ClipText
from hasten.adapters.folder import stock_scheduler
from hasten.adapters.pipeline_notes import PROMPTS
from hasten.adapters.prompted import load_prompted
from hasten.adapters.quiet import diffusers, quiet
from hasten.adapters.text_to_image import Options, TextToImage, made
from hasten.adapters.untyped import Net, Tokenizer
from hasten.adapters.vae_codec import VaeCodec
from hasten.adapters.word_tokenizer import LAST, new_tokenizer
from hasten.core.artifact import FACTS
from hasten.core.errors import UserError, require
from hasten.core.family import inner
from hasten.core.files import JsonObject, new_folder
from hasten.core.model import Model


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


def new_text_to_video(begin: Model, motion: Options, tokenizer: Tokenizer) -> TextToImage:
    """The U-Net of ``begin`` with new motion layers, which change nothing yet, and its text encoder
    grown by the words of ``tokenizer``.

    Raises:
        UserError: motion layers that do not take their options.
    """
    unet, text = inner(begin.net), _clip_text(begin)
    adapter = made("motion", diffusers().MotionAdapter, motion)
    with quiet():
        whole = diffusers().UNetMotionModel.from_unet2d(unet, adapter)
    for name, part in whole.named_modules():
        if name.endswith("proj_out") and "motion_modules" in name:
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    whole.requires_grad_(True)
    return TextToImage(whole, _grown(text, tokenizer))


def tokenizer_for(begin: Model, captions: Sequence[str]) -> Tokenizer:
    """The tokenizer of ``begin``; where it cuts captions off, one that also knows their words."""
    text = _clip_text(begin)
    known = text.tokenizer
    if all(len(known(line, verbose=False).input_ids) <= text.length for line in set(captions)):
        return known
    words = {token.removesuffix(LAST) for token in known.get_vocab() if token.endswith(LAST)}
    words |= {word for line in captions for word in re.findall(r"[^\W\d_]+", line.lower())}
    return new_tokenizer(words, text.length)


def _clip_text(model: Model) -> ClipText:
    text = model.family.text(model.net)
    assert isinstance(text, ClipText)
    return text


def _grown(text: ClipText, tokenizer: Tokenizer) -> Net:
    """The text encoder of ``text`` for ``tokenizer``: what that knows more begins with the mean of
    the embeddings of the pieces that it was read in before."""
    old: Tokenizer = text.tokenizer
    module: Net = copy.deepcopy(text.encoder.encoder)  # type: ignore[assignment]
    module.requires_grad_(True)
    if tokenizer is old:
        return module
    its, known = module.get_input_embeddings().weight.detach(), old.get_vocab()
    mine = torch.empty(len(tokenizer), its.shape[1])
    for token, number in tokenizer.get_vocab().items():
        pieces = [known[token]] if token in known else _pieces(old, token)
        mine[number] = its[pieces].mean(0)
    module.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        module.get_input_embeddings().weight.copy_(mine)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(module.config, name, getattr(tokenizer, name))
    return module


def _pieces(tokenizer: Tokenizer, token: str) -> list[int]:
    """The tokens of which an older tokenizer makes a new one."""
    ids = tokenizer(token.removesuffix(LAST), add_special_tokens=False).input_ids
    return ids or [tokenizer.unk_token_id]


def save_text_to_video(
    model: Model, net: TextToImage, tokenizer: Tokenizer, motion: Options, folder: Path, card: str
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
