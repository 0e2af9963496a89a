"""How the tuner spends its time: every number it decides by, apart from the plans it considers."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunerSettings:
    """Settings of a tuning run; seconds end in ``_s``, shares lie between 0 and 1.

    Attributes:
        engines_end: share of the budget at which the timing of engines ends. The other phases
            end at ``fewest_end`` (where real pictures decide; else at ``level_search_end``),
            ``step_search_end``, ``level_search_end``, ``random_end``, ``screening_end`` (Fréchet
            distance of few samples) and ``reports_end``, each counted from the start. Where engines
            and reference took longer than until ``search_begin``, the others share what is left.
        compile_s: about how long torch.compile takes for a new batch size.
        exact_error: relative error up to which an engine counts as exact.
        reserve_s, reserve_calls, reserve_share: the time kept for the final timing and the fresh
            processes: seconds, or as long as that many network calls take if that is more, but at
            most that share of the budget.
        reference_sizes: pairs of samples and evaluations for the reference solution, largest first.
        reference_own_error: the share of the bar that the reference solution's own error may be,
            as ``reference_check_samples`` of it tell.
        reference_share: share of the budget that the reference solution may take.
        rungs: samples that plans are screened with, before those that may pass are screened with
            all of the reference.
        batch_sizes: batch sizes that a network is timed with, largest first.
        batch_timing_s: the longest that one timed network call may take.
        throughput_s, throughput_evaluations: throughput is measured with the largest batch for
            which a plan of that many evaluations takes at most that many seconds.

        first_steps: the steps that what is known to be best is tried with first; guessed_steps:
            those of the plan that is guessed where there is no time to measure one.
        least_chance: a plan with less chance to pass is not worth its measurement.
        interval_above: how many times the ODE error the upper end of its interval is, before one
            was measured.
        pause_ratio: a step ladder pauses once its ODE error is this many times the best one.
        enough_share: an ODE error below this share of the bar needs no further steps.
        level_trials, level_random_trials: TPE trials for each program, and how many are random.
        level_search_bar: levels are searched up to this many times the bar.
        gap_stretch: a gap between levels is stretched by exp(-gap_stretch) to exp(gap_stretch).
        random_draws: the most plans that random search draws.

        precision_loss: a plan whose ODE error grows by this factor in the fastest engine is
            reported in float32 too.
        screening_samples: samples of the first Fréchet distance of a plan.
        screening_margin: how far above the bar that distance may be before a plan is dropped.
        trials_per_level: programs of equal evaluations whose Fréchet distance is measured.
        final_samples: samples of the last Fréchet distances; the most that time allows.
        final_candidates: plans that get one, apart from the most faithful plan.
        max_reports, min_reports, report_s: full reports at most, and at least even when time is up;
            how long latency and throughput of one are each timed.
        unsteady: from which ratio of the 90th percentile to the median of a latency on a machine is
            said to have changed its speed.
        race_rounds, min_race_rounds, race_s: rounds of the final race.
        baseline_steps: how many of the 1000 ancestral steps are timed.
        fresh_processes, fresh_process_runs: the fresh processes the winner is timed in, and the
            runs in each of them; fewer than three processes give no interval.
        fresh_process_s: how long the winner is timed in each of them.
        process_spread: standard deviation of the log latency between processes, at least.

        many_evaluations: from here on a feature cache may beat fewer steps, and a parallel executor
            is tried.
        feature_caches: the caches tried, the first that the network supports.
        expensive_plans: programs for which a feature cache or a parallel executor is tried.
        parallel_executor, parallel_steps: the executor that is timed, and with how many DDIM steps.
        for_apply: only what hasten.apply can put onto a pipeline is tried.
        parallel_share: share of the budget which that timing may take.
        parallel_runs, parallel_repeats: runs of each side, and about how often a parallel run
            evaluates each step; both only to estimate the time needed.
        parallel_rounds, parallel_s: rounds and seconds of that timing.

        quantize_bits, quantize_ode_error: the bits of the calibrated quantization, and how far it
            may move a plan's samples (ODE error).
        calibration_samples, layer_samples: what a calibration is estimated to cost, in samples of
            the plan: at once, and for each layer.
        integer_slowdown: how many times longer an evaluation in simulated integers takes.
    """

    engines_end: float = 0.25
    search_begin: float = 0.4
    fewest_end: float = 0.45
    step_search_end: float = 0.52
    level_search_end: float = 0.6
    random_end: float = 0.66
    screening_end: float = 0.82
    reports_end: float = 0.87
    compile_s: float = 60.0
    exact_error: float = 1e-3
    reserve_s: float = 45.0
    reserve_calls: int = 200
    reserve_share: float = 0.2
    reference_sizes: tuple[tuple[int, int], ...] = (
        (64, 150),
        (64, 60),
        (32, 60),
        (32, 30),
        (16, 60),
        (16, 30),
        (8, 60),
        (8, 30),
        (4, 60),
        (4, 30),
        (4, 16),
    )
    reference_own_error: float = 0.1
    reference_check_samples: int = 4
    reference_share: float = 0.15
    rungs: tuple[int, ...] = (8, 32)
    batch_sizes: tuple[int, ...] = (64, 16, 4)
    batch_timing_s: float = 1.0
    throughput_s: float = 5.0
    throughput_evaluations: int = 10

    first_steps: int = 10
    guessed_steps: int = 20
    least_chance: float = 0.03
    interval_above: float = 1.1
    pause_ratio: float = 1.7
    enough_share: float = 0.4
    level_trials: int = 60
    level_random_trials: int = 15
    level_search_bar: float = 2.0
    gap_stretch: float = 1.0
    random_draws: int = 10_000

    precision_loss: float = 1.2
    screening_samples: int = 500
    screening_margin: float = 1.25
    trials_per_level: int = 3
    final_samples: tuple[int, ...] = (2000, 1000, 500)
    final_candidates: int = 4
    max_reports: int = 10
    min_reports: int = 4
    report_s: float = 0.5
    race_rounds: int = 25
    unsteady: float = 1.5
    min_race_rounds: int = 5
    race_s: float = 15.0
    baseline_steps: int = 20
    fresh_processes: int = 5
    fresh_process_runs: int = 4
    fresh_process_s: float = 1.0
    process_spread: float = 0.02

    many_evaluations: int = 10
    feature_caches: tuple[str, ...] = ("deep(branch=0, forecast=1)", "blocks(forecast=1)")
    expensive_plans: int = 3
    parallel_executor: str = "anderson"
    parallel_steps: int = 50
    for_apply: bool = False
    parallel_share: float = 0.1
    parallel_runs: int = 2
    parallel_repeats: int = 10
    parallel_rounds: int = 3
    parallel_s: float = 10.0

    quantize_bits: str = "w8a8,float"
    quantize_ode_error: float = 0.02
    calibration_samples: int = 128
    layer_samples: int = 16
    integer_slowdown: float = 2.0
