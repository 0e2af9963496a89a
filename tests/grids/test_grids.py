"""Grids: which levels they visit, against formulas and against diffusers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from diffusers import DDIMScheduler, EDMEulerScheduler

import hasten.grids  # noqa: F401
from hasten.adapters.schedules import betas
from hasten.core.errors import UserError
from hasten.core.grid import grids
from hasten.core.noise_schedule import Discrete, NoiseSchedule, schedule
from hasten.core.plan import Plan

PATHS: dict[str, NoiseSchedule] = {
    "vp-linear": schedule("vp-linear"),
    "vp-cosine": schedule("vp-cosine"),
    "edm": schedule("edm"),
    "flow": schedule("flow"),
    "flow-shifted": schedule("flow(shift=3.0)"),
    "ddpm": schedule("ddpm"),
    "cosine-table": Discrete.from_betas(betas("squaredcos_cap_v2", 1000, 1e-4, 0.02)),
    "zero-terminal": Discrete.from_betas(betas("linear", 1000, 1e-4, 0.02), zero_terminal_snr=True),
    "learned": schedule("learned"),
}
GRIDS = [
    "uniform",
    "uniform(spacing='leading')",
    "uniform(spacing='linspace')",
    "quadratic",
    "quadratic(top=1.0)",
    "karras",
    "karras(rho=3.0)",
    "log-snr",
]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("text", GRIDS)
def test_levels_fall_from_the_noisy_end_to_a_clean_picture(text: str, name: str) -> None:
    where, grid = PATHS[name], grids.parse(text)
    most = {"ddpm": 1500, "learned": 200}.get(name, 1000)  # a learned path inverts by bisection
    for steps in (1, 2, 3, 10, most):
        places = grid.positions(where, steps)
        assert len(places) == steps
        assert all(one > other for one, other in pairwise(places))
        assert where.low <= places[-1] <= places[0] <= where.noisy
        if text not in ("uniform(spacing='leading')", "quadratic"):
            assert places[0] == where.noisy
        if steps <= 10:
            levels = grid.levels(where, steps)
            assert all(a.half_log_snr < b.half_log_snr for a, b in pairwise(levels))
            assert levels[-1].sigma == 0


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_whole_positions_are_those_of_diffusers(spacing: str, offset: int) -> None:
    """Every step count that diffusers gets right; its trailing spacing gives one step too many for
    some (np.arange with a float step), and its linspace of one step starts at the clean end."""
    if spacing != "leading" and offset:
        return
    options = {"spacing": spacing, "offset": offset}
    for steps in (2, 3, 5, 7, 10, 13, 25, 30, 50, 100, 333, 900 - offset):
        theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
        theirs.set_timesteps(steps)
        ours = grids.make("uniform", options).positions(PATHS["ddpm"], steps)
        if len(theirs.timesteps) == steps:
            assert ours == theirs.timesteps.tolist()


def test_trailing_on_a_straight_path_is_one_minus_i_over_n() -> None:
    for name in ("flow", "vp-linear"):
        places = grids.parse("uniform").positions(PATHS[name], 5)
        assert places == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2], abs=1e-15)
    places = grids.parse("uniform(spacing='leading')").positions(PATHS["flow"], 5)
    assert places == pytest.approx([0.801, 0.601, 0.401, 0.201, 0.001], abs=1e-15)


def test_quadratic_squares_even_numbers_and_starts_where_noise_is() -> None:
    """DDIM's own list is the whole part of these; flow and cosine paths are not noise at 0.8."""
    places = grids.parse("quadratic").positions(PATHS["ddpm"], 10)
    theirs = np.linspace(0, math.sqrt(0.8 * 1000), 10) ** 2
    assert places == pytest.approx(theirs[::-1].tolist(), abs=1e-10)
    assert grids.parse("quadratic").positions(PATHS["vp-linear"], 3)[0] == pytest.approx(0.8)
    for name in ("flow", "vp-cosine", "cosine-table"):
        assert grids.parse("quadratic").positions(PATHS[name], 3)[0] == PATHS[name].noisy


def test_karras_is_the_grid_of_edm() -> None:
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    theirs.set_timesteps(18)
    ours = [level.sigma for level in grids.parse("karras").levels(PATHS["edm"], 18)]
    assert ours == pytest.approx(theirs.sigmas.tolist(), rel=1e-5)  # theirs is float32
    steps = np.arange(18) / 17
    exact = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert ours[:-1] == pytest.approx(exact.tolist(), rel=1e-12)


