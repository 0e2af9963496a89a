"""A Model from what people have: a built-in name, a folder, a hub id, a pipeline, a module."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

import torch

from hasten.adapters.builtin import builtins, named_folder
from hasten.adapters.families import Network, family
from hasten.adapters.folder import (
    FACTS,
    INDEX,
    NETWORKS,
    WEIGHTS,
    Contents,
    network_part,
    one_line,
    read_folder,
    read_object,
    refusing,
)
from hasten.adapters.frozen import frozen
from hasten.adapters.hub_errors import asking_hub
from hasten.adapters.pipeline_notes import shipped_prompts
from hasten.adapters.prompted import load_prompted
from hasten.adapters.schedules import config_of, read_prediction, read_schedule
from hasten.adapters.schedules import prediction as as_prediction
from hasten.adapters.schedules import schedule as as_schedule
from hasten.adapters.untyped import Pipeline
from hasten.core.codec import Codec, Shape, codecs
from hasten.core.errors import UserError, nearest, require, require_whole
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.plan_upgrade import plans_of
from hasten.core.prediction import Prediction

Facts = dict[str, Any]
"""What is known of a model, by the names of the arguments of :func:`load`."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?")
Part = TypeVar("Part")
KNOWN = ("schedule", "prediction", "codec", "shape", "labels", "null_label", "learned_variance")
NONE_SAYS = ("labels", "null_label")  # where null in a file is an answer: there are none


def load(
    source: str | FilePath | torch.nn.Module | Pipeline,
    *,
    schedule: str | dict[str, object] | NoiseSchedule | None = None,
    prediction: str | Prediction | None = None,
    codec: str | Codec | None = None,
    shape: Shape | None = None,
    labels: int | None = None,
    null_label: int | None = None,
    learned_variance: bool | None = None,
    prompts: Sequence[str | int] | None = None,
    negative: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    **call: object,
) -> Model:
    """The Model behind ``source``, ready to sample: in eval mode, without gradients, on ``device``.

    Args:
        source: ``"builtin:NAME"``; a diffusers folder, or the folder of one diffusers network; a
            hub id ``"owner/name"`` or ``"owner/name@revision"``, with ``"hub:"`` before it for what
            ``hasten push`` put there; a live diffusers pipeline; any ``torch.nn.Module`` called as
            ``net(x, t)`` or ``net(x, t, condition)``. A live network is not changed; it is shared
            as it is, or copied around the same weights where its mode, device or dtype has to
            differ.
        schedule: how noise was added, where the files do not say (or say it wrong).
        prediction: what the network predicts; a module needs both, ``schedule`` and ``prediction``.
        codec: how pictures become what the network sees; pixels in [-1, 1] by default.
        shape: (c, h, w), or (c, ...) of another rank, that the network sees; needed for a module
            that is not diffusers' own.
        labels: how many classes there are.
        null_label: the label that stands for "no label".
        learned_variance: the network answers twice the channels, the second half a variance.
        prompts: what a pipeline is asked for, texts or (DiT) classes: each becomes a label. Any
            pipeline whose loop is network and ``scheduler.step`` is captured by watching its own
            call, see :mod:`hasten.adapters.capture`. By default those of ``prompts.txt`` in the
            folder, where it has one.
        negative: the negative prompt, of a pipeline that guides; the empty one by default.
        call: arguments of the pipeline's own call: ``height``, ``num_frames``, ``image``,
            ``guidance_scale`` and so on.
        dtype: of the weights; float32 for files, whatever a live network has.

    Raises:
        UserError: in one line, naming the file or argument and the mend.
    """
    place, width = _device(device), _dtype(dtype)
    arguments: Facts = {
        "schedule": schedule,
        "prediction": prediction,
        "codec": codec,
        "shape": shape,
        "labels": labels,
        "null_label": null_label,
        "learned_variance": learned_variance,
    }
    arguments = {key: value for key, value in arguments.items() if value is not None}
    prompts = shipped_prompts(source) if prompts is None else prompts
    if prompts is not None:
        require(
            not arguments,
            f"load: {', '.join(arguments)} cannot be given with prompts=; the pipeline's own files "
            "say it.",
        )
        return load_prompted(source, prompts, place, width, negative=negative, **call)
    if negative is not None:
        call["negative"] = negative
    require(
        not call,
        f"load: {', '.join(call)} {'is' if len(call) == 1 else 'are'} for a pipeline with prompts; "
        "give prompts= as well, or drop it.",
    )
    name, contents = _open(source, place, width)
    return _model(name, contents, arguments)


