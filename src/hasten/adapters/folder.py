"""A model as a diffusers folder: what stock diffusers loads, and ``hasten.json`` beside it.

Reading trusts nothing: the files of a folder are JSON and safetensors, they name classes from a
list of ours, and every path in them stays inside the folder. Nothing in a folder is ever run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hasten.adapters.families import loadable
from hasten.adapters.quiet import diffusers
from hasten.adapters.schedules import SchedulerConfig
from hasten.adapters.untyped import Net
from hasten.core.artifact import FACTS
from hasten.core.codec import codecs
from hasten.core.errors import UserError, require
from hasten.core.files import MANIFEST, TEXT, JsonObject, cache_root, new_folder, sha256, verify
from hasten.core.model import Model
from hasten.core.noise_schedule import Discrete
from hasten.core.prediction import predictions

if TYPE_CHECKING:
    from diffusers import ConfigMixin

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model"
AGAIN = "copy or download the folder again."
NETWORKS = ("unet", "transformer")
LIBRARIES = ("diffusers", "transformers", "hasten.adapters.scheduler")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
LARGEST = {"sample_size": 4096, "num_layers": 1024, "layers_per_block": 64}


def save_folder(model: Model, target: Path, card: str = "") -> None:
    """Write ``model`` as a diffusers folder with ``hasten.json``, a card and a sha256 manifest.

    The folder appears whole or not at all; stock diffusers loads its network and scheduler.
    """
    module: Net = model.net.module
    component = "transformer" if "Transformer" in type(module).__name__ else "unet"
    pipeline = "DiTPipeline" if component == "transformer" else "DDPMPipeline"
    scheduler = stock_scheduler(model)
    with new_folder(target) as folder:
        module.save_pretrained(str(folder / component))
        scheduler.save_pretrained(str(folder / "scheduler"))
        index = {
            "_class_name": pipeline,
            "_diffusers_version": diffusers().__version__,
            component: ["diffusers", type(module).__name__],
            "scheduler": ["diffusers", type(scheduler).__name__],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
        (folder / FACTS).write_text(json.dumps(facts(model), indent=1) + "\n")
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")


def facts(model: Model) -> dict[str, object]:
    """What ``hasten.json`` holds: everything about a model that diffusers' files do not say."""
    schedule = model.schedule.config()
    return {
        "schedule": schedule if schedule["name"] != "discrete" else "scheduler",
        "prediction": predictions.text(model.prediction),
        "codec": codecs.text(model.codec),
        "shape": list(model.shape),
        "labels": model.labels,
        "null_label": model.null_label,
        "learned_variance": model.learned_variance,
        **({"plans": list(model.plans)} if model.plans else {}),
        **({"teacher": model.teacher} if model.teacher else {}),
        **({"guidance": model.guidance} if model.guidance != 1 else {}),
        **({"imitates": True} if model.imitates else {}),
    }


