"""Tuning a live pipeline, with what apply can put onto it."""

from __future__ import annotations

import pytest

import hasten
from hasten.tuning.space import Space
from zoo import ZOO, built


@pytest.mark.slow
def test_a_pipeline_is_tuned_and_its_plan_applied():
    pipe = built("sd15")
    call = {key: value for key, value in ZOO["sd15"].call.items() if key != "prompt"}
    few = Space(solvers=("ddim", "dpmpp"), grids=("uniform",), engines=(("eager", "float32"),))
    best = hasten.tune(pipe, prompts=["a cat", "a dog"], minutes=1.5, space=few, **call).best
    assert (best.engine, best.executor, best.guidance) == ("eager", "sequential", 4.0)
    hasten.apply(pipe, best)
    assert len(pipe(**ZOO["sd15"].call).images) == 1
    hasten.undo(pipe)


def test_a_model_has_its_prompts_already():
    model = hasten.load("builtin:mnist")
    with pytest.raises(hasten.UserError, match=r"give them to hasten\.load"):
        hasten.tune(model, prompts=["a cat"])
