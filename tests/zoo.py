"""Tiny diffusers pipelines of the real classes with random weights, one for each family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image
from tokenizers import pre_tokenizers
from torch import nn

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDTH = 16  # of the text encoders of CLIP; T5's is twice that
LENGTH = 8  # the most tokens of a prompt for CLIP
PROMPT = "a cat"
QWEN_WORDS = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background: a cat bat dog"
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Entry:
    """One family: how it is built, how it is called, and what is peculiar about it."""

    build: Callable[[], DiffusionPipeline]
    call: dict[str, Any]
    network: str
    video: bool
    notes: str


# What the families share: random weights, pictures, tokenizers, text encoders and decoders.


def _wake(module: nn.Module) -> None:
    """Draw anew every parameter that is zero everywhere, so that no output layer is silent."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() and not parameter.count_nonzero():
                parameter.normal_(std=0.1)


def _awake(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The same pipeline in evaluation mode with no silent layer in any of its modules."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            _wake(part)
            part.eval()
    return pipe


def picture(side: int = 16, turn: int = 0) -> Image.Image:
    """A smooth colour picture that is the same each time."""
    ramp = torch.linspace(0, 255, side)
    red, green = ramp.repeat(side, 1), ramp[:, None].repeat(1, side)
    colours = torch.stack([red, green, 255 - red], dim=-1).roll(turn, dims=-1)
    return Image.fromarray(colours.to(torch.uint8).numpy())


def mask(side: int = 16) -> Image.Image:
    """A mask whose right half is to be filled in."""
    columns = torch.arange(side).ge(side // 2).to(torch.uint8) * 255
    return Image.fromarray(columns.repeat(side, 1).contiguous().numpy())


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    """A tokenizer of CLIP that knows the letters, alone and at the end of a word."""
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{c}</w>" for c in LETTERS)]
    vocab = {word: i for i, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=LENGTH)


def _clip_config() -> transformers.CLIPTextConfig:
    """The configuration of a two-layer text encoder of CLIP."""
    return transformers.CLIPTextConfig(
        vocab_size=2 + 2 * len(LETTERS),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _clip() -> transformers.CLIPTextModel:
    """A text encoder of CLIP."""
    return transformers.CLIPTextModel(_clip_config())


def _clip_projected() -> transformers.CLIPTextModelWithProjection:
    """A text encoder of CLIP whose pooled output is projected."""
    return transformers.CLIPTextModelWithProjection(_clip_config())


def _t5_tokenizer() -> transformers.T5TokenizerFast:
    """A tokenizer of T5 that knows the letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab = [*special, *((c, -3.0) for c in LETTERS)]
    return transformers.T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=2 * LENGTH)


def _t5_sizes() -> dict[str, Any]:
    """The sizes of a two-layer encoder of T5."""
    return {
        "vocab_size": 4 + len(LETTERS),
        "d_model": 2 * WIDTH,
        "d_kv": 8,
        "d_ff": 2 * WIDTH,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    }


def _t5() -> transformers.T5EncoderModel:
    """An encoder of T5."""
    return transformers.T5EncoderModel(transformers.T5Config(**_t5_sizes()))


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """The merges that build each of these words from its first letter on."""
    pairs = [(word[:i], word[i]) for word in words for i in range(1, len(word))]
    return list(dict.fromkeys(pairs))


def _qwen_tokenizer() -> transformers.Qwen2Tokenizer:
    """A tokenizer of Qwen that knows the bytes and the words of the template of Qwen-Image."""
    words = QWEN_WORDS.replace(",", " ,").replace(":", " :").split()
    merges = _merges([f"Ġ{word}" for word in words if word.isalpha()])
    merges += _merges(["Describe", "system", "user", "assistant"])
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={name: i for i, name in enumerate(dict.fromkeys(names))},
        merges=merges,
        additional_special_tokens=special[1:],
    )
    tokenizer.chat_template = QWEN_CHAT
    return tokenizer


def _gemma_tokenizer() -> transformers.GemmaTokenizer:
    """A tokenizer of Gemma that knows the letters."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    vocab = {name: i for i, name in enumerate(names)}
    return transformers.GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True)


def _decoder_sizes(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, Any]:
    """The sizes of a two-layer language model over the words of that tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _kl(channels: int = 4, **options: Any) -> diffusers.AutoencoderKL:
    """A picture autoencoder that halves each side."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def _kl_flow() -> diffusers.AutoencoderKL:
    """A picture autoencoder with the shift of the flow-matching families."""
    return _kl(
        shift_factor=0.0609, scaling_factor=1.5035, use_quant_conv=False, use_post_quant_conv=False
    )


def _unet(channels: int = 4, **options: Any) -> diffusers.UNet2DConditionModel:
    """A network of two resolutions with cross-attention at the coarser one."""
    sizes: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }
    return diffusers.UNet2DConditionModel(**{**sizes, **options})


def _betas() -> dict[str, Any]:
    """The noise levels of Stable Diffusion."""
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _pndm() -> diffusers.PNDMScheduler:
    """The scheduler that Stable Diffusion 1.5 is published with."""
    return diffusers.PNDMScheduler(**_betas(), skip_prk_steps=True, steps_offset=1)


def _ddim(**options: Any) -> diffusers.DDIMScheduler:
    """A DDIM scheduler with the noise levels of Stable Diffusion."""
    return diffusers.DDIMScheduler(
        **_betas(), clip_sample=False, set_alpha_to_one=False, steps_offset=1, **options
    )


# Stable Diffusion and the families made of its parts.


def _sd_parts(channels: int = 4) -> dict[str, Any]:
    """The components of a Stable Diffusion 1.5."""
    return {
        "vae": _kl(),
        "text_encoder": _clip(),
        "tokenizer": _clip_tokenizer(),
        "unet": _unet(channels),
        "scheduler": _pndm(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd15() -> DiffusionPipeline:
    """Stable Diffusion 1.5: predicts the noise, and is published with PNDM."""
    return _awake(diffusers.StableDiffusionPipeline(**_sd_parts()))


def sd2_v() -> DiffusionPipeline:
    """Stable Diffusion 2: predicts the velocity, with linear projections in its attention."""
    parts = _sd_parts()
    parts["unet"] = _unet(use_linear_projection=True, attention_head_dim=(2, 4))
    parts["scheduler"] = _ddim(prediction_type="v_prediction")
    return _awake(diffusers.StableDiffusionPipeline(**parts))


def sd_img2img() -> DiffusionPipeline:
    """Stable Diffusion that begins from a picture with noise."""
    return _awake(diffusers.StableDiffusionImg2ImgPipeline(**_sd_parts()))


def sd_inpaint() -> DiffusionPipeline:
    """Stable Diffusion whose network also sees the mask and the masked picture."""
    return _awake(diffusers.StableDiffusionInpaintPipeline(**_sd_parts(channels=9)))


def sd_controlnet() -> DiffusionPipeline:
    """Stable Diffusion with a second network that reads a control picture."""
    control = diffusers.ControlNetModel(
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        conditioning_embedding_out_channels=(8, 16),
    )
    return _awake(diffusers.StableDiffusionControlNetPipeline(**_sd_parts(), controlnet=control))


def instruct_pix2pix() -> DiffusionPipeline:
    """Stable Diffusion that edits a picture, which its network sees as four more channels."""
    return _awake(diffusers.StableDiffusionInstructPix2PixPipeline(**_sd_parts(channels=8)))


def animatediff() -> DiffusionPipeline:
    """Stable Diffusion with layers that look along the frames of a film."""
    parts = _sd_parts()
    for name in ("safety_checker", "requires_safety_checker"):
        del parts[name]
    parts["scheduler"] = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False)
    parts["motion_adapter"] = diffusers.MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    return _awake(diffusers.AnimateDiffPipeline(**parts))


def _sdxl_parts() -> dict[str, Any]:
    """The components of a Stable Diffusion XL."""
    pooled, of_time = WIDTH, 8
    unet = _unet(
        use_linear_projection=True,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=of_time,
        projection_class_embeddings_input_dim=6 * of_time + pooled,
    )
    return {
        "vae": _kl(scaling_factor=0.13025),
        "text_encoder": _clip(),
        "text_encoder_2": _clip_projected(),
        "tokenizer": _clip_tokenizer(),
        "tokenizer_2": _clip_tokenizer(),
        "unet": unet,
        "scheduler": diffusers.EulerDiscreteScheduler(
            **_betas(), steps_offset=1, timestep_spacing="leading"
        ),
        "add_watermarker": False,
    }


def sdxl() -> DiffusionPipeline:
    """Stable Diffusion XL: two text encoders, and the sizes of the picture as a condition."""
    return _awake(diffusers.StableDiffusionXLPipeline(**_sdxl_parts()))


def sdxl_img2img() -> DiffusionPipeline:
    """Stable Diffusion XL that begins from a picture with noise."""
    return _awake(diffusers.StableDiffusionXLImg2ImgPipeline(**_sdxl_parts()))


# Transformers that make pictures.


def sd3() -> DiffusionPipeline:
    """Stable Diffusion 3: flow matching with three text encoders."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    return _awake(
        diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_kl_flow(),
            text_encoder=_clip_projected(),
            tokenizer=_clip_tokenizer(),
            text_encoder_2=_clip_projected(),
            tokenizer_2=_clip_tokenizer(),
            text_encoder_3=_t5(),
            tokenizer_3=_t5_tokenizer(),
        )
    )


def _flux_parts() -> dict[str, Any]:
    """The components of a FLUX that is told the guidance."""
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return {
        "transformer": transformer,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True
        ),
        "vae": _kl_flow(),
        "text_encoder": _clip(),
        "tokenizer": _clip_tokenizer(),
        "text_encoder_2": _t5(),
        "tokenizer_2": _t5_tokenizer(),
    }


def flux() -> DiffusionPipeline:
    """FLUX: flow matching over packed latents, told the guidance as a number."""
    return _awake(diffusers.FluxPipeline(**_flux_parts()))


def flux_img2img() -> DiffusionPipeline:
    """FLUX that begins from a picture with noise."""
    return _awake(diffusers.FluxImg2ImgPipeline(**_flux_parts()))


def pixart_sigma() -> DiffusionPipeline:
    """PixArt-Sigma: a transformer that predicts the noise and a variance nobody reads."""
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=2 * WIDTH,
        cross_attention_dim=32,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=False,
    )
    return _awake(
        diffusers.PixArtSigmaPipeline(
            tokenizer=_t5_tokenizer(),
            text_encoder=_t5(),
            vae=_kl(scaling_factor=0.13025),
            transformer=transformer,
            scheduler=diffusers.DPMSolverMultistepScheduler(
                beta_start=0.0001, beta_end=0.02, beta_schedule="linear"
            ),
        )
    )


def dit() -> DiffusionPipeline:
    """DiT: a transformer with labels and a variance among its outputs."""
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False
    )
    labels: dict[int, str] = {0: "tench", 1: "goldfish", 2: "great white shark"}
    return _awake(
        diffusers.DiTPipeline(
            transformer=transformer, vae=_kl(), scheduler=scheduler, id2label=labels
        )
    )


def sana() -> DiffusionPipeline:
    """Sana: flow matching with linear attention and the words of a language model."""
    tokenizer = _gemma_tokenizer()
    config = transformers.Gemma2Config(
        **_decoder_sizes(tokenizer), head_dim=8, query_pre_attn_scalar=8, sliding_window=64
    )
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=WIDTH,
        sample_size=8,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return _awake(
        diffusers.SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=transformers.Gemma2Model(config),
            vae=vae,
            transformer=transformer,
            scheduler=diffusers.DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    )


def z_image() -> DiffusionPipeline:
    """Z-Image: flow matching with one stream of words and patches."""
    tokenizer = _qwen_tokenizer()
    config = transformers.Qwen3Config(**_decoder_sizes(tokenizer), head_dim=8)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return _awake(
        diffusers.ZImagePipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_kl_flow(),
            text_encoder=transformers.Qwen3Model(config),
            tokenizer=tokenizer,
            transformer=transformer,
        )
    )


def qwen_image() -> DiffusionPipeline:
    """Qwen-Image: flow matching over packed latents, guided by a second prompt."""
    tokenizer = _qwen_tokenizer()
    sizes = _decoder_sizes(tokenizer)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**sizes, "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.1, 0.2, -0.2],
        latents_std=[1.5, 2.0, 2.5, 3.0],
    )
    return _awake(
        diffusers.QwenImagePipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae,
            text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
            tokenizer=tokenizer,
            transformer=transformer,
        )
    )


# Networks over pixels, without a condition.


def _pixels() -> diffusers.UNet2DModel:
    """A network over the pixels of a small picture."""
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
    )


def ddpm() -> DiffusionPipeline:
    """DDPM over pixels, with its own ancestral steps."""
    return _awake(diffusers.DDPMPipeline(unet=_pixels(), scheduler=diffusers.DDPMScheduler()))


def ddim() -> DiffusionPipeline:
    """DDIM over pixels."""
    return _awake(diffusers.DDIMPipeline(unet=_pixels(), scheduler=diffusers.DDIMScheduler()))


# Films.


def wan() -> DiffusionPipeline:
    """Wan: flow matching over the latents of a film."""
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=2 * WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return _awake(
        diffusers.WanPipeline(
            tokenizer=_t5_tokenizer(),
            text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**_t5_sizes())),
            vae=vae,
            transformer=transformer,
            scheduler=diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    )


def wan22() -> DiffusionPipeline:
    """Wan 2.2: two networks that take turns, here at three quarters of the times."""
    pipe = wan()
    second = diffusers.WanTransformer3DModel.from_config(pipe.transformer.config)
    parts = {**pipe.components, "transformer_2": second}
    return _awake(diffusers.WanPipeline(**parts, boundary_ratio=0.75))


def ltx() -> DiffusionPipeline:
    """LTX-Video: flow matching over packed latents of a film."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=2 * WIDTH,
    )
    scaling = (True, True, False, False)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=scaling,
        decoder_spatio_temporal_scaling=scaling,
        patch_size=1,
    )
    return _awake(
        diffusers.LTXPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae,
            text_encoder=_t5(),
            tokenizer=_t5_tokenizer(),
            transformer=transformer,
        )
    )