@pytest.mark.parametrize("name", ["vp-linear", "vp-cosine", "ddpm", "edm", "learned"])
def test_log_snr_is_even_in_log_snr(name: str) -> None:
    levels = grids.parse("log-snr").levels(PATHS[name], 12)[:-1]
    gains = [b.half_log_snr - a.half_log_snr for a, b in pairwise(levels)]
    assert max(gains) - min(gains) <= 1e-9


@pytest.mark.parametrize("text", ["karras", "log-snr"])
def test_a_start_without_signal_is_kept(text: str) -> None:
    for name in ("flow", "zero-terminal"):
        levels = grids.parse(text).levels(PATHS[name], 8)
        assert levels[0].alpha == 0
        assert 1 < levels[1].ratio < 80
        assert levels[-2] == PATHS[name].at(PATHS[name].low)


@pytest.mark.parametrize("text", ["karras", "log-snr", "quadratic"])
@pytest.mark.parametrize("name", ["ddpm", "cosine-table"])
def test_the_time_told_to_the_network_is_that_of_its_level(text: str, name: str) -> None:
    """diffusers rounds these times to whole numbers (int64), so that noise and time disagree, and
    raises on cosine betas when two of them fall together (huggingface/diffusers#12771)."""
    where = PATHS[name]
    for steps in (10, 100):
        levels = grids.parse(text).levels(where, steps)[:-1]
        assert any(level.t != round(level.t) for level in levels)
        assert len({level.t for level in levels}) == steps
        for level in levels:
            ratio = math.sqrt((1 - (a := _between(where, level.t))) / a)
            assert math.isclose(level.ratio, ratio, rel_tol=1e-9)


def _between(where: NoiseSchedule, t: float) -> float:
    """alpha_cumprod at a float index, log-SNR linear between entries, written out once more."""
    table = np.asarray(where.config()["alphas_cumprod"])
    log = np.interp(t, np.arange(len(table)), np.log((1 - table) / table))
    return float(1 / (1 + np.exp(log)))


def test_ends_can_be_set_by_their_noise() -> None:
    for text in ("karras(low=0.02, high=40.0)", "log-snr(low=0.02, high=40.0)"):
        levels = grids.parse(text).levels(PATHS["vp-linear"], 6)
        assert levels[0].ratio == pytest.approx(40.0, rel=1e-9)
        assert levels[-2].ratio == pytest.approx(0.02, rel=1e-9)


def test_given_positions_are_visited_as_listed() -> None:
    grid = grids.parse("given(at=(999, 500.5, 1))")
    assert grid.positions(PATHS["ddpm"], 3) == [999.0, 500.5, 1.0]
    assert grids.parse(grids.text(grid)) == grid
    with pytest.raises(UserError, match=r"lists 3 positions and steps is 4; set steps=3"):
        grid.positions(PATHS["ddpm"], 4)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("given(at=(10, 10))", "ddpm"),
        ("given(at=(10, 20))", "ddpm"),
        ("given(at=(2000, 10))", "ddpm"),
        ("given(at=(1.0, 0.0))", "flow"),
        ("karras(low=1e-6)", "ddpm"),
        ("log-snr(high=1e6)", "vp-linear"),
        ("uniform(spacing='leading', offset=1)", "flow"),
        ("uniform(spacing='leading', offset=501)", "ddpm"),
    ],
)
def test_positions_outside_the_path_or_not_falling_are_refused(text: str, name: str) -> None:
    grid = grids.parse(text)
    with pytest.raises(UserError) as caught:
        grid.positions(PATHS[name], 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "uniform(spacing='even')",
        "uniform(offset=1)",
        "quadratic(top=2.0)",
        "karras(rho=0.0)",
        "karras(low=1.0, high=0.5)",
        "given(at=())",
        "given(at=('a',))",
        "given(at=5)",
    ],
)
def test_a_wrong_option_is_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match="grid option"):
        grids.parse(text)


@pytest.mark.parametrize("grid", ["log-snr", "karras"])
def test_one_step_begins_at_the_top_that_was_given(grid):
    (first, last) = Plan(grid=f"{grid}(high=5.0)", steps=1, solver="ddim").levels(schedule("edm"))
    assert abs(first.ratio - 5.0) < 1e-9
    assert last.sigma == 0