def _open(source: object, device: torch.device, dtype: torch.dtype | None) -> tuple[str, Contents]:
    """What ``source`` holds, and what to call it."""
    if isinstance(source, torch.nn.Module):
        name = type(source.module if isinstance(source, Network) else source).__name__
        return name, Contents(frozen(source, device, dtype), None, {})
    if _is_pipeline(source):
        return type(source).__name__, _from_pipeline(source, device, dtype)
    if not isinstance(source, (str, FilePath)):
        raise UserError(
            f"load was given a {type(source).__name__}; give a name, a folder, a hub id, a "
            "diffusers pipeline or a torch.nn.Module."
        )
    name, folder = _folder(source)
    return name, read_folder(folder, device, dtype or torch.float32)


def _folder(source: str | FilePath) -> tuple[str, FilePath]:
    text = str(source)
    named = named_folder(text)
    if named is not None:
        return text, named
    folder = FilePath(source).expanduser()
    if folder.is_dir():
        return folder.resolve().name, folder
    require(not folder.exists(), f"{text} is a file; give the model folder it lies in.")
    require(
        isinstance(source, str) and HUB_ID.fullmatch(text) is not None,
        f"{text!r} is no folder here, no hub id (owner/name) and no built-in name; "
        f"built-in: {builtins()}.",
    )
    return text, _download(text)


def _download(text: str) -> FilePath:
    """The folder of a hub model in the local cache: its settings, and the weights only once the
    settings have been found to be of a kind that can be loaded."""
    from huggingface_hub import snapshot_download

    name, _, revision = text.partition("@")
    settings = [INDEX, FACTS, "manifest.json", "README.md", "config.json", "scheduler_config.json"]
    settings += ["scheduler/scheduler_config.json", *(f"{part}/*.json" for part in NETWORKS)]
    settings += ["features/*.json", "features/*.safetensors"]
    places = ("", *(f"{part}/" for part in NETWORKS))
    weights = [f"{place}{WEIGHTS}{end}" for place in places for end in (".safetensors", "-*-of-*")]
    with asking_hub(name, revision):
        folder = FilePath(
            snapshot_download(name, revision=revision or None, allow_patterns=settings)
        )
        if (folder / INDEX).exists():
            network_part(read_object(folder / INDEX), f"{text}/{INDEX}")
        snapshot_download(
            name, revision=folder.name, allow_patterns=[*settings, *weights, f"{WEIGHTS}*.json"]
        )
    return folder


def _is_pipeline(source: object) -> bool:
    # Whoever holds a pipeline has imported diffusers; nobody else should wait for it.
    diffusers = sys.modules.get("diffusers")
    return diffusers is not None and isinstance(source, diffusers.DiffusionPipeline)


def _from_pipeline(pipe: Pipeline, device: torch.device, dtype: torch.dtype | None) -> Contents:
    parts = {key: value for key, value in pipe.components.items() if value is not None}
    index = {key: ["diffusers", type(value).__name__] for key, value in parts.items()}
    part = network_part(index, type(pipe).__name__)
    scheduler = parts.get("scheduler")
    config = None
    if scheduler is not None:
        config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    return Contents(frozen(parts[part], device, dtype), config, {})


def _model(name: str, contents: Contents, arguments: Facts) -> Model:
    net = contents.module if isinstance(contents.module, Network) else Network(contents.module)
    net.eval()
    _require_known(name, contents, arguments)
    with refusing(f"{name}: its network's config cannot be used", "mend its values."):
        known = _from_module(net.module)
    known |= {**_from_files(name, contents, arguments), **arguments}
    missing = [key for key in ("schedule", "prediction", "shape") if key not in known]
    require(
        not missing,
        f"{name}: nothing says its {', '.join(missing)}; give load(..., schedule='vp-linear', "
        "prediction='epsilon', shape=(3, 32, 32)) with what it was trained with.",
    )
    channels = known.pop("channels", None)
    with refusing(f"{name}: {FACTS} or an argument has a value that cannot be used", "mend it."):
        model = Model(
            net=net,
            schedule=as_schedule(known["schedule"]),
            prediction=_part(Prediction, as_prediction(known["prediction"])),
            shape=_shape(known["shape"]),
            codec=_part(Codec, codecs.parse(known.get("codec", "identity"))),
            labels=known.get("labels"),
            null_label=known.get("null_label"),
            learned_variance=bool(known.get("learned_variance", False)),
            name=name,
            sha256=contents.sha256,
            folder=contents.folder,
            plans=plans_of(contents.facts.get("plans", [])),
            teacher=str(contents.facts.get("teacher", "")),
            imitates=contents.facts.get("imitates") is True,
            guidance=float(contents.facts.get("guidance", 1.0)),
        )
        _check(model, channels)
    return model


