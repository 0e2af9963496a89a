"""Models as they are served."""

import json

import pytest
import torch

import hasten
from hasten.core.errors import UserError
from hasten.core.plan import Plan
from hasten.serving.batcher import Batcher, Job
from hasten.serving.named import named_plans
from hasten.serving.served import Served, Wanted, _useful_rows
from zoo import ZOO, built


def submitted(batcher, served, plan, **wanted):
    sampler = served.sampler(plan)
    order = Wanted(sampler=sampler, **wanted)
    return batcher.submit(
        Job(
            lane=served.lane(plan),
            order=order,
            rows=len(order.prompts),
            evaluations=sampler.program.evaluations,
            deadline=60.0,
        )
    )


def test_a_picture_is_the_same_whatever_it_shares_network_calls_with(served_mnist):
    batcher = Batcher()
    plans = list(served_mnist.plans.values())
    plans.append(plans[0].model_copy(update={"guidance": 5.0}))  # another guidance, other levels
    plans.append(plans[0].model_copy(update={"solver": "ddpm"}))  # noise on the way
    with batcher.turns:
        jobs = [
            submitted(batcher, served_mnist, plan, prompts=(str(number), ""), seed=number)
            for number, plan in enumerate(plans)
        ]
    for number, (job, plan) in enumerate(zip(jobs, plans, strict=True)):
        condition = served_mnist._condition([str(number), ""], ["", ""])
        alone = served_mnist.sampler(plan).sample(2, seed=number, condition=condition)
        # The first steps of an epsilon model multiply rounding by sigma / alpha, 157 at the most.
        apart = 1e-4 if plan.steps > 2 else 1e-3
        torch.testing.assert_close(job.pictures.result(60), alone, atol=apart, rtol=0)
    batcher.close(5)


def test_plans_of_one_network_share_a_lane_and_others_do_not(served_mnist):
    fast, best = (served_mnist.plans[name] for name in ("fast", "best"))
    assert served_mnist.lane(fast) is served_mnist.lane(best)
    cached = fast.model_copy(update={"levers": ("deep(every=2)",), "steps": 4})
    assert served_mnist.lane(cached) is not served_mnist.lane(fast)


def test_plans_of_other_decoders_decode_with_their_own():
    model = hasten.load("builtin:shapes", prompts=[""])
    plan = Plan(solver="ddim", grid="uniform", steps=1)
    other = plan.with_lever("decoder(engine='eager', dtype='bfloat16')")
    served = Served("shapes", model, {"balanced": plan, "fast": other})
    assert served.lane(plan) is not served.lane(other)


def test_the_largest_useful_batch_is_where_more_rows_are_hardly_faster(served_mnist, monkeypatch):
    clock = {"now": 0.0}
    costs = {1: 1.0, 2: 1.2, 4: 1.5, 6: 2.2, 8: 3.0, 12: 4.8}  # pictures a second: 2.67 from 4 on

    def advance(runs):
        clock["now"] += costs[len(runs)]

    monkeypatch.setattr("hasten.serving.served.advance", advance)
    monkeypatch.setattr("hasten.serving.served.time.perf_counter", lambda: clock["now"])
    sampler = served_mnist.sampler(served_mnist.plans["fast"])
    lane = served_mnist.lane(served_mnist.plans["fast"])
    assert _useful_rows(lane, Wanted(sampler=sampler, prompts=("1",))) == 4


def test_a_plan_that_cannot_be_advanced_by_evaluations_is_refused():
    model = hasten.load("builtin:mnist")
    with pytest.raises(UserError, match="executor=sequential"):
        Served("m", model, {"p": Plan(solver="ddim", steps=8, executor="picard")})
    with pytest.raises(UserError, match="has a Program"):
        Served("m", model, {"p": Plan.read("solver=adaptive-ode")})


def test_the_model_s_own_plan_comes_with_half_and_twice_its_steps():
    model = hasten.load("builtin:shapes", prompts=[""])
    plans = named_plans(model, [])
    assert {name: plan.steps for name, plan in plans.items()} == {
        "fast": 10,
        "balanced": 20,
        "best": 40,
    }


def finalist(plan, milliseconds, error):
    return {
        "plan": plan.model_dump(),
        "latency_ms": {"median": milliseconds},
        "ode_error": {"rmse": error},
    }


def test_the_plans_of_a_tuning_run_are_named_by_its_front(tmp_path):
    fast, middle, best = (Plan(solver="dpmpp", steps=steps) for steps in (4, 8, 16))
    front = [finalist(fast, 1, 0.3), finalist(middle, 2, 0.1), finalist(best, 4, 0.01)]
    report = {"best": middle.model_dump(), "front": front}
    (tmp_path / "report.json").write_text(json.dumps(report))
    plans = named_plans(hasten.load("builtin:mnist"), [str(tmp_path)])
    assert plans == {"fast": fast, "balanced": middle, "best": best}


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (["a b=solver=ddim,steps=3"], "is no name"),
        (["x=solver=ddim,steps=3", "x=solver=ddim,steps=4"], "two are called 'x'"),
        (["x=missing.json"], "no file that can be read"),
        (["."], "no report.json of a tuning run"),
    ],
)
def test_plans_that_cannot_be_named_are_refused(texts, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=what):
        named_plans(hasten.load("builtin:mnist"), texts)


@pytest.mark.parametrize("name", ["sdxl", "flux", "wan"])
def test_a_captured_pipeline_answers_any_prompt_in_shared_calls(name):
    call = {key: value for key, value in ZOO[name].call.items() if key != "prompt"}
    call["negative"] = call.pop("negative_prompt", None)
    model = hasten.load(built(name), prompts=[""], **call)
    plan = Plan(solver="ddim", grid="uniform", steps=2, **model.plan)
    served, batcher = Served(name, model, {"balanced": plan}), Batcher()
    prompts = ["a red circle", "two blue stars"]
    with batcher.turns:
        jobs = [
            submitted(batcher, served, plan, prompts=(prompt,), seed=number)
            for number, prompt in enumerate(prompts)
        ]
    for number, (job, prompt) in enumerate(zip(jobs, prompts, strict=True)):
        alone = served.sampler(plan).sample(1, seed=number, condition=[prompt])
        torch.testing.assert_close(job.pictures.result(60), alone, atol=1e-4, rtol=0)
    batcher.close(5)


def test_what_of_a_prompt_is_cut_off_is_said():
    model = hasten.load("builtin:shapes", prompts=[""])
    text = model.family.prompts(model.net)
    assert text.cut_off(["a large red circle"]) == ""
    assert "cut off, from 'circle" in text.cut_off(["a large red " + "circle " * 60])
