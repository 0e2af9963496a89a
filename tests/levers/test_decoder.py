"""Levers on the decoder of latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import hasten
from hasten.levers.decoder import Decoder
from zoo import ZOO, built

PLAN = hasten.Plan(solver="ddim", grid="uniform", steps=2)
EAGER = "decoder(engine='eager', dtype='bfloat16')"  # another dtype is seen in the pictures


def with_levers(*texts: str) -> hasten.Plan:
    return PLAN.model_copy(update={"levers": texts})


def call_of(name: str) -> dict[str, Any]:
    return {key: value for key, value in ZOO[name].call.items() if key != "prompt"}


def loaded(name: str, **changes: Any) -> hasten.Model:
    return hasten.load(built(name), prompts=["a cat", "a dog"], **{**call_of(name), **changes})


def new_tiny(folder: Path, channels: int = 4) -> str:
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(  # pyright: ignore[reportPrivateImportUsage]
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=channels,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return new_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("name", ["sd15", pytest.param("wan", marks=pytest.mark.slow)])
def test_another_engine_draws_the_same_pictures(name):
    pytest.importorskip("openvino")
    model = loaded(name)
    plain = hasten.build(model, PLAN).sample(2, seed=1)
    again = hasten.build(model, with_levers("decoder")).sample(2, seed=1)
    assert 0 < (again - plain).abs().max() < 1e-5


def test_the_latents_and_the_network_stay_what_they_are():
    model = loaded("sd15")
    plain, changed = (hasten.build(model, plan) for plan in (PLAN, with_levers(EAGER)))
    assert plain.sample(2, raw=True).equal(changed.sample(2, raw=True))
    assert not plain.sample(2).equal(changed.sample(2))
    assert plain.resolved.key == changed.resolved.key


def test_a_small_decoder_stands_in_for_the_whole_one(tiny):
    """Its weights are random: the pictures have to be what diffusers makes of the same latents."""
    model = loaded("sd15")
    sampler = hasten.build(model, with_levers(f"tiny-decoder(source={tiny!r})"))
    small = diffusers.AutoencoderTiny.from_pretrained(tiny)  # pyright: ignore
    with torch.no_grad():
        wanted = small.decode(sampler.sample(2, raw=True)).sample / 2 + 0.5
    assert (sampler.sample(2) - wanted.clamp(0, 1)).abs().max() < 1e-5


def test_levers_on_the_decoder_go_together(tiny):
    pytest.importorskip("openvino")
    model, small = loaded("sd15"), f"tiny-decoder(source={tiny!r})"
    one, both = (
        hasten.build(model, with_levers(*texts)) for texts in ((small,), ("decoder", small))
    )
    assert 0 < (one.sample(2) - both.sample(2)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["sd15", "sdxl", "wan"])
def test_a_pipeline_decodes_by_it_and_is_as_it_was_after_it(name):
    pipe = built(name)
    vae = pipe.vae

    def pictures() -> Any:
        generator = torch.Generator().manual_seed(0)
        out = pipe(**ZOO[name].call, generator=generator, output_type="np")
        return np.asarray(out.frames if hasattr(out, "frames") else out.images)

    before, seen = pictures(), set(vars(vae))
    hasten.apply(pipe, PLAN)
    plain = pictures()
    hasten.undo(pipe)
    hasten.apply(pipe, with_levers(EAGER))
    changed = pictures()
    with pytest.raises(hasten.UserError, match=r"call hasten\.undo\(pipe\) before"):
        hasten.load(pipe, prompts=["a cat"], **call_of(name))
    hasten.undo(pipe)
    assert 0 < abs(changed - plain).max() < 0.1
    assert pipe.vae is vae
    assert set(vars(vae)) == seen
    assert np.array_equal(pictures(), before)


def test_the_tuner_tries_it_where_latents_are_decoded(tiny_model):
    pytest.importorskip("openvino")
    assert Decoder.candidates(loaded("sd15")) == [Decoder(engine="openvino")]
    assert Decoder.candidates(tiny_model()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tiny-decoder", "needs source, the folder or hub id of a tiny autoencoder"),
        ("tiny-decoder(source='/nowhere')", "source: /nowhere is no AutoencoderTiny"),
        ("decoder(engine='openvin')", "Did you mean 'openvino'"),
        ("decoder(engine='onnxruntime', dtype='bfloat16')", "computes in float32"),
    ],
)
def test_what_cannot_be_used_is_refused(text, words):
    with pytest.raises(hasten.UserError, match=words):
        hasten.build(loaded("sd15"), with_levers(text))


def test_other_latents_and_models_without_any_are_refused(tiny_model, tmp_path):
    other = f"tiny-decoder(source={new_tiny(tmp_path, channels=3)!r})"
    with pytest.raises(hasten.UserError, match="latents of 3 channels, and this model's have 4"):
        hasten.build(loaded("sd15"), with_levers(other))
    with pytest.raises(hasten.UserError, match="model 'tiny' has none; drop decoder"):
        hasten.build(tiny_model(), with_levers("decoder"))
    pipe = built("ddpm")
    with pytest.raises(hasten.UserError, match="DDPMPipeline has no decoder of latents"):
        hasten.apply(pipe, with_levers("decoder"))
    hasten.apply(pipe, PLAN)  # nothing was left behind
    hasten.undo(pipe)
