"""The public names, and what they take."""

from __future__ import annotations

import io
import pydoc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hasten
from hasten.core.errors import UserError
from hasten.core.plan import as_plan

TEXT = "solver=unipc(order=2),grid=uniform,steps=3"


def test_every_public_name_is_listed_and_there():
    assert {"load", "build", "tune", "measure", "export", "Plan", "media"} <= set(dir(hasten))
    for name in dir(hasten):
        assert getattr(hasten, name) is not None


def test_listing_the_names_imports_no_torch():
    code = "import sys, hasten; dir(hasten); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        hasten.laod  # noqa: B018


def test_help_shows_what_there_is():
    said = io.StringIO()
    pydoc.Helper(output=said).help(hasten)
    for words in ('hasten.load("builtin:mnist")', "build(", "class Plan", "tune("):
        assert words in said.getvalue()


def test_types_are_shipped():
    assert (Path(hasten.__file__).parent / "py.typed").is_file()


def test_a_model_is_one_line(tiny_model):
    text = repr(tiny_model(labels=3))
    assert "\n" not in text
    assert len(text) < 200
    assert "'tiny': UNet2DModel" in text
    assert "3 labels" in text


@pytest.mark.parametrize("kind", ["text", "dict", "file", "str of a file"])
def test_a_plan_is_a_text_a_dict_or_a_file(tiny_model, tmp_path, kind):
    plan = hasten.Plan(solver="ddim", grid="uniform", steps=10)
    file = tmp_path / "plan.json"
    plan.write(file)
    fields = {"solver": "ddim", "grid": "uniform", "steps": 10}
    given = {"text": str(plan), "dict": fields, "file": file, "str of a file": str(file)}[kind]
    model = tiny_model()
    assert as_plan(given) == plan
    assert hasten.build(model, given).plan == plan
    assert hasten.trace(given, model.schedule) == hasten.trace(plan, model.schedule)
    latents = hasten.build(model, plan).sample(1, seed=3, raw=True)
    assert hasten.invert(model, given, latents, raw=True).noise.shape == (1, 1, 8, 8)
    report = hasten.measure(model, given, n=0, pictures=0, batch=1, seconds=0)
    assert report.key == plan.key


def test_without_a_plan_the_models_own_fields_rule():
    assert as_plan(None, {"steps": 7}).steps == 7
    assert as_plan(None) == hasten.Plan()


@pytest.mark.parametrize("given", [3, ["steps=3"], b"steps=3"], ids=str)
def test_what_is_no_plan_is_refused_in_one_line(tiny_model, given):
    with pytest.raises(UserError, match=r"plan is a \w+; give a hasten.Plan, the text") as caught:
        hasten.build(tiny_model(), given)
    assert "\n" not in str(caught.value)


def test_a_sampler_is_called(tiny_model):
    sampler = hasten.build(tiny_model(labels=3), TEXT)
    assert torch.equal(sampler(4, seed=2, condition=1), sampler.sample(4, seed=2, condition=1))
    assert torch.equal(sampler(np.int64(2)), sampler(2))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("callback", "watch="),
        ("generator", "seed="),
        ("latents", "noise="),
        ("num_inference_steps", "steps="),
        ("guidance_scale", "guidance="),
        ("seeed", "Did you mean 'seed'?"),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "sample", "pil"])
def test_an_argument_of_another_library_says_what_to_use(tiny_model, argument, words, method):
    sampler = hasten.build(tiny_model(), TEXT)
    with pytest.raises(UserError) as caught:
        getattr(sampler, method)(1, **{argument: None})
    assert f"no argument {argument!r}" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["__call__", "sample", "pil"])
def test_pictures_in_place_of_their_number_are_refused_in_one_line(tiny_model, method):
    sampler = hasten.build(tiny_model(), TEXT)
    with pytest.raises(UserError, match=r"[tT]ensor") as caught:
        getattr(sampler, method)(torch.zeros(4, 1, 8, 8))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_a_name_where_classes_have_none_is_refused_plainly(tiny_model):
    with pytest.raises(
        UserError, match="condition is 'cat', but the classes of this model have no"
    ):
        hasten.build(tiny_model(labels=3), TEXT).sample(4, condition="cat")
