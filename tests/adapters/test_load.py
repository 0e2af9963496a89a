"""hasten.load: every kind of source, and every way in which a folder can be wrong or hostile."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

import hasten
from conftest import dit_model
from hasten.adapters import builtin
from hasten.adapters.families import Network, read_by_split
from hasten.adapters.folder import facts, save_folder
from hasten.adapters.load import load
from hasten.adapters.scheduler import ProgramScheduler
from hasten.adapters.schedules import betas
from hasten.core.call import Call
from hasten.core.condition import Condition, PerSample
from hasten.core.denoiser import NetworkDenoiser
from hasten.core.errors import UserError
from hasten.core.files import write_manifest
from hasten.core.model import Model
from hasten.core.noise_schedule import EDM, Discrete, VPCosine, ddpm_schedule
from hasten.core.noise_schedule import schedule as as_schedule
from hasten.core.prediction import prediction as as_prediction
from hasten.core.solver import trace
from hasten.engines.eager import Eager
from hasten.solvers.ddim import DDIM
from zoo import built

torch.set_num_threads(1)  # tiny networks: threads cost more than they give
SETTINGS = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def tiny_unet(**options: Any) -> Any:
    torch.manual_seed(0)
    body: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    return diffusers.UNet2DModel(**(body | options)).eval()


def tiny_dit(**options: Any) -> Any:
    torch.manual_seed(0)
    body: dict[str, Any] = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 3,
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_embeds_ada_norm": 10,
    }
    return diffusers.DiTTransformer2DModel(**(body | options)).eval()


def stock_folder(target: Path, **options: Any) -> Path:
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    diffusers.DDPMPipeline(tiny_unet(**options), scheduler).save_pretrained(str(target))
    return target


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock_folder(tmp_path_factory.mktemp("stock") / "tiny")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def refused(source: Any, *words: str, **known: Any) -> str:
    """The one line that ``load`` refuses ``source`` with."""
    with pytest.raises(UserError) as caught:
        load(source, **known)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__cause__ is None
    for word in words:
        assert word in text, text
    return text


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps(content))


def same_net(a: Any, b: Any, shape: tuple[int, ...], condition: Any = None) -> bool:
    torch.manual_seed(1)
    x, t = torch.randn(2, *shape), torch.tensor([3.5, 700.0])
    with torch.no_grad():
        return torch.equal(a(x, t, condition), b(x, t, condition))


# --- what can be loaded -------------------------------------------------------------------------


def test_importing_load_does_not_import_diffusers():
    code = "import sys, hasten.adapters.load; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stock_folder_loads_with_its_path_and_prediction(folder: Path):
    model = load(folder)
    assert (model.name, model.shape, model.labels) == ("tiny", (1, 8, 8), None)
    assert model.prediction.part_name == "epsilon"
    assert len(model.sha256) == 64
    assert model.folder == folder
    wanted = ddpm_schedule().alphas_cumprod
    assert isinstance(model.schedule, Discrete)
    assert model.schedule.alphas_cumprod == wanted


def test_a_stock_folder_gives_the_network_that_diffusers_loads(folder: Path):
    stock = Network(diffusers.UNet2DModel.from_pretrained(str(folder / "unet"))).eval()
    assert same_net(load(folder).net, stock, (1, 8, 8))


@pytest.mark.parametrize("kind", ["positional", "fourier", "learned"])
def test_every_time_embedding_survives_loading(tmp_path: Path, kind: str):
    options = {"time_embedding_type": kind, "num_train_timesteps": 1000}
    stock_folder(tmp_path / "m", **options)
    stock = diffusers.UNet2DModel.from_pretrained(str(tmp_path / "m/unet")).eval()
    t = torch.tensor([3, 700])
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        wanted = stock(x, t).sample
        assert torch.equal(load(tmp_path / "m").net(x, t), wanted)


def test_a_network_comes_back_in_eval_mode_without_gradients(folder: Path):
    net = load(folder).net
    assert not any(part.training for part in net.modules())
    assert not any(value.requires_grad for value in net.parameters())


def test_dtype_is_honoured_and_float32_without_one(folder: Path):
    assert load(folder).dtype == torch.float32
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16
    refused(folder, "dtype", "float32", dtype="int8")


def test_attention_weights_under_their_older_names_load(folder: Path):
    file = folder / "unet" / WEIGHTS
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in load_file(file).items():
        for new, before in names.items():
            key = key.replace(f".{new}.", f".{before}.")
        old[key] = value
    wanted = load(folder).net
    assert any(".query." in key for key in old)
    save_file(old, file)
    assert same_net(load(folder).net, wanted, (1, 8, 8))


def test_a_half_precision_variant_loads_as_float32(folder: Path):
    tensors = {k: v.half() for k, v in load_file(folder / "unet" / WEIGHTS).items()}
    (folder / "unet" / WEIGHTS).unlink()
    save_file(tensors, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert load(folder).dtype == torch.float32
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.fp16.safetensors",
        folder / "unet/diffusion_pytorch_model.ema.safetensors",
    )
    refused(folder, "several variants", "diffusion_pytorch_model.ema.safetensors", "fp16")


def test_variants_of_a_network_in_parts_and_of_a_pipeline_load(tmp_path: Path, folder: Path):
    stock = diffusers.UNet2DModel.from_pretrained(str(folder / "unet"))
    shutil.rmtree(folder / "unet")
    stock.save_pretrained(str(folder / "unet"), max_shard_size="20KB", variant="fp16")
    assert not (folder / "unet" / f"{WEIGHTS}.index.json").exists()
    assert same_net(load(folder).net, Network(stock.eval()), (1, 8, 8))
    pipe = built("sd15")
    pipe.save_pretrained(tmp_path / "sd", variant="fp16", max_shard_size="300KB")
    model = load(tmp_path / "sd", prompts=["a cat"])
    labels = torch.tensor([0, 1])
    assert same_net(model.net, load(pipe, prompts=["a cat"]).net, model.shape, labels)
    assert len(model.sha256) == 64


def test_a_sharded_folder_loads(tmp_path: Path, folder: Path):
    stock = diffusers.UNet2DModel.from_pretrained(str(folder / "unet"))
    shutil.rmtree(folder / "unet")
    stock.save_pretrained(str(folder / "unet"), max_shard_size="20KB")
    assert (folder / "unet" / f"{WEIGHTS}.index.json").exists()
    model = load(folder)
    assert same_net(model.net, Network(stock.eval()), (1, 8, 8))
    assert len(model.sha256) == 64


def test_files_side_by_side_load_as_in_older_folders(folder: Path):
    for file in [*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()]:
        file.rename(folder / file.name)
    (folder / "unet").rmdir()
    (folder / "scheduler").rmdir()
    assert load(folder).shape == (1, 8, 8)


def test_a_folder_of_one_network_needs_path_and_prediction(folder: Path):
    refused(folder / "unet", "schedule=", "prediction=", "scheduler_config.json")
    model = load(folder / "unet", schedule="vp-cosine", prediction="v")
    assert model.schedule.part_name == "vp-cosine"


def test_guidance_moves_the_mean_and_leaves_the_learned_variance():
    """As DiTPipeline guides: a program that does not read the variance makes what it makes of a
    network without one, and one that reads it takes that of the condition."""

    class MeanOnly(torch.nn.Module):
        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x, t, condition=None):
            return self.net(x, t, condition)[:, : x.shape[1]]

    net = Network(tiny_dit(out_channels=6).eval())
    fields = {"schedule": as_schedule("ddpm"), "prediction": as_prediction("epsilon")}
    fields |= {"shape": (3, 8, 8), "labels": 10, "null_label": 10, "name": "dit"}
    model = Model(net=net, learned_variance=True, **fields)
    mean = Model(net=MeanOnly(net), **fields)
    options = {"seed": 0, "condition": [1, 2]}
    plan = "solver=ddim,steps=3,guidance=2"
    ours, without = (hasten.build(one, plan).sample(2, **options) for one in (model, mean))
    assert (ours - without).abs().max() < 1e-5
    drawn, other = (
        hasten.build(model, f"solver=ddpm,steps=3,guidance={scale}").sample(2, **options)
        for scale in (1, 1.0001)
    )
    assert (drawn - other).abs().max() < 0.05


def test_a_pixel_dit_with_learned_variance_knows_its_labels(tmp_path: Path):
    net = tiny_dit(out_channels=6)
    net.save_pretrained(str(tmp_path / "m/transformer"))
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(
        str(tmp_path / "m/scheduler")
    )
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (tmp_path / "m/model_index.json").write_text(json.dumps(index))
    model = load(tmp_path / "m")
    assert (model.labels, model.null_label, model.learned_variance) == (10, 10, True)
    assert model.prediction.part_name == "v"
    condition = torch.tensor([1, 10])
    assert same_net(model.net, Network(net), (3, 8, 8), condition)
    asked = Call(
        x=torch.randn(2, 3, 8, 8),
        levels=(model.schedule.at(500),) * 2,
        condition=Condition.labels_of(condition, model.null_label),
    )
    (answer,) = NetworkDenoiser(model, Eager().prepare(model, "float32"))([asked])
    assert answer.variance is not None
    assert answer.x0.shape == answer.variance.shape == (2, 3, 8, 8)


def test_labels_of_a_unet_are_its_class_embeddings(tmp_path: Path):
    model = load(stock_folder(tmp_path / "m", num_class_embeds=11))
    assert (model.labels, model.null_label) == (11, None)
    model = load(tmp_path / "m", labels=10, null_label=10)
    assert (model.labels, model.null_label) == (10, 10)
    refused(tmp_path / "m", "labels=12", "11 labels", labels=12)


def test_labels_for_a_network_without_any_are_refused(folder: Path):
    refused(folder, "labels=3", labels=3)


@pytest.mark.parametrize(
    ("scheduler", "schedule", "said"),
    [
        (diffusers.EDMEulerScheduler(sigma_max=50.0), EDM(sigma_max=50.0), "edm"),
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "flow(shift=3.0)", "flow"),
        (diffusers.DDIMScheduler(prediction_type="sample"), "ddpm", "x0"),
        (diffusers.UniPCMultistepScheduler(prediction_type="v_prediction"), "ddpm", "v"),
    ],
    ids=["edm", "flow", "x0", "v"],
)
def test_a_scheduler_says_path_and_prediction(
    folder: Path, scheduler: Any, schedule: Any, said: str
):
    shutil.rmtree(folder / "scheduler")
    scheduler.save_pretrained(str(folder / "scheduler"))
    model = load(folder)
    assert model.schedule == as_schedule(schedule)
    assert model.prediction.part_name == said


def test_a_scheduler_that_is_no_diffusion_path_is_refused(folder: Path):
    shutil.rmtree(folder / "scheduler")
    diffusers.CMStochasticIterativeScheduler().save_pretrained(str(folder / "scheduler"))
    refused(folder, "CMStochasticIterativeScheduler", "schedule=")
    assert load(folder, schedule="edm", prediction="edm").schedule.part_name == "edm"


def test_arguments_rule_over_the_files(folder: Path):
    model = load(folder, schedule="vp-linear", prediction="v", shape=(1, 4, 4))
    assert (model.schedule.part_name, model.prediction.part_name) == ("vp-linear", "v")
    assert model.shape == (1, 4, 4)


def test_a_pipeline_saved_with_a_program_still_loads(tmp_path: Path):
    program = trace(DDIM(), [ddpm_schedule().at(place) for place in (900.0, 300.0, -1.0)])
    pipe = diffusers.DDPMPipeline(tiny_unet(), ProgramScheduler(program, prediction="epsilon"))
    pipe.save_pretrained(str(tmp_path / "m"))
    refused(tmp_path / "m", "ProgramScheduler", "schedule=")
    assert load(tmp_path / "m", schedule="ddpm", prediction="epsilon").shape == (1, 8, 8)
    again = diffusers.DDPMPipeline.from_pretrained(str(tmp_path / "m"))
    assert again.scheduler.program == program


# --- live networks ------------------------------------------------------------------------------


def test_a_live_pipeline_loads_and_stays_as_it_was():
    pipe = diffusers.DDIMPipeline(tiny_unet(), diffusers.DDIMScheduler(beta_end=0.01))
    pipe.unet.train()
    model = load(pipe)
    assert model.name == "DDIMPipeline"
    assert isinstance(model.schedule, Discrete)
    assert pipe.unet.training
    assert all(value.requires_grad for value in pipe.unet.parameters())
    assert not any(value.requires_grad for value in model.net.parameters())
    mine, theirs = next(model.net.parameters()), next(pipe.unet.parameters())
    assert mine.data_ptr() == theirs.data_ptr()
    pipe.unet.eval()
    assert same_net(model.net, Network(pipe.unet), (1, 8, 8))


def test_a_latent_pipeline_is_refused_for_now():
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    pipe = diffusers.DiTPipeline(tiny_dit(), vae, diffusers.DDIMScheduler())
    refused(pipe, "DiTPipeline", "vae", "codec")


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_a_plain_module_needs_path_prediction_and_shape():
    text = refused(Plain(), "Plain", "schedule", "prediction", "shape")
    assert "load(" in text
    refused(Plain(), "shape", schedule="edm", prediction="edm")
    model = load(Plain(), schedule="edm", prediction="edm", shape=(3, 8, 8))
    assert (model.name, model.sha256, model.shape) == ("Plain", "", (3, 8, 8))
    assert model.net(torch.ones(1, 3, 8, 8), torch.ones(1)).sum() == 192


@pytest.mark.parametrize("shape", [(2, 16), (2, 3, 8, 8)])
def test_a_plain_module_may_have_latents_of_any_rank(shape: tuple[int, ...]):
    known = {"schedule": "flow", "prediction": "flow"}
    model = load(Plain(), shape=shape, **known)  # type: ignore[arg-type]
    assert model.shape == model.picture_shape == shape
    assert model.family.name == "a plain module"


def test_a_diffusers_module_knows_its_shape():
    assert load(tiny_unet(), schedule="edm", prediction="edm").shape == (1, 8, 8)
    refused(tiny_unet(), "channels", schedule="edm", prediction="edm", shape=(3, 8, 8))
    refused(tiny_unet(out_channels=3), "3 channels", schedule="edm", prediction="edm")


def test_a_module_that_is_ready_is_shared_and_not_copied():
    net = tiny_unet().requires_grad_(False)
    model = load(net, schedule="edm", prediction="edm")
    assert model.net.module is net


def test_something_else_is_refused():
    refused(7, "int", "pipeline")
    refused(tiny_unet(), "device", schedule="edm", prediction="edm", device="nowhere")
    refused(tiny_unet(), "vp-lineer", "vp-linear", schedule="vp-lineer", prediction="v")


# --- round trip ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (ddpm_schedule(), "epsilon"),
        (VPCosine(), "v"),
        (EDM(sigma_max=50.0), "edm(sigma_data=0.3)"),
        (as_schedule("flow(shift=2.0)"), "flow"),
        (Discrete.from_betas([0.1, 0.2, 0.3]), "x0"),
    ],
    ids=["ddpm", "cosine", "edm", "flow", "discrete"],
)
def test_save_folder_then_load_gives_the_same_model(tmp_path: Path, schedule: Any, said: str):
    net = Network(tiny_unet(in_channels=4, out_channels=4, num_class_embeds=11))
    model = Model(
        net=net,
        schedule=schedule,
        prediction=as_prediction(said),
        shape=(4, 8, 8),
        codec=load(tiny_unet(), schedule="edm", prediction="v", codec="identity").codec,
        labels=10,
        null_label=10,
    )
    save_folder(model, tmp_path / "m", card="a card")
    back = load(tmp_path / "m")
    assert (back.labels, back.null_label, back.shape) == (10, 10, (4, 8, 8))
    assert back.prediction == model.prediction
    ends = [back.schedule.at(place) for place in (schedule.low, schedule.noisy)]
    for got, wanted in zip(
        ends, [schedule.at(schedule.low), schedule.at(schedule.noisy)], strict=True
    ):
        assert abs(got.alpha - wanted.alpha) < 1e-9
        assert got.t == wanted.t
    assert same_net(back.net, net, (4, 8, 8), torch.tensor([3, 10]))


def test_a_codec_survives_the_round_trip(tmp_path: Path):
    module = tiny_unet(in_channels=4, out_channels=4)
    model = load(module, schedule="ddpm", prediction="v", codec="pixel-unshuffle(factor=2)")
    save_folder(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.codec == model.codec
    assert back.picture_shape == (1, 16, 16)


def test_stock_diffusers_loads_what_save_folder_wrote(tmp_path: Path):
    module = tiny_unet()
    save_folder(load(module, schedule="ddpm", prediction="epsilon"), tmp_path / "m")
    pipe = diffusers.DDPMPipeline.from_pretrained(str(tmp_path / "m"))
    pipe.set_progress_bar_config(disable=True)
    assert same_net(Network(pipe.unet.eval()), Network(module), (1, 8, 8))
    pictures = pipe(num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 8, 8, 1)


# --- names --------------------------------------------------------------------------------------


def test_a_builtin_name_is_found_among_the_assets(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(original, tmp_path / "mnist")
    monkeypatch.setattr(builtin, "ASSETS", tmp_path)
    assert load("builtin:mnist").name == "builtin:mnist"
    refused("builtin:mnits", "Did you mean 'mnist'?")
    refused("builtin:../mnist", "unknown")


def test_a_hub_id_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refused("google/ddpm-cifar10-32", "google/ddpm-cifar10-32", "network at all", "folder")


def test_a_hub_model_of_another_kind_is_refused_before_its_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, folder: Path
):
    import huggingface_hub

    asked: list[Any] = []

    def fetched(name: str, revision: str | None = None, **options: Any) -> str:
        asked.append((name, revision, options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert load("owner/tiny@v1").name == "owner/tiny@v1"
    assert [name for name, *_ in asked] == ["owner/tiny"] * 2
    assert asked[0][1] == "v1"
    assert not any("safetensors" in pattern for pattern in asked[0][2] if "features" not in pattern)
    asked.clear()
    edit(folder / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
    refused("owner/tiny", "UNet2DConditionModel", "ProgramScheduler")
    assert len(asked) == 1


def test_a_download_cache_with_links_loads_and_is_verified(tmp_path: Path, folder: Path):
    write_manifest(folder)
    cache = tmp_path / "models--owner--tiny"
    snapshot = cache / "snapshots/abc"
    (cache / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(folder.rglob("*.*"))):
        target = snapshot / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, cache / f"blobs/{number}")
        target.symlink_to(cache / f"blobs/{number}")
    assert load(snapshot).shape == (1, 8, 8)


@pytest.mark.parametrize("name", ["no such folder", "/nowhere/at/all", "", "../x/y", "a/b/c"])
def test_a_name_of_nothing_says_what_is_allowed(name: str, tmp_path: Path):
    refused(name or str(tmp_path), "model folder" if not name else "hub id")


def test_a_file_is_refused_with_a_hint(folder: Path):
    refused(folder / "model_index.json", "folder it lies in")


# --- damaged folders ----------------------------------------------------------------------------


def test_truncated_weights_name_the_file_and_the_mend(folder: Path):
    file = folder / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, WEIGHTS, "download")


def test_twenty_truncations_are_all_caught_without_a_manifest(folder: Path):
    file, source = folder / "unet" / WEIGHTS, random.Random(0)
    whole = file.read_bytes()
    for _ in range(20):
        file.write_bytes(whole[: source.randrange(len(whole))])
        refused(folder, WEIGHTS, "download")


def damageable(folder: Path) -> list[Path]:
    write_manifest(folder)
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def test_twenty_truncations_of_any_file_are_caught_by_the_manifest(folder: Path):
    files, source = damageable(folder), random.Random(1)
    for _ in range(20):
        file = source.choice(files)
        whole = file.read_bytes()
        file.write_bytes(whole[: source.randrange(len(whole))])
        refused(folder, file.name, "download")
        file.write_bytes(whole)
    assert load(folder).shape == (1, 8, 8)


def test_twenty_bit_flips_of_any_file_are_caught_by_the_manifest(folder: Path):
    files, source = damageable(folder), random.Random(2)
    for _ in range(20):
        file = source.choice([file for file in files if file.name != "manifest.json"])
        whole = bytearray(file.read_bytes())
        bit = source.randrange(8 * len(whole))
        whole[bit // 8] ^= 1 << bit % 8
        good = file.read_bytes()
        file.write_bytes(bytes(whole))
        refused(folder, file.name, "download")
        file.write_bytes(good)


def test_a_damaged_manifest_never_gives_anything_but_one_line(folder: Path):
    write_manifest(folder)
    file, source = folder / "manifest.json", random.Random(3)
    whole = file.read_bytes()
    for _ in range(20):
        changed = bytearray(whole)
        changed[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        file.write_bytes(bytes(changed))
        # A change of white space does no harm, so the folder may load.
        with contextlib.suppress(UserError):
            assert load(folder).shape == (1, 8, 8)
    for text in ("[]", "{}", '{"files": 3}', '{"files": {"model_index.json": 1}}', "[" * 100_000):
        file.write_text(text)
        refused(folder, "manifest.json", "download")


def test_a_weights_file_that_the_manifest_leaves_out_is_refused(folder: Path):
    write_manifest(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][f"unet/{WEIGHTS}"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, WEIGHTS, "not listed")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_tensor(folder: Path, value: float):
    file = folder / "unet" / WEIGHTS
    tensors = load_file(file)
    tensors["conv_in.bias"][0] = value
    save_file(tensors, file)
    refused(folder, "conv_in.bias", "not finite", WEIGHTS)


def test_weights_too_large_for_float16_are_refused_there(folder: Path):
    file = folder / "unet" / WEIGHTS
    tensors = load_file(file)
    tensors["conv_in.bias"][0] = 1e6
    save_file(tensors, file)
    assert load(folder).dtype == torch.float32
    refused(folder, "conv_in.bias", "float32", dtype="float16")


def test_missing_extra_and_misshapen_tensors_are_one_line(folder: Path):
    file = folder / "unet" / WEIGHTS
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if not k.startswith("conv_in")}, file)
    refused(folder, "lacks", "conv_in.", "1 more")
    save_file({**whole, "evil": torch.zeros(1)}, file)
    refused(folder, "evil")
    save_file({**whole, "conv_in.bias": torch.zeros(9)}, file)
    refused(folder, "conv_in.bias", "(9,)", "(8,)")
    save_file({**whole, "conv_in.bias": torch.zeros(8, dtype=torch.int32)}, file)
    refused(folder, "conv_in.bias", "int32")


def test_folders_that_lack_something_say_what(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "model_index.json", "config.json")
    shutil.rmtree(folder / "scheduler")
    refused(folder, "scheduler_config.json", "schedule=")
    assert load(folder, schedule="ddpm", prediction="epsilon").shape == (1, 8, 8)
    (folder / "unet" / WEIGHTS).unlink()
    refused(folder, WEIGHTS, "missing")
    (folder / "unet/config.json").unlink()
    refused(folder, "config.json", "missing")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "nul", "[" * 100_000, "\x00\xff"])
@pytest.mark.parametrize("name", SETTINGS)
def test_json_files_that_are_none_are_one_line(folder: Path, name: str, text: str):
    (folder / name).write_bytes(text.encode("latin-1"))
    refused(folder, name.rpartition("/")[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": [8]},
        {"block_out_channels": "many"},
        {"block_out_channels": [10**12, 16]},
        {"layers_per_block": 10**9},
        {"down_block_types": ["os", "system"]},
        {"norm_num_groups": 0},
        {"sample_size": 10**9},
        {"surprise": 3},
        {"quantization_config": {"quant_method": "evil"}},
        {"_class_name": "UNet2DConditionModel"},
        {"_class_name": ["os", "system"]},
        {"_class_name": None},
        {"class_embed_type": "timestep"},
        {"in_channels": None},
    ],
    ids=str,
)
def test_network_configs_that_make_no_sense_are_one_line(folder: Path, changes: dict[str, Any]):
    edit(folder / "unet/config.json", **changes)
    refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "sigmoid"},
        {"prediction_type": "nonsense"},
        {"prediction_type": 3},
        {"trained_betas": "abc"},
        {"trained_betas": [3, 4]},
        {"num_train_timesteps": 10**12},
        {"beta_start": "low"},
    ],
    ids=str,
)
def test_scheduler_configs_that_make_no_sense_are_one_line(folder: Path, changes: dict[str, Any]):
    edit(folder / "scheduler/scheduler_config.json", **changes)
    refused(folder)


@pytest.mark.parametrize(
    "known",
    [
        {"schedule": {"name": "discrete", "alphas_cumprod": "abc"}},
        {"schedule": {"name": "nowhere"}},
        {"prediction": "__import__('os').system('x')"},
        {"prediction": 3},
        {"shape": [1, 2]},
        {"shape": "abc"},
        {"shape": 4},
        {"labels": "ten"},
        {"null_label": 3},
        {"codec": "pixel-unshuffle(factor=__import__('os'))"},
    ],
    ids=str,
)
def test_a_hasten_file_that_makes_no_sense_is_one_line(folder: Path, known: dict[str, Any]):
    (folder / "hasten.json").write_text(json.dumps(known))
    refused(folder)


JUNK = [None, True, -1, 0, 3.5, 1e300, 10**30, "", "x", [], [1], ["a", None], {}, {"a": 1}, [[]]]


@pytest.mark.parametrize("name", [*SETTINGS, "hasten.json"])
def test_junk_in_any_setting_gives_a_model_or_one_line(folder: Path, name: str):
    save = load(folder)
    (folder / "hasten.json").write_text(json.dumps(facts(save)))
    content, source = json.loads((folder / name).read_text()), random.Random(4)
    for _ in range(40):
        changed = content | {source.choice(sorted(content)): source.choice(JUNK)}
        (folder / name).write_text(json.dumps(changed))
        try:
            load(folder)
        except UserError as error:
            assert "\n" not in str(error), changed  # noqa: PT017


# --- hostile folders ----------------------------------------------------------------------------


@pytest.fixture
def sentinel(tmp_path: Path):
    file = tmp_path / "was-run"
    yield file
    assert not file.exists(), "a model's file was run"


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"])
def test_pickled_weights_are_never_opened(folder: Path, sentinel: Path, name: str):
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (sentinel,))

    (folder / "unet" / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Evil()}, folder / "unet" / name)
    refused(folder, name, "safetensors", "pickled")


def test_code_in_the_folder_is_never_run(folder: Path, sentinel: Path):
    code = f"import pathlib\npathlib.Path({str(sentinel)!r}).touch()\nclass Evil: pass\n"
    for name in ("pipeline.py", "unet/evil.py", "unet/unet.py", "__init__.py", "conftest.py"):
        (folder / name).write_text(code)
    assert load(folder).shape == (1, 8, 8)
    edit(folder / "unet/config.json", auto_map={"AutoModel": "evil.Evil"})
    refused(folder, "auto_map")


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": ["pipeline", "Evil"]},
        {"unet": ["os", "system"]},
        {"unet": ["evil", "Evil"]},
        {"unet": ["diffusers", "Evil"]},
        {"unet": ["diffusers", "../evil"]},
        {"unet": ["diffusers", ["UNet2DModel"]]},
        {"unet": ["diffusers", "UNet2DModel", "x"]},
        {"unet": [".", "UNet2DModel"]},
        {"unet": None},
        {"scheduler": ["subprocess", "run"]},
        {"safety": ["evil", "Evil"]},
        {"text_encoder": ["transformers", "CLIPTextModel"]},
        {"vae": ["diffusers", "AutoencoderKL"]},
        {"trust_remote_code": True, "unet": ["evil", "Evil"]},
    ],
    ids=str,
)
def test_classes_that_an_index_makes_up_are_refused(
    folder: Path, sentinel: Path, changes: dict[str, Any]
):
    code = f"import pathlib\npathlib.Path({str(sentinel)!r}).touch()\nclass Evil: pass\n"
    for name in ("pipeline.py", "evil.py", "unet/evil.py"):
        (folder / name).write_text(code)
    edit(folder / "model_index.json", **changes)
    refused(folder, "model_index.json")


def test_text_to_image_folders_say_what_to_use_instead(folder: Path):
    edit(folder / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
    refused(folder, "UNet2DModel", "DiTTransformer2DModel", "ProgramScheduler")


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", 3, "x.bin", ""],
)
def test_shards_outside_the_folder_are_refused(folder: Path, shard: Any):
    file = folder / "unet" / WEIGHTS
    shutil.copy(file, folder / "secret.safetensors")
    file.unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": shard}}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused(folder, "index.json", "beside it")


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path):
    file = folder / "unet" / WEIGHTS
    file.rename(tmp_path / "secret")
    file.symlink_to(tmp_path / "secret")
    refused(folder, WEIGHTS, "outside")
    file.unlink()
    (tmp_path / "secret").rename(file)
    (folder / "scheduler/scheduler_config.json").rename(tmp_path / "secret")
    (folder / "scheduler/scheduler_config.json").symlink_to(tmp_path / "secret")
    refused(folder, "scheduler_config.json", "outside")


def test_a_manifest_cannot_point_outside(folder: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("x")
    write_manifest(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, "secret")


@pytest.mark.parametrize(("labels", "null_label"), [(4, None), (None, None)])
def test_a_model_without_a_null_label_comes_back_without_one(
    tmp_path: Path, labels: int | None, null_label: int | None
):
    model = dataclasses.replace(dit_model(), labels=labels, null_label=null_label)
    save_folder(model, tmp_path / "m", card="a card")
    back = load(tmp_path / "m")
    assert (back.labels, back.null_label) == (labels, null_label)


def test_what_a_prompted_pipeline_says_itself_is_not_given_as_well(tmp_path: Path):
    with pytest.raises(UserError, match="schedule, prediction cannot be given with prompts="):
        load(tmp_path, prompts=["a dog"], prediction="v", schedule="flow")


def test_a_split_network_refuses_what_it_does_not_read():
    text = {"encoder_hidden_states": PerSample(torch.zeros(2, 3, 4))}
    read = read_by_split(Condition(2, {"cond": text}))
    assert read is not None
    assert read.shape == (2, 3, 4)
    pooled = {**text, "pooled": PerSample(torch.zeros(2, 4))}
    with pytest.raises(UserError, match="the condition has pooled; drop the cache"):
        read_by_split(Condition(2, {"cond": pooled}))


@pytest.mark.parametrize("kind", ["nonsense", None, 3])
def test_betas_that_nobody_knows_are_refused(kind: Any):
    with pytest.raises(UserError, match="beta_schedule"):
        betas(kind, 1000, 1e-4, 0.02)
