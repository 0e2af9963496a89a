"""Motion layers trained into a text-to-image model: what diffusers loads, and exact resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_text_to_image import autoencoder, text_to_image

import hasten
from hasten.adapters.text_to_video import image_pipeline, new_text_to_video, tokenizer_for
from hasten.adapters.vae_codec import VaeCodec
from hasten.data.drawn import MovingShapes
from hasten.training import checkpoint
from hasten.training.text_to_video import TextToVideoRecipe
from hasten.training.train import train

MOTION = {
    "block_out_channels": (8, 16),
    "motion_layers_per_block": 1,
    "motion_num_attention_heads": 2,
    "motion_norm_num_groups": 4,
    "motion_max_seq_length": 8,
}
LONG = "a large red circle moves left next to a small blue star that shrinks and a green ring grows"


def text_to_video(folder: Path, **changes: Any) -> TextToVideoRecipe:
    fields = {
        "objective": "text-to-video",
        "name": "tiny-clips",
        "begin": str(folder),
        "data": {"source": "moving-shapes(count=12, frames=4)", "shape": (3, 64, 64)},
        "motion": MOTION,
        "optimizer": {"rate": 1e-3, "batch": 4, "warmup": 0},
        "pictures": 16,
        "ema": 0.9,
        "checkpoint_every": 4,
        "preview_every": 0,
    }
    return TextToVideoRecipe(**{**fields, **changes})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    vae = train(autoencoder(), tmp_path_factory.mktemp("vae"), quiet=True)
    return train(text_to_image(vae), tmp_path_factory.mktemp("shapes"), quiet=True)


@pytest.fixture(scope="module")
def clips(pictures, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    recipe = text_to_video(pictures, preview_every=16, preview=("a red star moves left",))
    return train(recipe, out, quiet=True)


def test_it_begins_with_the_pictures_of_its_model(pictures):
    begin = image_pipeline(str(pictures), torch.device("cpu"))
    text = begin.family.text(begin.net)
    tokenizer = tokenizer_for(begin, [LONG])
    assert len(tokenizer(LONG).input_ids) <= text.length < len(text.tokenizer(LONG).input_ids)
    assert tokenizer_for(begin, ["a red star"]) is text.tokenizer
    net = new_text_to_video(begin, MOTION, tokenizer).eval()
    x, t = torch.randn(2, 4, 3, 16, 16), torch.tensor([900.0, 100.0])
    prompts = ["a large red star", "a blue ring"]
    tokens = tokenizer(prompts, padding="max_length", max_length=32, return_tensors="pt").input_ids
    with torch.no_grad():
        whole = net(x, t, tokens)
        condition = text.condition(prompts)
        each = [begin.net(x[:, :, frame], t, condition) for frame in range(3)]
    assert (whole - torch.stack(each, dim=2)).abs().max() < 1e-4


def test_clips_go_through_the_codec_frame_by_frame(pictures):
    codec = image_pipeline(str(pictures), torch.device("cpu")).codec
    assert isinstance(codec, VaeCodec)
    drawn = MovingShapes(count=2, frames=3)[np.arange(2)].float() / 255
    latents = codec.encode(drawn)
    assert latents.shape == (2, 4, 3, 16, 16)
    assert torch.equal(latents[:, :, 1], codec.encode(drawn[:, 1]))
    assert codec.decoded_shape((4, 3, 16, 16)) == (3, 3, 64, 64)
    assert codec.encoded_shape((3, 3, 64, 64)) == (4, 3, 16, 16)
    shown = codec.decode(latents)
    assert shown.shape == drawn.shape
    assert (shown[:, 1] - codec.decode(latents[:, :, 1])).abs().max() < 1e-5


def test_a_model_of_clips_is_a_pipeline_that_diffusers_and_hasten_load(clips):
    pipe = diffusers.AnimateDiffPipeline.from_pretrained(clips)
    pipe.set_progress_bar_config(disable=True)
    stored = load_file(clips / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    made = pipe("a red star moves left", num_frames=4, num_inference_steps=2, height=64, width=64)
    assert len(made.frames[0]) == 4
    model = hasten.load(clips)
    assert model.picture_shape == (4, 3, 64, 64)
    assert hasten.build(model).plan.guidance == 4.0
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=2, guidance=2.0)
    shown = hasten.build(model, plan).sample(1, condition=0)
    assert shown.shape == (1, 4, 3, 64, 64)
    lines = (clips / "prompts.txt").read_text(encoding="utf-8").splitlines()
    assert model.prompts == tuple(lines)
    assert (clips.parent / "previews").is_dir()


def test_motion_is_learned_in_all_weights(clips, pictures):
    begun = diffusers.StableDiffusionPipeline.from_pretrained(pictures)
    pipe = diffusers.AnimateDiffPipeline.from_pretrained(clips)
    before, after = begun.unet.state_dict(), pipe.unet.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before)
    motion = [name for name in after if "motion_modules" in name and "proj_out" in name]
    assert motion
    assert all(after[name].abs().max() > 0 for name in motion)  # zero at first


def test_a_run_that_was_cut_ends_as_a_whole_one(pictures, tmp_path, monkeypatch):
    whole = train(text_to_video(pictures), tmp_path / "whole", quiet=True)
    train(text_to_video(pictures), tmp_path / "cut", quiet=True)
    newest = checkpoint.newest(tmp_path / "cut" / "checkpoints")
    shutil.rmtree(newest)
    again = train(text_to_video(pictures), tmp_path / "cut", quiet=True)
    one, other = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (whole, again)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begin": "builtin:mnist"}, "begin"),
        ({"data": {"source": "shapes(count=4)", "shape": (3, 64, 64)}}, "which has no clips"),
        ({"motion": {"block_out_channels": 3}}, "recipe field 'motion'"),
        (
            {"data": {"source": "moving-shapes(count=4)", "shape": (3, 32, 32)}},
            r"data.shape' is \(3, 32, 32\)",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(pictures, tmp_path, changes, message):
    with pytest.raises(hasten.UserError, match=message) as refusal:
        train(text_to_video(pictures, **changes), tmp_path / "out", quiet=True)
    assert "\n" not in str(refusal.value)
