"""A text-to-image pipeline and a list of prompts, as a model with a label for each prompt.

The prompts are encoded once. The empty prompt is the null label, so guidance, programs, students
and measurements work as they do for a model with classes.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hasten.adapters.builtin import named_folder
from hasten.adapters.clip_text import clip_text
from hasten.adapters.families import PROMPTED, Network
from hasten.adapters.folder import INDEX, LIBRARIES, read_object, refusing
from hasten.adapters.frozen import frozen
from hasten.adapters.pipeline_notes import guided_as_called, shipped_call, shipped_plans
from hasten.adapters.prompt_length import cut_off_by, warn
from hasten.adapters.quiet import diffusers, quiet
from hasten.adapters.schedules import config_of, read_prediction, read_schedule
from hasten.adapters.split import split
from hasten.adapters.untyped import Pipeline
from hasten.adapters.vae_codec import VaeCodec
from hasten.core.artifact import weights_sha256
from hasten.core.call import Output
from hasten.core.errors import require
from hasten.core.family import AT_ONCE, Text
from hasten.core.model import Model

KNOWN = "StableDiffusionPipeline"


class Prompted(torch.nn.Module):
    """A network that reads embeddings; a label says which of ``table`` (k, length, width), or they
    are given themselves. ``text`` says how they are made of prompts."""

    family = PROMPTED
    table: torch.Tensor

    def __init__(
        self, module: torch.nn.Module, table: torch.Tensor, text: Text | None = None
    ) -> None:
        super().__init__()
        self.module, self.text = module, text
        self.register_buffer("table", table, persistent=False)

    def __deepcopy__(self, memo: dict[int, object]) -> Prompted:
        """Copies share what the prompts became: it never changes, and may be large."""
        memo[id(self.table)] = self.table
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        words = self._words(x, condition)
        return self.module(x, t, encoder_hidden_states=words, return_dict=False)[0]

    def _words(self, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        assert condition is not None
        words = condition if condition.is_floating_point() else self.table[condition]
        return per_frame(words, x).to(x.dtype)

    def split(self, kind: str, **where: object) -> PromptedSplit:
        """The network cut as the feature cache ``kind`` does it, with the same prompts."""
        return PromptedSplit(split(self.module, kind, **where), self.table)


def per_frame(words: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``words`` (n, length, width) as a network of x reads them: for every frame, where these are
    clips (n, c, frames, h, w)."""
    return words.repeat_interleave(x.shape[2], dim=0) if x.ndim == 5 else words


class PromptedSplit(Prompted):
    """A split network: called with what was kept, it answers in part."""

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> Output:
        return self.module(x, t, self._words(x, condition), *features)


def load_prompted(
    source: str | Path | Pipeline,
    prompts: Sequence[str | int],
    device: torch.device,
    dtype: torch.dtype | None,
    negative: str | None = None,
    **call: object,
) -> Model:
    """The Model of a pipeline (live, a folder, or a hub id) for ``prompts``.

    Args:
        call: arguments of the pipeline's own call.

    Raises:
        UserError: no such pipeline, a part that brings code, pickled weights, or no prompt.
    """
    listed = isinstance(prompts, (list, tuple)) and len(prompts) > 0
    require(
        listed and all(isinstance(prompt, (str, int)) for prompt in prompts),
        f"prompts is {prompts!r}; give a list of texts, one for each label.",
    )
    if isinstance(source, (str, Path)):
        name, folder = str(source), _folder(str(source))
        pipe = _opened(folder, name, dtype)
    else:
        name, folder, pipe = type(source).__name__, None, source
    require(
        is_pipeline(pipe),
        f"prompts are for a pipeline of diffusers, and {name} is a {type(pipe).__name__}; drop "
        "them.",
    )
    if folder is not None:
        pipe.to(device)
    parts = [getattr(pipe, name, None) for name in ("unet", "vae", "text_encoder", "tokenizer")]
    whole = type(pipe).__name__ == KNOWN and all(part is not None for part in parts)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    require(
        not whole or len(texts) == len(prompts),
        f"prompts is {prompts!r}; give a list of texts, one for each label.",
    )
    if folder is not None:
        call = {**shipped_call(folder), **call}
    warn(cut_off_by(pipe, texts, call))
    if whole and negative is None and not call:
        return _stable_diffusion(pipe, texts, name, folder, device, dtype)
    _require_as_it_is(pipe, folder, device, dtype)
    from hasten.adapters.pipelines import load_pipeline  # imports diffusers

    require(
        negative is None or isinstance(negative, str),
        f"negative is {negative!r}; give one text, for all prompts.",
    )
    more = {} if negative is None else {"negative_prompt": [negative] * len(prompts)}
    require(
        "negative_prompt" not in call,
        "load takes no argument 'negative_prompt'; give negative=, one text for all prompts.",
    )
    model = load_pipeline(pipe, prompts, call, more)
    plans = shipped_plans(folder) or model.plans
    return dataclasses.replace(model, name=name, folder=folder, plans=plans)


