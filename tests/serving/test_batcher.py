"""Continuous batching, on a program whose denoiser is a function."""

import threading
import time
from concurrent.futures import CancelledError

import pytest
import torch

from hasten.core.denoiser import FunctionDenoiser
from hasten.core.engine import engines
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.run import Run
from hasten.core.session import Session
from hasten.core.stepping import stepping
from hasten.sampling import trace
from hasten.serving.batcher import Batcher, Busy, Closing, Job, Lane, Late, _chosen
from hasten.serving.turns import Turns


def denoised(x, level):
    assert not bool((x == 13).all()), "unlucky"
    return 0.5 * x / (level.alpha + level.sigma)


def lane_of(rows=4, begun=None):
    denoiser = FunctionDenoiser(denoised)

    def begin(orders):
        if any(order == "wrong" for order in orders):
            raise UserError("prompt: wrong.")
        if begun is not None:
            begun.append(len(orders))
        return [
            Run(Session(denoiser, torch.zeros), stepping(program_of(steps), {"x": x.clone()}))
            for x, steps in orders
        ]

    return Lane(
        key="lane", engine=engines["eager"](), rows=rows, begin=begin, decode=lambda x0: x0 + 1
    )


def program_of(steps):
    return trace(f"solver=euler,steps={steps}", "vp-linear")


def job_of(lane, value=1.0, steps=3, **options):
    x = torch.full((1, 2), float(value))
    return Job(
        lane=lane, order=(x, steps), rows=1, evaluations=steps, **{"deadline": 60.0, **options}
    )


def alone(value, steps=3):
    run = Run(
        Session(FunctionDenoiser(denoised), torch.zeros),
        stepping(program_of(steps), {"x": torch.full((1, 2), float(value))}),
    )
    while not run.done:
        run.send(run.session.answer(run.pending))
    return run.result() + 1


@pytest.fixture
def batcher():
    made = Batcher(queue=8)
    yield made
    made.close(5)


def test_requests_of_different_lengths_share_calls_and_get_their_own_pictures(batcher):
    lane = lane_of()
    with batcher.turns:  # all come before the first call
        jobs = [batcher.submit(job_of(lane, value, steps)) for value, steps in [(1, 3), (2, 5)]]
    for job, (value, steps) in zip(jobs, [(1, 3), (2, 5)], strict=True):
        assert torch.equal(job.pictures.result(10), alone(value, steps))
    assert jobs[1].shared == 2


def test_requests_that_come_together_begin_together(batcher):
    begun = []
    lane = lane_of(begun=begun)
    with batcher.turns:
        first = batcher.submit(job_of(lane, 0))
        time.sleep(0.05)  # the batcher has chosen it alone, and waits for its turn
        jobs = [batcher.submit(job_of(lane, value)) for value in (1, 2, 3)]
    for job in (first, *jobs):
        job.pictures.result(10)
    assert sorted(begun) in ([1, 3], [4])


def test_no_more_rows_share_a_call_than_are_useful(batcher):
    lane = lane_of(rows=2)
    with batcher.turns:
        jobs = [batcher.submit(job_of(lane, value)) for value in range(6)]
    for job in jobs:
        job.pictures.result(10)
        assert job.shared <= 2


def test_a_short_request_overtakes_a_long_one(batcher):
    lane, order = lane_of(rows=1), []
    with batcher.turns:
        for name, steps in (("long", 60), ("short", 2)):
            job = batcher.submit(job_of(lane, 1, steps))
            job.pictures.add_done_callback(lambda _, name=name: order.append(name))
    job.pictures.result(10)
    for _ in range(1000):
        if len(order) == 2:
            break
        time.sleep(0.01)
    assert order == ["short", "long"]


def test_a_long_request_is_not_overtaken_for_ever():
    lane = lane_of(rows=1)
    old, new = job_of(lane, 1, 60), job_of(lane, 1, 2)
    old.due, new.due = 10.0, 10.1  # what is new comes later than what has waited long enough
    assert _chosen([new, old]) == [old]


def test_requests_of_another_lane_wait_for_the_next_call():
    one, other = lane_of(), lane_of()
    jobs = [job_of(one), job_of(other), job_of(one)]
    for due, job in enumerate(jobs):
        job.due = due
    assert _chosen(jobs) == [jobs[0], jobs[2]]


def test_a_cancelled_request_leaves_before_the_next_evaluation(batcher):
    lane = lane_of()
    with batcher.turns:
        job = batcher.submit(job_of(lane, 1, 50))
        job.pictures.cancel()
    batcher.submit(job_of(lane)).pictures.result(10)
    assert job.crossed <= 1
    with pytest.raises(CancelledError):
        job.pictures.result(0)


def test_a_request_past_its_deadline_is_given_up(batcher):
    with batcher.turns:
        job = batcher.submit(job_of(lane_of(), deadline=0.0))
        time.sleep(0.01)
    with pytest.raises(Late, match=r"[01] of 3 evaluations"):
        job.pictures.result(10)


def test_a_request_too_many_is_told_when_to_come_back(batcher):
    lane = lane_of()
    with batcher.turns:
        jobs = [batcher.submit(job_of(lane)) for _ in range(batcher.queue)]
        with pytest.raises(Busy, match="8 requests wait already") as busy:
            batcher.submit(job_of(lane))
        assert busy.value.retry_after >= 1
    for job in jobs:
        job.pictures.result(10)


def test_a_request_that_cannot_begin_fails_alone(batcher):
    lane = lane_of()
    with batcher.turns:
        good = batcher.submit(job_of(lane))
        bad = batcher.submit(Job(lane=lane, order="wrong", rows=1, evaluations=3, deadline=60.0))
        other = batcher.submit(job_of(lane, 2))
    with pytest.raises(UserError, match="wrong"):
        bad.pictures.result(10)
    assert torch.equal(good.pictures.result(10), alone(1))
    assert torch.equal(other.pictures.result(10), alone(2))


def test_a_network_call_that_fails_is_tried_for_each_request_alone(batcher):
    lane = lane_of()
    with batcher.turns:
        good, bad = (batcher.submit(job_of(lane, value)) for value in (1, 13))
    with pytest.raises(AssertionError, match="unlucky"):
        bad.pictures.result(10)
    assert torch.equal(good.pictures.result(10), alone(1))


def test_pictures_that_are_not_finite_fail_alone(batcher):
    lane = lane_of()
    with batcher.turns:
        good, bad = (batcher.submit(job_of(lane, value)) for value in (1, float("nan")))
    with pytest.raises(NonFiniteError, match="answer 1 of 3"):
        bad.pictures.result(10)
    assert torch.equal(good.pictures.result(10), alone(1))


def test_previews_come_after_the_evaluations_that_were_named(batcher):
    shown = []
    job = job_of(lane_of(), previews=(1, 2), preview=shown.append)
    batcher.submit(job).pictures.result(10)
    assert len(shown) == 2


def test_a_closed_batcher_takes_no_more_and_ends_what_waits():
    batcher = Batcher()
    batcher.turns.__enter__()  # holds it up
    job = batcher.submit(job_of(lane_of()))
    batcher.close(0.01)
    with pytest.raises(Closing):
        job.pictures.result(1)
    with pytest.raises(Closing):
        batcher.submit(job_of(lane_of()))
    batcher.turns.__exit__(None, None, None)


def test_turns_are_given_in_the_order_they_were_asked_for():
    turns, order, waiting = Turns(), [], []

    def take(number):
        with turns:
            order.append(number)

    with turns:
        for number in range(5):
            thread = threading.Thread(target=take, args=(number,))
            thread.start()
            waiting.append(thread)
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    for thread in waiting:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]
