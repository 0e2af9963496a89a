"""Text-to-image pipelines with a list of prompts, and low-rank students of them."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

import hasten
from hasten.adapters.lora import add_lora_, save_lora, with_lora
from hasten.adapters.network_student import save_network
from hasten.cli import _status
from hasten.core.artifact import digest, weights_sha256
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.core.prediction import prediction
from hasten.core.random_streams import generator
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.student import learn_student
from hasten.tuning.page import write_report
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space
from hasten.tuning.tune import tune
from zoo import ZOO, built

PROMPTS = ["a cat", "a bat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Stable Diffusion of the real classes, in the real format."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    place = tmp_path_factory.mktemp("models")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        config = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=8,
        )
        unet = diffusers.UNet2DConditionModel(
            sample_size=4,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        text = CLIPTextModel(config)
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.save_pretrained(place / "tiny")
    return place / "tiny"


@pytest.fixture(scope="module")
def model(folder):
    return hasten.load(folder, prompts=PROMPTS)


def pipeline(folder):
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_prompt_is_a_label_and_makes_what_the_pipeline_makes(folder, model):
    noise = torch.randn(2, 4, 4, 4, generator=generator(1))
    plan = Plan(solver="ddim", grid="uniform", steps=6, guidance=5.0)
    mine = hasten.build(model, plan).sample(noise=noise, condition=[0, 1])
    pipe = pipeline(folder)
    import diffusers

    pipe.scheduler = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    # Theirs begins from N(0, 1); a walk of ours from the spread of its first level, which is 1.
    theirs = pipe(
        PROMPTS, num_inference_steps=6, guidance_scale=5.0, latents=noise, output_type="pt"
    ).images
    assert model.labels == 2
    assert mine.shape == (2, 3, 8, 8)
    # Their alphas are float32, and guidance 5 magnifies what that costs at the noisiest level.
    assert float((mine - theirs).abs().max()) < 2e-3


def test_prompts_that_are_none_and_pipelines_that_are_others_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="prompts"):
        hasten.load(folder, prompts=[])
    with pytest.raises(UserError, match="prompts"):
        hasten.load(folder)
    with pytest.raises(UserError, match="takes no prompts; drop them"):
        hasten.load("builtin:mnist", prompts=["x"])
    bad = tmp_path / "bad"
    bad.mkdir()
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_code", "Net"]
    (bad / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="never runs code"):
        hasten.load(bad, prompts=["x"])


def test_a_pipeline_in_a_folder_knows_its_weights_and_its_prompts(folder, model):
    assert model.folder == folder
    assert model.prompts == tuple(PROMPTS)
    pipe = pipeline(folder)
    assert model.sha256 == weights_sha256(pipe.unet) == weights_sha256(pipe.unet.double().float())
    live = hasten.load(pipe, prompts=PROMPTS)
    assert (live.folder, digest(live), live.prompts) == (None, model.sha256, tuple(PROMPTS))
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1e-3)
    assert weights_sha256(pipe.unet) != model.sha256


def test_a_pipeline_of_the_hub_is_looked_at_before_it_is_opened(folder, tmp_path, monkeypatch):
    import diffusers

    asked = []

    def download(name: str, **options: object) -> str:
        asked.append((name, options["revision"], options["trust_remote_code"]))
        return str(where)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    where = folder
    model = hasten.load("owner/tiny@v1", prompts=PROMPTS)
    assert (model.name, model.folder) == ("owner/tiny@v1", folder)
    assert asked == [("owner/tiny", "v1", False)]
    where = tmp_path / "other"
    shutil.copytree(folder, where)
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_code", "Net"]
    (where / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="never runs code"):
        hasten.load("owner/other", prompts=PROMPTS)


SMALL = Space(
    solvers=("ddim",),
    grids=("uniform",),
    steps=(2, 3),
    engines=(("eager", "float32"),),
    noisy=(),
)


@pytest.mark.slow
def test_a_pipeline_is_tuned_in_processes_of_their_own(model, tmp_path):
    settings = TunerSettings(
        fresh_processes=0,  # each takes seconds to start
        reference_sizes=((16, 20),),
        level_trials=5,
        report_s=0.0,
        race_s=0.0,
        parallel_share=0.0,
    )
    facts = {"guidance": 3.0, "minutes": 1000, "max_loss": 0.5, "space": SMALL}
    facts["settings"] = settings
    found = tune(model, **facts, out=tmp_path)
    assert found.isolated
    assert found.best.guidance == 3.0
    assert found.best.solver == "ddim"
    assert "steps=20," in found.reference
    assert found.reference_samples == 16
    assert {finalist.report.ode_error.n for finalist in found.finalists} == {16}
    assert {trial.ode_error.n for trial in found.screened} <= {2, 16}
    write_report(found, model, tmp_path)
    shown = Image.open(tmp_path / "pictures" / "reference.png")
    assert shown.width > 8 * 8
    kept = min(tmp_path.glob("converged-*.safetensors"), key=lambda file: len(file.name))
    before = kept.read_bytes()
    other = hasten.load(model.folder, prompts=["a rat"])
    with pytest.raises(UserError, match="another model, device or setting"):
        tune(other, **facts, out=tmp_path)
    # A damaged file of converged pictures is made again, and is the same.
    kept.write_bytes(before[:100])
    write_report(found, model, tmp_path)
    assert kept.read_bytes() == before


@pytest.mark.slow
def test_commands_take_prompts(folder, tmp_path, capsys):
    words = tmp_path / "prompts.txt"
    words.write_text("a cat\n\na bat\n")

    def run(*arguments: object) -> tuple[int, str]:
        status = _status([*map(str, arguments), "--prompts", str(words)])
        return status, capsys.readouterr().out

    status, said = run("info", folder, "--json")
    assert status == 0
    assert json.loads(said)["model"]["labels"] == 2
    plan = "solver=ddim,grid=uniform,steps=2,guidance=3"
    file = tmp_path / "few.safetensors"
    asked = ("learn", "quantize", folder, "--plan", plan, "--n", 2, "--out", file)
    status, said = run(*asked)
    assert status == 0
    assert "in w8a8" in said
    quantized = f"{plan},levers=quantize(file='{file}')"
    asked = ("measure", folder, "--plan", quantized, "--n", 2, "--batch", 2)
    status, said = run(*asked, "--seconds", 0.01, "--json")
    assert status == 0
    assert json.loads(said)["evaluations"] == 2
    program = tmp_path / "program.json"
    asked = ("learn", "program", folder, "--evaluations", 2, "--guidance", 3, "--out", program)
    status, said = run(*asked, "--pairs", 16, "--batch", 4, "--steps", 2, "--quiet")
    assert status == 0
    assert f"program={program}" in said
    status = _status(["info", str(folder)])
    assert status == 2
    assert "--prompts FILE" in capsys.readouterr().err


def student_lever(folder) -> str:
    return f"student(folder={str(folder)!r})"


def student(model, out, **changes):
    fields = {
        "objective": "consistency-distillation",
        "evaluations": 2,
        "data": "teacher",
        "guidance": 5.0,
        "lora": 2,
        "pictures": 8 * 10,
        "trajectories": 16,
        "trajectory_steps": 4,
        "optimizer": {"rate": 1e-2, "batch": 8, "warmup": 0},
        "preview_every": 0,
    }
    return learn_student(model, StudentRecipe(**{**fields, **changes}), out, quiet=True)


@pytest.mark.slow
def test_a_low_rank_student_is_a_small_file_that_both_load(folder, model, tmp_path):
    """The LCM way (2310.04378, 2311.05556): consistency distillation of the guided teacher."""
    out = student(model, tmp_path / "fast")
    files = {path.name for path in out.iterdir()}
    assert files >= {"pytorch_lora_weights.safetensors", "hasten.json", "README.md"}
    size = (out / "pytorch_lora_weights.safetensors").stat().st_size
    whole = (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size < 0.5 * whole
    plan = Plan(levers=(student_lever(out),))
    assert plan.decided().solver == "consistency"
    sampler = hasten.build(model, plan)
    noise = torch.randn(2, 4, 4, 4, generator=generator(1))
    mine = sampler.sample(noise=noise, condition=[0, 1], raw=True)
    assert sampler.evaluations == 2
    plain = plan.decided().model_copy(update={"levers": ()})
    apart = mine - hasten.build(model, plain).sample(noise=noise, condition=[0, 1], raw=True)
    assert float(apart.abs().max()) > 1e-3  # it learned something
    # Stock diffusers with the same file: the network gives the same answer.
    pipe = pipeline(folder)
    pipe.load_lora_weights(out)
    words = model.net.module.table[[0, 1]]
    x, t = noise, torch.tensor([999.0, 999.0])
    with torch.no_grad():
        theirs = pipe.unet(x, t, encoder_hidden_states=words).sample
        ours = sampler.net(x, t, torch.tensor([0, 1]))
    assert float((theirs - ours).abs().max()) < 1e-5


def changed_student(model, folder, name: str) -> str:
    """A student by hand, whose weights are not its teacher's, as a lever."""
    net = copy.deepcopy(model.net).float()
    if name == "low rank":
        add_lora_(net, 3)
    with torch.no_grad():
        for key, value in net.named_parameters():
            if value.requires_grad or name == "whole":
                value.add_(0.05 * torch.randn(value.shape, generator=generator(len(key))))
    plan = {"solver": "ddim", "grid": "uniform", "steps": 2}
    facts = {"teacher": digest(model), "plans": (plan,), "prediction": prediction("x0")}
    made = dataclasses.replace(model, net=net, **facts)
    (save_lora if name == "low rank" else save_network)(made, folder, "card")
    return student_lever(folder)


