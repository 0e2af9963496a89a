"""What the schedulers of diffusers say of a model, read or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import hasten
from hasten.adapters.scheduler import ProgramScheduler
from hasten.core.errors import UserError
from hasten.core.plan import Plan

FLOW = diffusers.FlowMatchEulerDiscreteScheduler
TRAINED = np.linspace(1e-3, 0.05, 100)


def program() -> Any:
    return hasten.trace(Plan(solver="ddim", grid="uniform", steps=3), hasten.schedule("ddpm"))


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(),
        diffusers.DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True),
        diffusers.DDIMScheduler(trained_betas=TRAINED, num_train_timesteps=100),
        diffusers.DDIMScheduler(
            trained_betas=TRAINED, num_train_timesteps=100, rescale_betas_zero_snr=True
        ),
        diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0),
        diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, rescale_betas_zero_snr=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_live_scheduler_gives_its_own_table(scheduler: Any):
    ours = torch.tensor(hasten.schedule(scheduler).alphas_cumprod, dtype=torch.float64)
    # Theirs is a float32 product of up to 1000 factors: 1000 roundings of 6e-8.
    assert torch.allclose(ours, scheduler.alphas_cumprod.double(), atol=6e-5)


@pytest.mark.parametrize(
    ("scheduler", "name", "level"),
    [
        (FLOW(shift=3.0), "flow", 0.75),
        (diffusers.EDMEulerScheduler(sigma_max=20.0), "edm", None),
        (
            diffusers.DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
            "flow",
            0.75,
        ),
    ],
)
def test_flow_and_edm_schedulers_are_read_from_the_object(scheduler: Any, name: str, level: Any):
    """Whose config, when it is fresh, does not say its class."""
    ours = hasten.schedule(scheduler)
    assert ours.part_name == name
    if level is not None:
        assert ours.at(0.5).sigma == pytest.approx(level)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (FLOW(shift=3.0).config, "without _class_name"),
        (diffusers.EDMEulerScheduler().config, "without _class_name"),
        (diffusers.ScoreSdeVeScheduler().config, "without _class_name"),
        (diffusers.KarrasVeScheduler().config, "without _class_name"),
        ({}, "without _class_name"),
        (diffusers.ScoreSdeVeScheduler(), "ScoreSdeVeScheduler"),
        (diffusers.CMStochasticIterativeScheduler(), "CMStochasticIterativeScheduler"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous"), "timestep_type"),
        (FLOW(num_train_timesteps=100), "num_train_timesteps 100"),
        (FLOW(invert_sigmas=True), "invert_sigmas"),
        (diffusers.IPNDMScheduler(), "IPNDMScheduler has a time of its own"),
        (ProgramScheduler(program(), prediction="epsilon"), "like=pipe.scheduler"),
        (ProgramScheduler(program(), prediction="epsilon").config, "like=pipe.scheduler"),
    ],
)
def test_what_does_not_say_how_noise_was_added_is_refused_in_one_line(source: Any, words: str):
    for call in (hasten.schedule, lambda source: hasten.trace(Plan(), source)):
        with pytest.raises(UserError, match=words) as caught:
            call(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (diffusers.DDIMScheduler(), "epsilon"),
        (diffusers.DDIMScheduler(prediction_type="v_prediction"), "v"),
        (diffusers.DDPMScheduler(prediction_type="sample"), "x0"),
        (FLOW(), "flow"),
        (diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "flow"),
        (diffusers.EDMEulerScheduler(sigma_data=0.3), "edm(sigma_data=0.3)"),
    ],
)
def test_a_program_predicts_as_the_scheduler_that_it_replaces(
    tmp_path: Path, scheduler: Any, name: str
):
    made = ProgramScheduler(program(), like=scheduler)
    made.save_pretrained(str(tmp_path))
    again = ProgramScheduler(made.program, like=made)
    copies = (
        made,
        again,
        ProgramScheduler.from_config(made.config),
        ProgramScheduler.from_pretrained(str(tmp_path)),
        ProgramScheduler(
            program(), like={**scheduler.config, "_class_name": type(scheduler).__name__}
        ),
    )
    for one in copies:
        assert one.prediction == hasten.prediction(name)
        assert hasten.schedule(one) == hasten.schedule(scheduler)
        assert hasten.schedule(one.config) == hasten.schedule(scheduler)
    json.dumps(dict(made.config))


def test_an_explicit_prediction_rules_and_the_schedule_is_still_known():
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=500)
    made = ProgramScheduler(program(), prediction="v", like=scheduler)
    assert made.prediction == hasten.prediction("v")
    assert made.config["num_train_timesteps"] == 500
    assert hasten.schedule(made) == hasten.schedule(scheduler)


def test_betas_from_an_array_survive_the_config():
    scheduler = diffusers.DDIMScheduler(trained_betas=TRAINED, num_train_timesteps=100)
    made = ProgramScheduler(program(), like=scheduler)
    again = ProgramScheduler.from_config(json.loads(made.to_json_string()))
    assert hasten.schedule(again) == hasten.schedule(scheduler)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "like=pipe.scheduler"),
        ({"like": "ddim"}, "like is a str"),
        ({"like": diffusers.EDMEulerScheduler(prediction_type="v_prediction")}, "v_prediction"),
        ({"prediction": "epsilom"}, "epsilon"),
    ],
)
def test_a_prediction_is_never_assumed(options: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words) as caught:
        ProgramScheduler(program(), **options)
    assert "\n" not in str(caught.value)


def test_a_config_saved_before_there_was_like_still_loads():
    old = dict(ProgramScheduler(program(), prediction="v").config)
    del old["like"]
    assert ProgramScheduler.from_config(old).prediction == hasten.prediction("v")