def _require_known(name: str, contents: Contents, arguments: Facts) -> None:
    """Say which file is missing, where one is."""
    facts, scheduler = contents.facts, contents.scheduler
    from_file = bool(contents.sha256)
    lost = facts.get("schedule") == "scheduler" or not (
        "schedule" in facts and "prediction" in facts
    )
    if (
        from_file
        and scheduler is None
        and lost
        and not ("schedule" in arguments and "prediction" in arguments)
    ):
        raise UserError(
            f"{name} has no scheduler/scheduler_config.json, which says how it was trained; "
            "restore the file, or give schedule= and prediction=."
        )


def _from_files(name: str, contents: Contents, arguments: Facts) -> Facts:
    facts = {
        key: contents.facts[key]
        for key in KNOWN
        if contents.facts.get(key) is not None or (key in NONE_SAYS and key in contents.facts)
    }
    if facts.get("schedule") == "scheduler":
        del facts["schedule"]
    scheduler = contents.scheduler
    have = {**facts, **arguments}
    if scheduler is None or ("schedule" in have and "prediction" in have):
        return facts
    where = f"{name}: scheduler_config.json"
    with refusing(f"{where} cannot be used", "mend it, or give schedule= and prediction=."):
        said: Facts = {}
        if "schedule" not in have:
            said["schedule"] = read_schedule(config_of(scheduler), where)
        if "prediction" not in have:
            said["prediction"] = read_prediction(config_of(scheduler), where)
    return {**said, **facts}


def _from_module(module: torch.nn.Module) -> Facts:
    """What a diffusers network says of itself."""
    known = family(module)
    config = dict(getattr(module, "config", {})) if known else {}
    if known is None or "in_channels" not in config:
        return {}
    channels, size = config["in_channels"], config.get("sample_size")
    out: Facts = {"channels": channels}
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        out["shape"] = (channels, height, width)
    answers = config.get("out_channels") or channels
    require(
        answers in (channels, 2 * channels),
        f"{type(module).__name__} answers {answers} channels to {channels}; hasten knows networks "
        f"that answer {channels}, or {2 * channels} with a learned variance.",
    )
    out["learned_variance"] = answers == 2 * channels
    labels = config.get(known.labels)
    kind = config.get("class_embed_type")
    require(
        kind is None,
        f"{type(module).__name__} has class_embed_type {kind!r}; hasten knows networks with "
        f"{known.labels} or without labels.",
    )
    if labels is not None:
        out |= {"labels": labels, "null_label": labels if known.null else None}
    return out


def _check(model: Model, channels: int | None) -> None:
    require(
        channels is None or model.shape[0] == channels,
        f"{model.name}: shape {model.shape} has {model.shape[0]} channels, but its network takes "
        f"{channels}.",
    )
    require(
        channels is None or len(model.shape) == 3,
        f"{model.name}: shape is {model.shape}, but its network takes (channels, height, width).",
    )
    model.codec.decoded_shape(model.shape)
    if model.labels is not None:
        require_whole(f"{model.name}: labels", model.labels, 1, 10**6)
    if model.null_label is not None:
        require(model.labels is not None, f"{model.name}: a null_label needs labels as well.")
    known = family(model.net.module)  # type: ignore[arg-type]
    if known is None:
        return
    rows = (model.net.module.config.get(known.labels) or 0) + known.null  # type: ignore[union-attr]
    most = rows if model.null_label is None else rows - 1
    require(
        (model.labels or 0) <= rows and (model.null_label or 0) <= max(most, 0),
        f"{model.name}: labels={model.labels} and null_label={model.null_label} do not fit its "
        f"network, which knows {rows} labels in all.",
    )


def _part(kind: type[Part], value: object) -> Part:
    if not isinstance(value, kind):
        name = kind.__name__.lower()
        raise UserError(f"{name} is {value!r}; it takes a name such as 'name(a=1)'.")
    return value


def _shape(shape: Iterable[int]) -> Shape:
    sizes = tuple(shape)
    fits = len(sizes) >= 2
    require(fits, f"shape is {shape!r}; it takes (channels, height, width), or (channels, ...).")
    for size in sizes:
        require_whole("shape", size, 1, 1_000_000)
    return sizes


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device!r} is not here ({one_line(error)}); use 'cpu'.") from None


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    names = ("float32", "float16", "bfloat16", "float64")
    require(dtype in names, f"dtype is {dtype!r}. {nearest(str(dtype), names)}")
    return getattr(torch, dtype)