def stock_scheduler(model: Model) -> ConfigMixin:
    """The diffusers scheduler that comes nearest to the model's noise schedule."""
    stock = diffusers()
    if isinstance(model.schedule, Discrete):
        kinds = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
        table = torch.tensor(model.schedule.alphas_cumprod, dtype=torch.float64)
        betas = 1 - table / torch.cat([table.new_ones(1), table[:-1]])
        known = stock.DDPMScheduler(num_train_timesteps=len(table), clip_sample=False)
        same = torch.allclose(known.alphas_cumprod.double(), table, rtol=1e-4, atol=1e-7)
        return stock.DDPMScheduler(
            num_train_timesteps=len(table),
            trained_betas=None if same else betas.tolist(),
            prediction_type=kinds.get(model.prediction.part_name, "epsilon"),
            clip_sample=False,
        )
    if model.schedule.part_name == "edm":
        return stock.EDMEulerScheduler(
            sigma_min=model.schedule.low,
            sigma_max=model.schedule.noisy,
            sigma_data=getattr(model.prediction, "sigma_data", 0.5),
        )
    if model.schedule.part_name == "flow":
        return stock.FlowMatchEulerDiscreteScheduler(shift=getattr(model.schedule, "shift", 1.0))
    return stock.DDPMScheduler(clip_sample=False)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a folder holds: the network, and the dicts of its scheduler and of ``hasten.json``."""

    module: torch.nn.Module
    scheduler: SchedulerConfig | None
    facts: JsonObject
    sha256: str = ""
    folder: Path | None = None


def read_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> Contents:
    """The network and the settings in a diffusers folder, or in a folder of one network.

    Raises:
        UserError: naming the file that is missing, damaged, of an unknown kind, or unsafe.
    """
    files = Files(folder)
    has_index = files.has(INDEX)
    require(
        has_index or files.has("config.json"),
        f"{folder} is no model folder: it has neither {INDEX} nor config.json; give the folder "
        "that a diffusers pipeline or network was saved to.",
    )
    part = network_part(files.json(INDEX), str(files.path(INDEX))) if has_index else ""
    # Older folders keep the files of a pipeline side by side instead of in a folder a part.
    inner = f"{part}/" if part and (folder / part).is_dir() else ""
    module, digest = _network(files, inner, device, dtype)
    places = ["scheduler/scheduler_config.json", "scheduler_config.json"]
    scheduler = next((files.json(place) for place in places if files.has(place)), None)
    known = files.json(FACTS) if files.has(FACTS) else {}
    return Contents(module, scheduler, known, digest, folder)


def read_object(path: Path) -> JsonObject:
    """The JSON object in ``path``."""
    with refusing(f"{path} cannot be read as JSON", AGAIN):
        content = json.loads(path.read_text(encoding=TEXT))
    require(isinstance(content, dict), f"{path} holds no JSON object; {AGAIN}")
    return content


def network_part(index: Mapping[str, object], where: str) -> str:
    """``unet`` or ``transformer``: which part of a pipeline is the network, after all its parts
    were found to be ones that hasten can stand in for.

    Args:
        index: part names to [library, class], as in ``model_index.json``.
        where: what to call it in an error.
    """
    require(
        isinstance(index.get("_class_name", ""), str),
        f"{where} names code of its own as _class_name; hasten never runs code from a model. "
        "Name a class of diffusers there.",
    )
    parts = {key: value for key, value in index.items() if isinstance(value, list)}
    parts = {key: value for key, value in parts.items() if any(item is not None for item in value)}
    for name, value in parts.items():
        stock = len(value) == 2 and value[0] in LIBRARIES
        require(
            stock and isinstance(value[1], str),
            f"{where}: part {name!r} is {value!r}, no class of diffusers; hasten never runs code "
            "that a model names. Save the pipeline with stock classes.",
        )
    part = next((name for name in NETWORKS if name in parts), None)
    if part is None:
        raise UserError(f"{where} lists no unet and no transformer; give a diffusion pipeline.")
    others = [name for name in parts if name not in (part, "scheduler")]
    latent = [name for name in others if name.startswith(("vae", "vq", "movq"))]
    require(
        not latent,
        f"{where}: part {latent[:1]} makes this a latent model. Stable Diffusion takes "
        "prompts (--prompts FILE, load(..., prompts=[...])); there is no codec for others yet: set "
        "pipe.scheduler = ProgramScheduler(program, like=pipe.scheduler).",
    )
    _known_class(parts[part][1], where)
    require(
        not others,
        f"{where}: hasten does not know what part {others[:1]} does to the pictures; load the "
        "network's folder alone, or set pipe.scheduler = ProgramScheduler(program, "
        "like=pipe.scheduler).",
    )
    return part


class Files:
    """The files of one folder, each read only if it is inside and, where there is a manifest,
    listed there with the digest it has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        require(folder.is_dir(), f"{folder} is no folder; give the folder of a model.")
        self._root = cache_root(folder)
        self._listed: dict[str, dict[str, str]] | None = None
        if (folder / MANIFEST).exists():
            read_object(folder / MANIFEST)
            with refusing(f"{folder / MANIFEST} cannot be used", AGAIN):
                self._listed = dict(verify(folder, self._root)["files"])

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def path(self, name: str) -> Path:
        path = self.folder / name
        require(
            path.resolve().is_relative_to(self._root),
            f"{path} lies outside its model folder; hasten reads no such file. Put it inside.",
        )
        require(path.is_file(), f"{path} is missing; {AGAIN}")
        known = self._listed is None or name == MANIFEST or name in self._listed
        require(known, f"{path} is not listed in {MANIFEST}; {AGAIN}")
        return path

    def json(self, name: str) -> JsonObject:
        return read_object(self.path(name))

    def names(self, inner: str) -> list[str]:
        return sorted(path.name for path in (self.folder / inner).iterdir())

    def digest(self, name: str) -> str:
        return self._listed[name]["sha256"] if self._listed else sha256(self.path(name))


@contextlib.contextmanager
def refusing(what: str, mend: str) -> Iterator[None]:
    """Turn any error about somebody else's file into one line that says what to do."""
    try:
        yield
    except UserError as error:
        raise UserError(one_line(error)) from None
    except Exception as error:
        raise UserError(f"{what} ({type(error).__name__}: {one_line(error)}); {mend}") from None


