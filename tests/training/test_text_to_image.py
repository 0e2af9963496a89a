"""Autoencoders and text-to-image models from recipes: what diffusers loads, and exact resume."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hasten
from hasten.adapters.text_to_image import autoencoder_codec
from hasten.adapters.word_tokenizer import new_tokenizer, token_ids
from hasten.data.drawn import Shapes
from hasten.data.shapes.captions import words
from hasten.learning.students.recipe import StudentRecipe
from hasten.learning.students.student import learn_student
from hasten.measuring.compare import compared
from hasten.measuring.prompts import checked_prompts
from hasten.training import checkpoint
from hasten.training.autoencoder import AutoencoderRecipe
from hasten.training.labels import drop_labels
from hasten.training.text_to_image import TextToImageRecipe
from hasten.training.tiny_autoencoder import TinyAutoencoderRecipe
from hasten.training.train import train

DATA = {"source": "shapes(count=24)", "shape": (3, 64, 64)}
OPTIMIZER = {"rate": 1e-3, "batch": 8, "warmup": 0}
SHARED: dict[str, Any] = {"data": DATA, "optimizer": OPTIMIZER, "ema": 0.9, "preview_every": 0}
BLOCKS = {"block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}


def autoencoder(**changes: Any) -> AutoencoderRecipe:
    fields = {
        "objective": "autoencoder",
        "name": "tiny-autoencoder",
        "network": {
            **BLOCKS,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "latent_channels": 4,
        },
        "pictures": 16,
        "checkpoint_every": 8,
        **SHARED,
    }
    return AutoencoderRecipe(**{**fields, **changes})


def text_to_image(folder: Path, **changes: Any) -> TextToImageRecipe:
    fields = {
        "objective": "text-to-image",
        "name": "tiny-shapes",
        "autoencoder": str(folder),
        "network": {
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 2,
        },
        "text": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "length": 32,
        "prediction": "v",
        "pictures": 32,
        "checkpoint_every": 8,
        **SHARED,
    }
    return TextToImageRecipe(**{**fields, **changes})


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    return train(autoencoder(), tmp_path_factory.mktemp("vae"), quiet=True)


@pytest.fixture(scope="module")
def model(vae, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shapes")
    return train(text_to_image(vae, preview_every=32, preview=("a star",)), out, quiet=True)


def test_an_autoencoder_is_one_of_diffusers_whose_latents_have_unit_variance(vae):
    loaded = diffusers.AutoencoderKL.from_pretrained(vae)
    pictures = Shapes(count=24)[np.arange(24)].float() / 127.5 - 1
    with torch.no_grad():
        latents = loaded.encode(pictures).latent_dist.mode() * loaded.config.scaling_factor
    assert latents.shape == (24, 4, 16, 16)
    assert float(latents.std()) == pytest.approx(1.0, abs=1e-3)
    assert "pictures seen: 16" in (vae / "README.md").read_text()


def test_without_prompts_a_model_is_asked_for_those_that_lie_beside_it(model):
    lines = (model / "prompts.txt").read_text(encoding="utf-8").splitlines()
    loaded = hasten.load(model)
    assert loaded.prompts == tuple(lines)
    assert len(lines) > 8
    assert hasten.build(loaded).plan.guidance == 4.0
    assert checked_prompts(loaded, 1) == [lines[0]]
    report = hasten.measure(loaded, "solver=ddim,steps=1", n=0, pictures=8, batch=4, seconds=0.0)
    assert report.prompt_accuracy.n == 8
    plans = [hasten.Plan(solver="ddim", steps=1)]
    (again,) = compared(loaded, plans, n=0, pictures=8, batch=4, seconds=0.0)
    assert again.prompt_accuracy == report.prompt_accuracy


def test_a_request_that_is_timed_encodes_its_prompt(model, monkeypatch):
    loaded, asked = hasten.load(model, prompts=["a star", "a ring"]), []
    text = loaded.family.text(loaded.net)
    assert text is not None
    condition = type(text).condition
    monkeypatch.setattr(
        type(text),
        "condition",
        lambda self, prompts: asked.append(prompts) or condition(self, prompts),
    )
    hasten.measure(loaded, "solver=ddim,steps=1", n=0, pictures=0, batch=3, seconds=0.0)
    assert {tuple(prompts) for prompts in asked} == {("a star",), ("a star",) * 3}


def test_a_model_is_a_pipeline_that_diffusers_and_hasten_load(model):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    stored = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    latents = torch.randn(1, 4, 16, 16)
    prompt, scale = "a large red circle", 4.0
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=3, guidance=scale)
    loaded = hasten.load(model, prompts=[prompt])
    assert loaded.picture_shape == (3, 64, 64)
    mine = hasten.build(loaded, plan).sample(noise=latents, condition=0)
    program = hasten.trace(plan, pipe.scheduler)
    pipe.scheduler = hasten.ProgramScheduler(program, like=pipe.scheduler)
    options = {"num_inference_steps": 3, "guidance_scale": scale, "output_type": "pt"}
    theirs = pipe(prompt, latents=latents, **options).images
    assert (mine - theirs).abs().max() < 1e-3
    assert (model.parent / "previews").is_dir()


def test_a_student_learns_from_pictures_with_captions(model, tmp_path):
    teacher, out = hasten.load(model, prompts=["a star"]), tmp_path / "student"
    recipe = StudentRecipe(
        objective="consistency-distillation(levels=4)",
        data="shapes(count=24)",
        guidance=3.0,
        pictures=16,
        optimizer={"rate": 1e-3, "batch": 8, "warmup": 0},
        preview_every=0,
    )
    seen: list[torch.Tensor] = []
    hook = teacher.net.module.module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    learn_student(teacher, recipe, out, quiet=True)
    hook.remove()
    captions = sorted(set(Shapes(count=24).captions(np.arange(24))))
    words = hasten.load(model, prompts=captions).net.module.table[:-1]
    apart = [(words - row).abs().amax((1, 2)) for part in seen for row in part]
    read = [int(each.argmin()) for each in apart if each.min() < 1e-5]
    assert len(read) >= 64  # 16 pictures, each seen by the student, its average and the teacher
    assert len(set(read)) >= 8
    assert teacher.prompts == ("a star",)
    plan = hasten.Plan(levers=(f"student(folder={str(out)!r})",))
    pictures = hasten.build(teacher, plan).sample(2, condition=0)
    assert pictures.shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip": True}, "flip: captions say what is on the left"),
        ({"data": "shapes(count=0)"}, "count"),
    ],
)
def test_captioned_data_that_cannot_teach_are_refused(model, tmp_path, changes, message):
    fields = {"data": "shapes(count=24)", "pictures": 16, **changes}
    with pytest.raises(hasten.UserError, match=message):
        learn_student(hasten.load(model), StudentRecipe(**fields), tmp_path / "student", quiet=True)


def test_prompts_are_encoded_in_parts_and_copies_share_them(model):
    prompts = [f"a {colour} star" for colour in ("red", "blue", "green")] * 100
    many = hasten.load(model, prompts=prompts).net.module
    few = hasten.load(model, prompts=prompts[:3]).net.module
    assert (many.table[:3] - few.table[:3]).abs().max() < 1e-5
    assert (many.table[297:300] - few.table[:3]).abs().max() < 1e-5
    copied = copy.deepcopy(many)
    assert copied.table.data_ptr() == many.table.data_ptr()
    assert copied.module.conv_in.weight.data_ptr() != many.module.conv_in.weight.data_ptr()


def test_the_text_and_the_dropped_caption_are_learned_from(model):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    embedded = pipe.encode_prompt(["a red circle", "a blue circle", ""], "cpu", 1, False)[0]
    assert (embedded[0] - embedded[1]).abs().max() > 1e-3
    assert (embedded[0] - embedded[2]).abs().max() > 1e-3


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(vae, tmp_path):
    whole = train(text_to_image(vae), tmp_path / "whole", quiet=True)
    train(text_to_image(vae), tmp_path / "cut", quiet=True)
    newest = checkpoint.newest(tmp_path / "cut" / "checkpoints")
    assert newest is not None
    (newest / "facts.json").unlink()  # as if it had been killed while it wrote the last
    again = train(text_to_image(vae), tmp_path / "cut", quiet=True)
    for part in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (whole / part).read_bytes() == (again / part).read_bytes()


def test_every_word_of_the_captions_is_one_token():
    known = words()
    tokenizer = new_tokenizer(known, 32)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in known)
    first, second = token_ids(tokenizer, ["a red circle, and a blue star", "Zebra"])
    assert first.tolist()[:9] == [
        tokenizer.bos_token_id,
        *tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in ("a", "red", "circle")]),
        *tokenizer.convert_tokens_to_ids([",</w>", "and</w>", "a</w>", "blue</w>", "star</w>"]),
    ]
    assert len(first) == len(second) == 32
    assert new_tokenizer(reversed(known), 32).get_vocab() == tokenizer.get_vocab()
    assert tokenizer.unk_token_id not in second.tolist()[1:6]


def test_captions_are_dropped_whole():
    tokens, null = torch.arange(4000).view(1000, 4), torch.tensor([-1, -2, -3, -4])
    out = drop_labels(tokens, null, 0.3, torch.Generator().manual_seed(0))
    dropped = (out == null).all(1)
    assert 240 < int(dropped.sum()) < 360
    assert torch.equal(out[~dropped], tokens[~dropped])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"autoencoder": "nowhere"}, "autoencoder: nowhere is no folder"),
        ({"text": {"hidden_size": 15, "num_attention_heads": 2}}, "recipe field 'text_encoder'"),
        ({"network": {"block_out_channels": (8, 16), "what": 1}}, "recipe field 'network'"),
        ({"data": {**DATA, "shape": (3, 32, 32)}}, r"data\.shape.*draws \(3, 64, 64\)"),
        ({"data": {**DATA, "source": "shapes(cuont=3)"}}, "count"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(vae, tmp_path, changes, why):
    with pytest.raises(hasten.UserError, match=why) as refusal:
        train(text_to_image(vae, **changes), tmp_path / "out", quiet=True)
    assert "\n" not in str(refusal.value)


def test_a_small_autoencoder_learns_what_the_whole_one_does(vae, tmp_path):
    made = TinyAutoencoderRecipe(
        objective="tiny-autoencoder",
        name="tiny",
        autoencoder=str(vae),
        network={
            "latent_channels": 4,
            "encoder_block_out_channels": [8, 8, 8],
            "decoder_block_out_channels": [8, 8, 8],
            "num_encoder_blocks": [1, 1, 1],
            "num_decoder_blocks": [1, 1, 1],
        },
        pictures=160,
        checkpoint_every=80,
        **SHARED,
    )
    off = {}
    for count in (8, 160):
        out = tmp_path / str(count)
        train(made.model_copy(update={"pictures": count}), out, quiet=True)
        small = diffusers.AutoencoderTiny.from_pretrained(out / "model").eval()  # pyright: ignore
        codec = autoencoder_codec(vae, torch.device("cpu"))
        pictures = torch.rand(4, 3, 64, 64)
        with torch.no_grad():
            latents = codec.encode(pictures)
            decoded = small.decode(latents).sample / 2 + 0.5
            encoded = small.encode(pictures * 2 - 1).latents
            off[count] = (
                float((decoded - codec.decode(latents)).square().mean()),
                float((encoded - latents).square().mean()),
            )
    assert all(late < early for late, early in zip(off[160], off[8], strict=True))
    assert "pictures seen: 160," in (tmp_path / "160" / "model" / "README.md").read_text()