def cogvideox() -> DiffusionPipeline:
    """CogVideoX: predicts the velocity of the latents of a film."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=2 * WIDTH,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=2 * LENGTH,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    return _awake(
        diffusers.CogVideoXPipeline(
            tokenizer=_t5_tokenizer(),
            text_encoder=_t5(),
            vae=vae,
            transformer=transformer,
            scheduler=diffusers.CogVideoXDDIMScheduler(
                prediction_type="v_prediction",
                rescale_betas_zero_snr=True,
                timestep_spacing="trailing",
                snr_shift_scale=3.0,
            ),
        )
    )


def _call(side: int = 16, **options: Any) -> dict[str, Any]:
    """The keyword arguments of a family that takes a prompt and the sides of the picture."""
    return {"prompt": PROMPT, "height": side, "width": side, **options}


ZOO: dict[str, Entry] = {
    "sd15": Entry(
        build=sd15,
        call=_call(guidance_scale=4.0),
        network="unet",
        video=False,
        notes="Guidance is one call of twice the batch, the empty prompt first; PNDM calls the "
        "network once more than it has steps.",
    ),
    "sdxl": Entry(
        build=sdxl,
        call=_call(guidance_scale=4.0),
        network="unet",
        video=False,
        notes="Guidance is one call of twice the batch; Euler's input is scaled, and begins from "
        "noise as wide as its first level.",
    ),
    "flux": Entry(
        build=flux,
        call=_call(guidance_scale=3.5, max_sequence_length=16),
        network="transformer",
        video=False,
        notes="Packed latents, (batch, tokens, channels * 4); time / 1000; guidance is an input.",
    ),
    "sd3": Entry(
        build=sd3,
        call=_call(guidance_scale=4.0, max_sequence_length=16),
        network="transformer",
        video=False,
        notes="Guidance is one call of twice the batch; time is in thousandths.",
    ),
    "wan": Entry(
        build=wan,
        call=_call(32, guidance_scale=4.0, num_frames=9, max_sequence_length=16),
        network="transformer",
        video=True,
        notes="Guidance is two calls, the prompt's first; 9 frames are 3 of the latents.",
    ),
    "pixart-sigma": Entry(
        build=pixart_sigma,
        call=_call(
            guidance_scale=4.0,
            max_sequence_length=16,
            use_resolution_binning=False,
            clean_caption=False,
        ),
        network="transformer",
        video=False,
        notes="Guidance is one call of twice the batch; of 8 output channels 4 are a variance, "
        "dropped by the pipeline.",
    ),
    "ddpm": Entry(
        build=ddpm,
        call={"batch_size": 1},
        network="unet",
        video=False,
        notes="No condition, and no latents: output_type='latent' gives the picture.",
    ),
    "dit": Entry(
        build=dit,
        call={"class_labels": [1], "guidance_scale": 4.0},
        network="transformer",
        video=False,
        notes="Guidance is one call of twice the batch, the label first and label 1000 second; "
        "output_type='latent' gives the picture.",
    ),
    "sd2-v": Entry(
        build=sd2_v,
        call=_call(guidance_scale=4.0),
        network="unet",
        video=False,
        notes="Predicts the velocity.",
    ),
    "ddim": Entry(
        build=ddim,
        call={"batch_size": 1},
        network="unet",
        video=False,
        notes="No condition, and no latents: output_type='latent' gives the picture.",
    ),
    "sd-img2img": Entry(
        build=sd_img2img,
        call={"prompt": PROMPT, "image": picture(), "strength": 0.8, "guidance_scale": 4.0},
        network="unet",
        video=False,
        notes="Begins int(steps * strength) steps before the end.",
    ),
    "sd-inpaint": Entry(
        build=sd_inpaint,
        call=_call(image=picture(), mask_image=mask(), guidance_scale=4.0),
        network="unet",
        video=False,
        notes="9 input channels: latents, mask, latents of the masked picture.",
    ),
    "sd-controlnet": Entry(
        build=sd_controlnet,
        call=_call(image=picture(), guidance_scale=4.0, controlnet_conditioning_scale=0.8),
        network="unet",
        video=False,
        notes="The control network runs before each call and its residuals are arguments.",
    ),
    "instruct-pix2pix": Entry(
        build=instruct_pix2pix,
        call={
            "prompt": PROMPT,
            "image": picture(),
            "guidance_scale": 4.0,
            "image_guidance_scale": 1.5,
        },
        network="unet",
        video=False,
        notes="8 input channels; guidance is one call of three times the batch: prompt and "
        "picture, picture alone, neither.",
    ),
    "sdxl-img2img": Entry(
        build=sdxl_img2img,
        call={"prompt": PROMPT, "image": picture(), "strength": 0.8, "guidance_scale": 4.0},
        network="unet",
        video=False,
        notes="Begins int(steps * strength) steps before the end.",
    ),
    "flux-img2img": Entry(
        build=flux_img2img,
        call=_call(image=picture(), strength=0.8, guidance_scale=3.5, max_sequence_length=16),
        network="transformer",
        video=False,
        notes="Packed latents; begins a share of strength of the steps before the end.",
    ),
    "sana": Entry(
        build=sana,
        call=_call(
            32,
            guidance_scale=4.0,
            max_sequence_length=16,
            use_resolution_binning=False,
            clean_caption=False,
            complex_human_instruction=None,
        ),
        network="transformer",
        video=False,
        notes="Guidance is one call of twice the batch; time is in thousandths.",
    ),
    "z-image": Entry(
        build=z_image,
        call=_call(guidance_scale=3.0, max_sequence_length=32),
        network="transformer",
        video=False,
        notes="Lists of (channels, 1, h, w) and of prompts of their own lengths; time is "
        "(1000 - t) / 1000; the output's sign is turned; guidance is cond + scale * (cond - "
        "uncond), one call of twice the batch, the prompt first.",
    ),
    "qwen-image": Entry(
        build=qwen_image,
        call=_call(32, negative_prompt=" ", true_cfg_scale=4.0, max_sequence_length=16),
        network="transformer",
        video=False,
        notes="Packed latents; time / 1000; guidance is two calls, the prompt's first, and its "
        "result is scaled back to the norm of the prompt's.",
    ),
    "ltx": Entry(
        build=ltx,
        call=_call(32, guidance_scale=3.0, num_frames=9, max_sequence_length=16),
        network="transformer",
        video=True,
        notes="Packed latents, (batch, tokens, channels), with frames, height and width beside "
        "them; guidance is one call of twice the batch.",
    ),
    "cogvideox": Entry(
        build=cogvideox,
        call=_call(32, guidance_scale=4.0, num_frames=9, max_sequence_length=16),
        network="transformer",
        video=True,
        notes="Frames come before channels, (batch, frames, channels, h, w); guidance is one call "
        "of twice the batch; predicts the velocity.",
    ),
    "animatediff": Entry(
        build=animatediff,
        call=_call(num_frames=4, guidance_scale=4.0),
        network="unet",
        video=True,
        notes="The unet becomes a UNetMotionModel; latents are (batch, channels, frames, h, w).",
    ),
}


def built(name: str) -> DiffusionPipeline:
    """A new pipeline of that family, with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return ZOO[name].build()
