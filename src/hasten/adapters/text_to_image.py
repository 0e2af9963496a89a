"""The parts of a Stable Diffusion pipeline, made anew for training, and put together after it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hasten.adapters.families import Network
from hasten.adapters.folder import stock_scheduler
from hasten.adapters.frozen import frozen
from hasten.adapters.pipeline_notes import PROMPTS
from hasten.adapters.prompted import Prompted, per_frame
from hasten.adapters.quiet import diffusers, quiet
from hasten.adapters.untyped import Autoencoder, Net, Tokenizer
from hasten.adapters.vae_codec import VaeCodec
from hasten.adapters.word_tokenizer import token_ids
from hasten.core.artifact import FACTS
from hasten.core.errors import UserError, require
from hasten.core.files import new_folder
from hasten.core.model import Model

Options = Mapping[str, object]


def new_autoencoder(options: Options) -> torch.nn.Module:
    """A freshly initialised AutoencoderKL.

    Raises:
        UserError: it does not take these options.
    """
    return made("autoencoder", diffusers().AutoencoderKL, options)


def new_tiny_autoencoder(options: Options) -> torch.nn.Module:
    """A freshly initialised AutoencoderTiny.

    Raises:
        UserError: it does not take these options.
    """
    return made("autoencoder", diffusers().AutoencoderTiny, options)


class TinyCoding(torch.nn.Module):
    """Both halves of an AutoencoderTiny at once: pictures (n, c, h, w) in [-1, 1] and latents as a
    network sees them, to the latents of the pictures and the pictures of the latents."""

    def __init__(self, tiny: torch.nn.Module) -> None:
        super().__init__()
        self.tiny: Autoencoder = tiny

    def forward(
        self, pictures: torch.Tensor, latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = self.tiny.encode(pictures, return_dict=False)[0]
        return encoded, self.tiny.decode(latents, return_dict=False)[0]


class Autoencoding(torch.nn.Module):
    """An autoencoder from pictures to pictures.

    It takes pictures (n, c, h, w) in [-1, 1] and standard normal noise of the shape of their
    latents; it gives their reconstruction, and the Kullback-Leibler divergence of the posterior
    from a standard normal, mean over latents.
    """

    def __init__(self, vae: torch.nn.Module) -> None:
        super().__init__()
        self.vae: Autoencoder = vae

    def forward(
        self, pictures: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = self.vae.encode(pictures, return_dict=False)[0].parameters.chunk(2, 1)
        log_variance = log_variance.clamp(-30.0, 20.0)
        latents = mean if noise is None else mean + noise * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        return self.vae.decode(latents, return_dict=False)[0], divergence

    def latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """The likeliest latents of ``pictures``."""
        return self.vae.encode(pictures).latent_dist.mode()

    def latent_shape(self, pictures: torch.Tensor) -> tuple[int, ...]:
        """The shape of the latents of ``pictures``."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        n, _, height, width = pictures.shape
        return n, self.vae.config.latent_channels, height // factor, width // factor


def save_autoencoder(vae: torch.nn.Module, folder: Path, scale: float, card: str) -> None:
    """Write ``vae`` as a diffusers folder; ``scale`` brings its latents to what a network sees."""
    any_vae: Autoencoder = vae
    any_vae.register_to_config(scaling_factor=scale)
    with new_folder(folder) as target:
        any_vae.save_pretrained(str(target))
        (target / "README.md").write_text(card, encoding="utf-8")


def autoencoder_codec(folder: str | Path, device: torch.device) -> VaeCodec:
    """The codec of an autoencoder's diffusers folder.

    Raises:
        UserError: there is none.
    """
    require(
        Path(folder).is_dir(),
        f"autoencoder: {folder} is no folder; train one with `hasten train RECIPE`, or name it.",
    )
    try:
        with quiet():
            vae = diffusers().AutoencoderKL.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True
            )
    except Exception as error:
        raise UserError(
            f"autoencoder: {folder} is no folder of an AutoencoderKL ({type(error).__name__}); "
            "train one with `hasten train RECIPE`."
        ) from error
    return VaeCodec(source=str(folder)).of(frozen(vae, device))


def new_text_encoder(options: Options, tokenizer: Tokenizer) -> torch.nn.Module:
    """A freshly initialised CLIPTextModel for the tokens of ``tokenizer``.

    Raises:
        UserError: it does not take these options.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **options,
    }
    return made("text_encoder", lambda **fields: CLIPTextModel(CLIPTextConfig(**fields)), config)


class CaptionReader(torch.nn.Module):
    """A text encoder with a linear head for each attribute: tokens (n, length) to logits
    (n, length, classes) of every attribute."""

    def __init__(self, text_encoder: torch.nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.text_encoder: Net = text_encoder
        self.classes = tuple(classes)
        self.heads = torch.nn.Linear(self.text_encoder.config.hidden_size, sum(classes))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.heads(self.text_encoder(tokens)[0]).split(self.classes, -1)


def save_text_encoder(
    encoder: torch.nn.Module, tokenizer: Tokenizer, folder: Path, card: str
) -> None:
    """Write a text encoder and its tokenizer as a pipeline's folder has them."""
    any_encoder: Net = encoder
    with new_folder(folder) as target:
        any_encoder.save_pretrained(str(target / "text_encoder"))
        tokenizer.save_pretrained(str(target / "tokenizer"))
        (target / "README.md").write_text(card, encoding="utf-8")