@pytest.mark.parametrize("name", ["low rank", "whole"])
def test_a_student_is_sampled_and_applied_to_the_pipeline(folder, model, tmp_path, name):
    plan = Plan(levers=(changed_student(model, tmp_path / "student", name),))
    noise = torch.randn(2, 4, 4, 4, generator=generator(1))
    mine = hasten.build(model, plan).sample(noise=noise, condition=[0, 1])
    plain = plan.decided().model_copy(update={"levers": ()})
    assert (mine - hasten.build(model, plain).sample(noise=noise, condition=[0, 1])).abs().max() > 0
    pipe = pipeline(folder)
    unet, before = pipe.unet, weights_sha256(pipe.unet)
    hasten.apply(pipe, plan)
    theirs = pipe(PROMPTS, latents=noise, output_type="pt").images
    assert (mine - theirs).abs().max() < 1e-4
    hasten.undo(pipe)
    assert pipe.unet is unet
    assert weights_sha256(unet) == before


def test_a_student_of_other_weights_is_refused_on_a_pipeline(folder, model, tmp_path):
    plan = Plan(levers=(changed_student(model, tmp_path / "student", "whole"),))
    pipe = pipeline(folder)
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1.0)
    with pytest.raises(UserError, match="was learned for other weights"):
        hasten.apply(pipe, plan)
    hasten.apply(pipe, plan.model_copy(update={"other_weights": True}))


