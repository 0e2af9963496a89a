"""What network calls cost in each engine."""

from __future__ import annotations

import pytest
from tuning_fakes import engine_cost, gaussian_model, make_runner

from hasten.core.errors import UserError
from hasten.tuning.engine_costs import estimate_budget, measure_engines
from hasten.tuning.requests import TimeNetworkCall
from hasten.tuning.settings import TunerSettings
from hasten.tuning.space import Space

BOTH = Space(engines=(("openvino", "float32"), ("eager", "float32")))


@pytest.mark.parametrize(
    ("overhead", "per_sample", "batches", "sample_s"),
    [
        (0.001, 0.001, [], 0.002),  # fast enough as it is
        (0.2, 0.001, [4, 16, 64], 0.0041),  # a call costs much, a sample in it little
        (0.0, 0.1, [4], 0.1),  # as much for each: 16 would take too long
        (5.0, 0.1, [], 5.1),
    ],
)
def test_larger_batches_are_timed_where_that_is_worth_it(overhead, per_sample, batches, sample_s):
    def cost(request: TimeNetworkCall):
        return engine_cost(milliseconds=1000 * (overhead + per_sample * request.batch))

    runner, backend, _ = make_runner(
        gaussian_model(), {TimeNetworkCall: cost}, settings=TunerSettings()
    )
    runner.executor.max_batch = 64
    budget = estimate_budget(runner, engine_cost(milliseconds=1000 * (overhead + per_sample)), 1, 1)
    assert [request.batch for request in backend.requests] == batches
    assert budget.sample_s == pytest.approx(sample_s, rel=0.02)
    assert budget.call_s == pytest.approx(overhead + per_sample)


def test_engines_come_back_fastest_first_and_failures_are_kept():
    def cost(request: TimeNetworkCall):
        if request.plan.engine == "onnxruntime":
            raise UserError("it cannot be exported.")
        return engine_cost(request.plan.engine, milliseconds=len(request.plan.engine))

    runner, _, _ = make_runner(gaussian_model(), {TimeNetworkCall: cost})
    pairs = (("openvino", "float32"), ("onnxruntime", "float32"), ("eager", "float32"))
    costs = measure_engines(runner, Space(engines=pairs), 1.0, 1)
    assert [cost.engine for cost in costs] == ["eager", "openvino"]
    assert [entry.why for entry in runner.unsupported] == ["it cannot be exported."]


def test_a_slow_machine_leaves_out_the_engines_it_has_no_time_for():
    runner, _, _ = make_runner(gaussian_model(), request_s=100.0)
    pairs = (("eager", "float32"), ("compile", "float32"))
    costs = measure_engines(runner, Space(engines=pairs), 1.0, 1)
    assert [cost.engine for cost in costs] == ["eager"]
    assert runner.notes == [
        "engine compile in float32 was not timed, because time was too short; give --minutes 8 or "
        "more"
    ]


def test_without_an_exact_engine_the_reason_of_the_failure_is_raised():
    def cost(request: TimeNetworkCall):
        raise UserError("it cannot be run.")

    runner, _, _ = make_runner(gaussian_model(), {TimeNetworkCall: cost})
    with pytest.raises(UserError, match=r"^it cannot be run\.$"):
        measure_engines(runner, BOTH, 1.0, 1)


def test_engines_after_the_first_have_the_time_of_engines_alone():
    """A compilation took two of ten minutes, and nothing was left for a single plan."""
    runner, backend, _ = make_runner(
        gaussian_model(),
        {TimeNetworkCall: lambda request: engine_cost()},
        minutes=10.0,
        request_s=40.0,
        settings=TunerSettings(),
    )
    pairs = (("eager", "float32"), ("openvino", "float32"), ("onnxruntime", "float32"))
    measure_engines(runner, Space(engines=pairs), 1.0, 1)
    whole, *others = backend.timeouts
    assert whole == 600.0
    assert others == [pytest.approx(0.25 * 555 - spent) for spent in (40.0, 80.0)]