def load_text_encoder(folder: str | Path) -> tuple[torch.nn.Module, Tokenizer]:
    """The text encoder and the tokenizer of a folder: that of :func:`save_text_encoder`, or of a
    pipeline with one text encoder of CLIP.

    Raises:
        UserError: there are none.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    parts = [Path(folder) / name for name in ("text_encoder", "tokenizer")]
    require(
        all(part.is_dir() for part in parts),
        f"text_encoder: {folder} has no text_encoder/ and tokenizer/; train them with `hasten "
        "train RECIPE`, or name a pipeline's folder.",
    )
    try:
        with quiet():
            encoder = CLIPTextModel.from_pretrained(
                str(parts[0]), use_safetensors=True, local_files_only=True, dtype=torch.float32
            )
            return encoder, CLIPTokenizer.from_pretrained(str(parts[1]), local_files_only=True)
    except Exception as error:
        raise UserError(
            f"text_encoder: {folder} holds no CLIP text encoder that can be read "
            f"({type(error).__name__}); train one with `hasten train RECIPE`."
        ) from error


class TextToImage(torch.nn.Module):
    """A conditional U-Net of pictures or clips and its text encoder as ``net(x, t, tokens)``: x
    (n, c, h, w) or (n, c, frames, h, w), times (n,), tokens (n, length)."""

    def __init__(self, unet: torch.nn.Module, text_encoder: torch.nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        words = per_frame(self.text_encoder(condition)[0], x)
        return self.unet(x, t, encoder_hidden_states=words, return_dict=False)[0]


def new_text_to_image(network: Options, encoder: Net) -> TextToImage:
    """A freshly initialised U-Net that reads what the text encoder ``encoder`` makes of tokens.

    Raises:
        UserError: the class does not take these options.
    """
    options = {"cross_attention_dim": encoder.config.hidden_size, **network}
    unet = made("network", diffusers().UNet2DConditionModel, options)
    return TextToImage(unet, encoder)


def prompted_model(
    net: TextToImage,
    tokenizer: Tokenizer,
    codec: VaeCodec,
    prompts: Sequence[str],
    *,
    frames: int | None = None,
    **facts: Any,
) -> Model:
    """``net`` as a Model with a label for each of ``prompts``; of clips, where ``frames`` says how
    long they are.

    Args:
        facts: its schedule, prediction and name.
    """
    device = next(net.parameters()).device
    with torch.no_grad():
        table = net.text_encoder(token_ids(tokenizer, [*prompts, ""]).to(device))[0]
    unet: Net = net.unet
    size = unet.config.sample_size
    return Model(
        net=Network(Prompted(unet, table)).eval(),
        shape=(unet.config.in_channels, *([] if frames is None else [frames]), size, size),
        codec=codec,
        labels=len(prompts),
        null_label=len(prompts),
        prompts=tuple(prompts),
        **facts,
    )


def save_text_to_image(
    model: Model, net: TextToImage, tokenizer: Tokenizer, folder: Path, card: str
) -> None:
    """Write a StableDiffusionPipeline as diffusers writes it, with the prompts and plans of
    ``model`` beside it. Weights are in float16; those of the text encoder, which transformers reads
    in the precision that it finds, in float32."""
    stock, codec = diffusers(), model.codec
    require(isinstance(codec, VaeCodec), "a pipeline needs its autoencoder.")
    assert isinstance(codec, VaeCodec)
    pipe = stock.StableDiffusionPipeline(
        copy.deepcopy(codec.vae).half(),
        net.text_encoder,
        tokenizer,
        copy.deepcopy(net.unet).half(),
        stock_scheduler(model),
        None,
        None,
        requires_safety_checker=False,
    )
    with new_folder(folder) as target, quiet():
        pipe.save_pretrained(str(target))
        (target / "README.md").write_text(card, encoding="utf-8")
        (target / PROMPTS).write_text("\n".join(model.prompts) + "\n", encoding="utf-8")
        plans = json.dumps({"plans": list(model.plans)}, indent=1)
        (target / FACTS).write_text(plans + "\n", encoding="utf-8")


def made(field: str, kind: Callable[..., torch.nn.Module], options: Options) -> torch.nn.Module:
    """A module of ``kind``.

    Raises:
        UserError: it does not take the options of the recipe's ``field``.
    """
    try:
        with quiet():
            return kind(**options)
    except Exception as error:  # whatever a class raises for options it does not take
        text = " ".join(str(error).split())[:160]
        raise UserError(
            f"recipe field {field!r} cannot be built ({type(error).__name__}: {text}); see the "
            "options of its class, or a recipe that ships."
        ) from error