def _stable_diffusion(
    pipe: Pipeline,
    prompts: Sequence[str],
    name: str,
    folder: Path | None,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Model:
    """A pipeline of a text encoder, a U-Net and an autoencoder, read part by part."""
    with torch.no_grad():
        every = [*prompts, ""]
        parts = [every[begin : begin + AT_ONCE] for begin in range(0, len(every), AT_ONCE)]
        words = torch.cat(
            [pipe.encode_prompt(part, pipe.device, 1, False)[0].float() for part in parts]
        )
    unet, scheduler = frozen(pipe.unet, device, dtype), pipe.scheduler
    with refusing(f"{type(scheduler).__name__} of the pipeline cannot be read", "mend its config."):
        settings, kind = config_of(scheduler), type(scheduler).__name__
        known, answers = read_schedule(settings, kind), read_prediction(settings, kind)
    config = unet.config
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    text = clip_text(pipe.tokenizer, frozen(pipe.text_encoder, device))
    net = Network(Prompted(unet, words.to(device), text)).eval()
    return Model(
        net=net,
        schedule=known,
        prediction=answers,
        shape=(config.in_channels, height, width),
        codec=VaeCodec(source=name).of(frozen(pipe.vae, device)),
        labels=len(prompts),
        null_label=len(prompts),
        name=name,
        sha256="" if folder is None else weights_sha256(unet),
        folder=folder,
        prompts=tuple(prompts),
        plans=shipped_plans(folder) or guided_as_called(pipe),
    )


def with_prompts(model: Model, prompts: Sequence[str]) -> Model:
    """``model``, a pipeline that was loaded for other prompts, for ``prompts``.

    Raises:
        UserError: it was captured from its pipeline's own call.
    """
    network = model.net.module if isinstance(model.net, Network) else None
    require(
        isinstance(network, Prompted) and network.text is not None,
        f"model {model.name!r} answers only the prompts it was loaded for; give these to load.",
    )
    assert isinstance(network, Prompted)
    assert network.text is not None
    words = network.text.words([*prompts, ""])
    net = Network(Prompted(network.module, words, network.text)).eval()
    count = len(prompts)
    return dataclasses.replace(
        model, net=net, labels=count, null_label=count, prompts=tuple(prompts)
    )


def _require_as_it_is(
    pipe: Pipeline, folder: Path | None, device: torch.device, dtype: torch.dtype | None
) -> None:
    """Refuse another device or dtype for a live pipeline, which is captured where it is."""
    require(
        folder is not None
        or (dtype in (None, pipe.dtype) and device.type in ("cpu", pipe.device.type)),
        f"a live pipeline is captured as it is, on {pipe.device} in {pipe.dtype}; move it with "
        "pipe.to(...) before, and drop device and dtype.",
    )


def is_pipeline(source: object) -> bool:
    """Whether ``source`` is a live pipeline of diffusers."""
    return isinstance(source, diffusers().DiffusionPipeline)


def _folder(source: str) -> Path:
    """The folder that ``source`` names, or where the hub's pipeline of that name now lies."""
    named = named_folder(source)
    if named is not None:
        return named
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    require(
        "/" in source,
        f"{source!r} is no folder here and no hub id (owner/name), and prompts are for a pipeline; "
        "drop them, or name one.",
    )
    name, _, revision = source.partition("@")
    with (
        refusing(f"{source} is no pipeline that can be loaded", "check the folder or the name."),
        quiet(),
    ):
        return Path(
            diffusers().DiffusionPipeline.download(
                name,
                revision=revision or None,
                use_safetensors=True,
                trust_remote_code=False,
            )
        )


def _opened(folder: Path, source: str, dtype: torch.dtype | None) -> Pipeline:
    index = read_object(folder / INDEX)
    with quiet():
        _require_stock(index, str(folder / INDEX))
    with (
        refusing(f"{source} is no pipeline that can be loaded", "check the folder or the name."),
        quiet(),
    ):
        safe = {"safety_checker": None, "requires_safety_checker": False}
        pipe = diffusers().DiffusionPipeline.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            variant=_variant(folder, index),
            **(safe if "safety_checker" in index else {}),
        )
        return pipe if dtype is None else pipe.to(dtype=dtype)


def _variant(folder: Path, index: Mapping[str, object]) -> str | None:
    """The variant (fp16, say) of the parts that have no weights without a name; None where all
    have.

    Raises:
        UserError: they have no variant in common.
    """
    common: set[str] | None = None
    for part in index:
        names = [file.name for file in (folder / part).glob("*.safetensors")]
        found = [re.fullmatch(r"[^.]+(?:\.(\w+?))?(?:-\d+-of-\d+)?\.safetensors", n) for n in names]
        variants = {match[1] for match in found if match}
        if variants and None not in variants:
            common = variants if common is None else common & variants
    require(
        common is None or len(common) > 0,
        f"{folder}: its parts have weights in different variants and none without a name; copy the "
        "folder again.",
    )
    return None if common is None else sorted(common)[0]


def _require_stock(index: Mapping[str, object], where: str) -> None:
    """Refuse an index that names classes which are not diffusers' or transformers' own."""
    kind = index.get("_class_name")
    require(
        isinstance(kind, str) and kind.endswith("Pipeline") and hasattr(diffusers(), kind),
        f"{where} is of {kind!r}, which is no pipeline of diffusers; hasten never runs code that a "
        "model names.",
    )
    libraries = (*LIBRARIES, "stable_diffusion")
    for name, value in index.items():
        if isinstance(value, list) and any(item is not None for item in value):
            stock = len(value) == 2 and value[0] in libraries and isinstance(value[1], str)
            require(
                stock,
                f"{where}: part {name!r} is {value!r}, no class of diffusers or transformers; "
                "hasten never runs code that a model names. Save the pipeline with stock classes.",
            )