def one_line(error: Exception) -> str:
    """The text of an error on one line, cut to a readable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _known_class(name: object, where: str) -> None:
    require(
        isinstance(name, str) and name in loadable(),
        f"{where}: network class {name!r} is not supported; hasten loads {', '.join(loadable())}. "
        "Any other diffusers pipeline can be sped up with pipe.scheduler = "
        "ProgramScheduler(program, like=pipe.scheduler).",
    )


def _network(
    files: Files, inner: str, device: torch.device, dtype: torch.dtype
) -> tuple[torch.nn.Module, str]:
    config = files.json(f"{inner}config.json")
    where = files.folder / inner / "config.json"
    _known_class(config.get("_class_name"), str(where))
    with refusing(f"{where} describes no network that can be built", "mend its values."):
        module = _empty(config, where)
    names = _weight_files(files, inner)
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        tensors.update(_tensors(files.path(name), device, dtype))
    source = files.folder / names[0]
    with refusing(f"{source} does not fit the network", AGAIN):
        module._fix_state_dict_keys_on_load(tensors)  # type: ignore[operator]
        _fill_(module, tensors, source, where)
        # Only buffers have to move; diffusers' own .to() warns about parts kept in float32.
        torch.nn.Module.to(module, device=device, dtype=dtype)
        module.eval().requires_grad_(False)
    return module, _digest(files, names)


def _digest(files: Files, names: list[str]) -> str:
    digests = [files.digest(name) for name in names]
    many = hashlib.sha256("".join(digests).encode()).hexdigest()
    return digests[0] if len(digests) == 1 else many


def _empty(config: JsonObject, where: Path) -> torch.nn.Module:
    """The network that ``config`` describes, its parameters without memory."""
    import accelerate

    library = diffusers()
    cls = getattr(library, config["_class_name"])
    allowed = inspect.signature(cls.__init__).parameters
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    for key, value in options.items():
        _sane(key, value, where)
        require(
            key in allowed or value is None,
            f"{where} has option {key!r}, which {cls.__name__} of diffusers "
            f"{library.__version__} does not know; update diffusers, or remove the option.",
        )
    with accelerate.init_empty_weights(include_buffers=False):
        return cls(**{key: value for key, value in options.items() if key in allowed})


def _sane(key: str, value: object, where: Path) -> None:
    """Refuse sizes that would take all memory before a weight is looked at."""
    for item in value if isinstance(value, list) else [value]:
        most = LARGEST.get(key, 1_000_000)
        fits = not isinstance(item, (int, float)) or abs(item) <= most
        require(fits, f"{where} says {key} = {item!r}; hasten takes {most} at most.")


def _weight_files(files: Files, inner: str) -> list[str]:
    names = files.names(inner)
    place = files.folder / inner
    if f"{WEIGHTS}.safetensors" in names:
        return [f"{inner}{WEIGHTS}.safetensors"]
    whole = [name for name in names if re.fullmatch(rf"{WEIGHTS}\.\w+\.safetensors", name)]
    parts = [name for name in names if re.fullmatch(rf"{WEIGHTS}\.safetensors\.index.*json", name)]
    plain = f"{WEIGHTS}.safetensors.index.json"
    listings = [plain] if plain in names else parts
    require(
        plain in names or len(whole) + len(listings) < 2,
        f"{place} holds several variants of the weights ({', '.join(sorted([*whole, *listings]))}) "
        "and none without a name; keep one of them.",
    )
    if listings:
        (listing,) = listings
        weight_map = files.json(inner + listing).get("weight_map")
        table = weight_map if isinstance(weight_map, dict) else {}
        shards = sorted({str(shard) for shard in table.values()}) if table else [""]
        for shard in shards:
            require(
                Path(shard).name == shard and shard.endswith(".safetensors"),
                f"{place / listing} names {shard!r}, no safetensors file beside it; {AGAIN}",
            )
        return [inner + shard for shard in shards]
    if whole:
        return [inner + whole[0]]
    pickled = [name for name in names if name.endswith(PICKLES)]
    require(
        not pickled,
        f"{place / (pickled or [''])[0]} is pickled, and unpickling can run code; convert it to "
        "safetensors where you trust it: load it with diffusers and call save_pretrained.",
    )
    raise UserError(f"{place / WEIGHTS}.safetensors is missing; {AGAIN}")


def _tensors(path: Path, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, each copied out of the file once, on ``device``."""
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    with (
        refusing(f"{path} is truncated or damaged", AGAIN),
        safe_open(str(path), framework="pt") as file,
    ):
        for name in file.keys():  # noqa: SIM118  (the file is no dict)
            value = file.get_tensor(name)
            wanted = dtype if value.is_floating_point() else value.dtype
            value = value.to(device=device, dtype=wanted, copy=True)
            require(
                bool(torch.isfinite(value).all()),
                f"{path}: tensor {name!r} holds values that are not finite in {wanted}; "
                f"{AGAIN[:-1]}, or load it with dtype='float32'.",
            )
            tensors[name] = value
    return tensors


def _fill_(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor], source: Path, where: Path
) -> None:
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors]
    extra = [name for name in tensors if name not in wanted]
    for words, names in (("lacks", missing), ("has too much: it holds", extra)):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        require(
            not names,
            f"{source} {words} tensor {names[:1]}{more}, so it is not of the network that {where} "
            f"describes; {AGAIN}",
        )
    for name, empty in wanted.items():
        value = tensors[name]
        require(
            value.shape == empty.shape and value.is_floating_point() == empty.is_floating_point(),
            f"{source}: tensor {name!r} is {tuple(value.shape)} {value.dtype}, but {where} "
            f"describes {tuple(empty.shape)}; {AGAIN}",
        )
    module.load_state_dict(tensors, strict=True, assign=True)