@pytest.mark.slow
def test_a_whole_network_learns_from_a_pipeline(model, tmp_path):
    out = student(model, tmp_path / "fast", lora=0)
    assert {path.name for path in out.iterdir()} >= {"network", "hasten.json", "README.md"}
    assert "hasten.apply(pipe" in (out / "README.md").read_text()
    plan = Plan(levers=(student_lever(out),))
    pictures = hasten.build(model, plan).sample(2, condition=[0, 1])
    plain = plan.decided().model_copy(update={"levers": ()})
    assert (pictures - hasten.build(model, plain).sample(2, condition=[0, 1])).abs().max() > 1e-3


def test_low_rank_weights_are_the_same_in_training_in_a_file_and_in_diffusers(
    folder, model, tmp_path
):
    net = copy.deepcopy(model.net).float()
    add_lora_(net, 3)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.requires_grad:
                value.normal_(std=0.05, generator=generator(len(name)))
    student = dataclasses.replace(model, net=net, teacher="x", plans=({"steps": 1},))
    save_lora(student, tmp_path / "low", "card")
    again = with_lora(model, tmp_path / "low")
    pipe = pipeline(folder)
    pipe.load_lora_weights(tmp_path / "low")
    x, t = torch.randn(2, 4, 4, 4, generator=generator(1)), torch.tensor([900.0, 100.0])
    condition = torch.tensor([0, 1])
    with torch.no_grad():
        trained, loaded = net(x, t, condition), again.net(x, t, condition)
        words = model.net.module.table[condition]
        theirs = pipe.unet(x, t, encoder_hidden_states=words).sample
        plain = model.net(x, t, condition)
    assert float((trained - plain).abs().max()) > 0.01
    assert float((trained - loaded).abs().max()) < 1e-5
    assert float((trained - theirs).abs().max()) < 1e-5


