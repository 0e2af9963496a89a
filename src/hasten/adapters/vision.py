"""Features from a vision model that transformers knows: DINOv2, CLIP, SigLIP, ViT and others.

Only JSON and safetensors are read, and no code that a model brings is ever run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

from hasten.adapters.folder import AGAIN, one_line, read_object, refusing
from hasten.adapters.load import HUB_ID
from hasten.core.errors import UserError, require
from hasten.core.features import in_batches

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, where nothing is said
SIZE = 224
SETTINGS = ["config.json", "preprocessor_config.json"]
WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
CODE = ("auto_map", "quantization_config")
Numbers = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionFeatures:
    """The pooled answer of a vision model, or its first token, for whole pictures.

    Pictures are resized to ``size`` pixels a side (bicubic, antialiased; nothing is cut off, and
    others than squares are squeezed), and grey ones get three equal channels. For DINOv2 this is
    the class token, as in Stein et al. (2306.04675).
    """

    net: torch.nn.Module
    name: str
    size: int
    mean: Numbers = MEAN
    std: Numbers = STD
    pooled: bool = True

    def __call__(self, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """(n, d), float64, for pictures (n, c, h, w) in [0, 1], c 1 or 3."""
        channels = pictures.shape[1]
        require(channels in (1, 3), f"pictures have {channels} channels; {self.name} takes 1 or 3.")
        device = next(self.net.parameters()).device
        return in_batches(self._features, pictures, batch, device)

    def _features(self, pictures: torch.Tensor) -> torch.Tensor:
        x = pictures.expand(-1, 3, -1, -1)
        if x.shape[2:] != (self.size, self.size):
            size = (self.size, self.size)
            x = torch.nn.functional.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        answer = self.net(pixel_values=(x - mean) / std)
        pooled = answer.get("pooler_output") if self.pooled else None
        return answer.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def load_vision(source: str, device: torch.device | str = "cpu") -> VisionFeatures:
    """The features of the vision model in the folder or hub id ``source``, on ``device``.

    Raises:
        UserError: no such model; pickled weights; a model with code.
    """
    import transformers

    folder = _folder(source)
    place = folder / "config.json"
    require(place.is_file(), f"features {source!r}: {place} is missing; {AGAIN}")
    _require_plain(read_object(place), place)
    with refusing(f"features {source!r} are no vision model that transformers loads", AGAIN):
        whole = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        config = getattr(whole, "vision_config", whole)
        net, pooled = _net(transformers, folder, config)
    require(
        hasattr(config, "patch_size") or hasattr(config, "num_channels"),
        f"features {source!r}: a {config.model_type} model does not look at pictures; name a "
        "vision model such as DINOv2.",
    )
    size, mean, std = _pictures(folder, config)
    label = folder.resolve().name if Path(source).is_dir() else source
    name = f"{config.model_type} {label}, {size} px"
    net = net.eval().requires_grad_(False).to(device)
    features = VisionFeatures(net=net, name=name, size=size, mean=mean, std=std, pooled=pooled)
    with refusing(f"features {source!r} cannot be used at {size} pixels", "mend its settings."):
        features(torch.zeros(1, 3, size, size))
    return features


def _net(transformers: ModuleType, folder: Path, config: object) -> tuple[torch.nn.Module, bool]:
    """The model, and whether the weights of its pooling, if it has any, were there."""
    net, loading = transformers.AutoModel.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = set(loading["missing_keys"])
    lost = sorted(name for name in missing if "pooler" not in name)
    require(not lost, f"its weights lack {lost[:1]}")
    return net, not missing


def _require_plain(config: Mapping[str, object], place: Path) -> None:
    inner = config.get("vision_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in CODE:
            require(
                not part.get(key),
                f"{place} has {key!r}, and hasten runs no code that a model names; give a plain "
                "model of transformers.",
            )
        kinds = [str(part.get(key, "")) for key in ("attn_implementation", "_attn_implementation")]
        require(
            not any("/" in kind for kind in kinds),
            f"{place} names attention code of its own, which hasten does not run; remove it.",
        )


def _folder(source: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    require(
        not folder.exists() and HUB_ID.fullmatch(source) is not None,
        f"features {source!r} is no folder here and no hub id (owner/name); name a vision model's "
        "folder or id, or 'random'.",
    )
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        place = Path(snapshot_download(name, revision=revision or None, allow_patterns=SETTINGS))
        _require_plain(read_object(place / "config.json"), place / "config.json")
        snapshot_download(name, revision=place.name, allow_patterns=[*SETTINGS, *WEIGHTS])
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"features {source!r} is no folder here and could not be downloaded from the hub "
            f"({type(error).__name__}: {one_line(error)[:160]}); check the name and the network, "
            "or give a folder."
        ) from None
    return place


def _pictures(folder: Path, config: object) -> tuple[int, Numbers, Numbers]:
    """Pixels a side, mean and standard deviation of the channels, as the model was trained."""
    place = folder / "preprocessor_config.json"
    said = read_object(place) if place.is_file() else {}
    has_crop = said.get("do_center_crop", True) and said.get("crop_size") is not None
    known = getattr(config, "image_size", None)
    default = min(known, SIZE) if isinstance(known, int) else SIZE
    size = _side(said["crop_size"] if has_crop else said.get("size"), default)
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise UserError(f"{place} says pictures have {size!r} pixels a side; it takes 1 to 4096.")
    plain = not said.get("do_normalize", True)
    mean = (0.0, 0.0, 0.0) if plain else _numbers(said.get("image_mean", MEAN), place)
    std = (1.0, 1.0, 1.0) if plain else _numbers(said.get("image_std", STD), place)
    require(min(std) > 0, f"{place} has image_std {list(std)}; it takes positive numbers.")
    return size, mean, std


def _side(said: object, default: int) -> object:
    if isinstance(said, dict):
        keys = ("height", "width", "shortest_edge")
        said = next((said[key] for key in keys if said.get(key) is not None), None)
    return default if said is None else said


def _numbers(said: object, place: Path) -> Numbers:
    values = [said] * 3 if isinstance(said, (int, float)) else said
    if (
        not isinstance(values, (list, tuple))
        or len(values) != 3
        or not all(isinstance(item, (int, float)) and math.isfinite(item) for item in values)
    ):
        raise UserError(f"{place} has {said!r} where three finite numbers belong; {AGAIN}")
    return float(values[0]), float(values[1]), float(values[2])