@pytest.mark.slow
def test_only_low_rank_weights_are_in_its_checkpoints(model, tmp_path):
    from hasten.training import checkpoint

    student(model, tmp_path / "fast", objective="consistency")
    newest = checkpoint.newest(tmp_path / "fast.run" / "consistency")
    assert newest is not None
    tensors, _ = checkpoint.load(newest)
    assert tensors["average"]
    assert all("lora" in name for name in tensors["average"])
    assert all("lora" in name for name in tensors["weights"])


def test_a_network_without_low_rank_weights_says_so(tmp_path):
    with pytest.raises(UserError, match="takes no low-rank weights"):
        student(hasten.load("builtin:mnist"), tmp_path / "s", guidance=1.0)


@pytest.mark.slow
def test_a_low_rank_student_of_another_model_is_refused(model, folder, tmp_path):
    out = student(model, tmp_path / "fast", objective="trajectory", data=None)
    other = pipeline(folder)
    with torch.no_grad():
        other.unet.conv_in.bias.add_(1.0)
    loaded = hasten.load(other, prompts=PROMPTS)
    with pytest.raises(UserError, match="other weights"):
        hasten.build(loaded, Plan(levers=(student_lever(out),)))


def painted(pipe, seed: int = 0, **options):
    body = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "pt", **options}
    draw = torch.Generator().manual_seed(seed)
    return pipe("a cat", generator=draw, **body).images


def test_a_stock_pipeline_reuses_features_as_a_plan_does(folder, model):
    pipe = pipeline(folder)
    plain = painted(pipe)
    hasten.cache_(pipe, "deep(branch=0, every=1)")
    assert torch.equal(painted(pipe), plain)
    plan = Plan(solver="ddim", grid="uniform", steps=6, guidance=5.0)
    reused = plan.with_lever("deep(branch=0)")
    noise = torch.randn(1, 4, 4, 4, generator=generator(1))
    mine = hasten.build(model, reused).sample(noise=noise, condition=0)
    import diffusers

    options = {"timestep_spacing": "trailing", "set_alpha_to_one": True}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **options)
    hasten.cache_(pipe, "deep(branch=0, every=2)")
    theirs = painted(pipe, latents=noise)
    assert float((mine - theirs).abs().max()) < 2e-3
    whole = hasten.build(model, plan)
    assert float((whole.sample(noise=noise, condition=0) - theirs).abs().max()) > 2e-3
    hasten.cache_(pipe, None)
    assert "forward" not in vars(pipe.unet)
    assert "set_timesteps" not in vars(pipe.scheduler)


def test_what_a_pipeline_keeps_never_outlives_its_run(folder):
    """After an exception, and with another size or strength, a run is that of a fresh pipeline."""
    import diffusers

    def fresh():
        pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        hasten.cache_(pipe, "deep(branch=0, every=3)")
        return pipe

    def run(pipe, size: int = 8, strength: float = 1.0, broken: bool = False):
        def stop(pipe, step, t, values):
            if broken and step == 1:
                raise KeyboardInterrupt
            return values

        picture = torch.rand(1, 3, size, size, generator=generator(size))
        body = {"image": picture, "strength": strength, "num_inference_steps": 8}
        body |= {"output_type": "pt", "generator": torch.Generator().manual_seed(3)}
        return pipe("a cat", callback_on_step_end=stop, **body).images

    pipe = fresh()
    for options in ({}, {"strength": 0.6}, {"size": 16}, {"strength": 0.75}):
        want = run(fresh(), **options)
        with pytest.raises(KeyboardInterrupt):
            run(pipe, broken=True)
        assert torch.equal(run(pipe, **options), want)


def test_reuse_that_a_pipeline_cannot_do_is_refused(folder):
    pipe = pipeline(folder)
    for cache in ("blocks(first=1)", "first-block"):
        with pytest.raises(UserError, match="no feature cache of blocks can split a UNet2DCond"):
            hasten.cache_(pipe, cache)
    with pytest.raises(UserError, match="it takes a feature cache: deep or encoder"):
        hasten.cache_(pipe, "torchao(kind='int8')")
    hasten.cache_(pipe, "deep(branch=0, mask=(1, 0, 1))")
    with pytest.raises(UserError, match="mask has 3 entries"):
        painted(pipe)
    hasten.cache_(pipe, "deep(branch=0)")
    options = {"down_intrablock_additional_residuals": [torch.zeros(1)]}
    with pytest.raises(UserError, match="of a T2I-Adapter, which no cache knows"):
        pipe.unet(torch.zeros(1, 4, 4, 4), 1, torch.zeros(1, 8, 16), **options)


@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_a_model_answers_prompts_that_it_was_not_loaded_for(folder, engine):
    plan = f"solver=dpmpp,grid=uniform,steps=3,guidance=3.0,engine={engine}"
    asked = ["a rat", "a cat"]
    other = hasten.build(hasten.load(folder, prompts=asked), plan).sample(2, condition=[0, 1])
    sampler = hasten.build(hasten.load(folder, prompts=PROMPTS), plan)
    assert (sampler.sample(2, condition=asked) - other).abs().max() < 1e-5
    assert (sampler.sample(1, condition="a rat") - other[:1]).abs().max() < 1e-4
    assert (sampler.sample(1, condition="a cat") - sampler.sample(1, condition=0)).abs().max() == 0


def test_a_pipeline_is_guided_as_its_own_call_is(folder):
    assert hasten.build(hasten.load(folder, prompts=PROMPTS)).plan.guidance == 7.5


def test_a_model_is_asked_for_as_many_prompts_as_pictures(folder):
    sampler = hasten.build(hasten.load(folder, prompts=PROMPTS), "steps=1")
    with pytest.raises(UserError, match="condition"):
        sampler.sample(3, condition=["a rat", "a bat"])
    with pytest.raises(UserError, match="condition"):
        sampler.sample(2, condition=["a rat", 1])


def test_a_prompt_that_is_too_long_is_said_with_what_is_cut(folder):
    with pytest.warns(UserWarning, match=r"has 11 tokens, and 8 are read.*from 'ghi' on"):
        model = hasten.load(folder, prompts=["a cat", "abcdefghi"])
    sampler = hasten.build(model, "steps=1")
    with pytest.warns(UserWarning, match="are read"):
        sampler.sample(1, condition="abcdefghijk")


@pytest.mark.parametrize("name", ["flux", "sdxl"])
def test_the_longest_text_encoder_says_what_is_too_long(name):
    pipe = built(name)
    long = " ".join(["cat"] * 400)
    call = {key: value for key, value in ZOO[name].call.items() if key != "prompt"}
    with pytest.warns(UserWarning, match="are read"):
        hasten.load(pipe, prompts=[long], **call)
