"""The feature cache: both graphs of a split network are its own, and a run keeps its own state."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

import hasten
from conftest import dit_model, tiny_dit, tiny_unet
from hasten.adapters.families import Network
from hasten.adapters.split import split
from hasten.core.call import Call
from hasten.core.condition import Condition
from hasten.core.engine import Prepared, engines
from hasten.core.errors import UserError
from hasten.core.executor import executors
from hasten.core.feature_cache import Split
from hasten.core.lever import check_solver, check_traits, levers
from hasten.core.lower import lower
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.program import Program
from hasten.core.solver import solvers
from hasten.executors.sequential import Sequential
from hasten.measuring.macs import macs, network_macs
from hasten.sampling import network_key, prepare

BASE = Plan(solver="ddim", grid="uniform", steps=6)


def plan(cache: str | None, **fields: object) -> Plan:
    levers = () if cache is None else (cache,)
    return Plan(**{**BASE.model_dump(), "levers": levers, **fields})


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def rich_unet(**options: object) -> UNet2DModel:
    torch.manual_seed(0)
    shape = {"block_out_channels": (8, 16, 16), "layers_per_block": 2, "norm_num_groups": 4}
    return UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        **{**shape, **options},
    ).eval()


def crossed_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


U_NETS = {
    "plain": (rich_unet, {}, (2, 1, 16, 16), None),
    "labels": (rich_unet, {"num_class_embeds": 3}, (2, 1, 16, 16), torch.tensor([0, 2])),
    "resnet": (
        rich_unet,
        {"downsample_type": "resnet", "upsample_type": "resnet"},
        (2, 1, 16, 16),
        None,
    ),
    "fourier": (rich_unet, {"time_embedding_type": "fourier"}, (2, 1, 16, 16), None),
    "centred": (rich_unet, {"center_input_sample": True}, (2, 1, 16, 16), None),
    "crossed": (crossed_unet, {}, (2, 1, 8, 8), torch.ones(2, 5, 6)),
    "odd size": (crossed_unet, {}, (2, 1, 7, 9), torch.ones(2, 5, 6)),
}


@pytest.mark.parametrize("name", U_NETS)
@torch.no_grad()
def test_every_cut_of_a_unet_answers_with_the_same_bits_as_the_network(name):
    make, options, shape, condition = U_NETS[name]
    net = make(**options)
    x, t = torch.randn(shape), torch.full((2,), 37.0)
    asked = {"encoder_hidden_states": condition} if name in ("crossed", "odd size") else {}
    if name == "labels":
        asked = {"class_labels": condition}
    wanted = net(x, t, **asked, return_dict=False)[0]
    layers = sum(len(block.resnets) for block in net.up_blocks)
    cuts = [("deep", {"branch": branch}) for branch in range(layers)] + [("encoder", {})]
    for kind, where in cuts:
        two = split(net, kind, **where)
        answer, *kept = two(x, t, condition)
        assert torch.equal(answer, wanted)
        # The part computes the same from the features of the same x and t.
        assert torch.equal(two(x, t, condition, *kept), wanted)
        # Deep features are not x: the part looks at the current time, and all but one at x.
        assert not torch.equal(two(x, t + 50, condition, *kept), wanted)
        assert torch.equal(two(x + 1, t, condition, *kept), wanted) == (kind == "encoder")


@torch.no_grad()
def test_every_cut_of_a_dit_answers_with_the_same_bits_as_the_network():
    net = tiny_dit()
    x, t, condition = torch.randn(2, 1, 8, 8), torch.full((2,), 37.0), torch.tensor([0, 2])
    wanted = net(x, timestep=t, class_labels=condition, return_dict=False)[0]
    for first, last in [(0, -1), (0, 0), (1, 2), (1, -2), (3, 3)]:
        two = split(net, "blocks", first=first, last=last)
        answer, kept = two(x, t, condition)
        assert torch.equal(answer, wanted)
        # a + (b - a) is b but for one rounding each of tokens of size 10, through the blocks after.
        assert torch.allclose(two(x, t, condition, kept), wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(two(x + 1, t + 50, condition, kept), wanted, rtol=1e-2)


@pytest.mark.parametrize("cache", ["deep(branch=0,every=1)", "deep(every=1)", "encoder(every=1)"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "heun", "ddpm"])
def test_a_cache_that_is_never_used_gives_the_same_bits(tiny_model, noise, cache, solver):
    wanted = hasten.build(tiny_model(), plan(None, solver=solver)).sample(noise=noise)
    got = hasten.build(tiny_model(), plan(cache, solver=solver)).sample(noise=noise)
    assert torch.equal(got, wanted)


def by_hand(model: Model, mask: list[int], noise: torch.Tensor, branch: int) -> torch.Tensor:
    """DDIM (2010.02502, eq. 12) on a split network, with the state in a local variable."""
    two, levels = split(model.net.module, "deep", branch=branch), BASE.levels(model.schedule)
    x, kept = noise * levels[0].spread, ()
    with torch.no_grad():
        for full, now, after in zip(mask, levels, levels[1:], strict=False):
            t = torch.full((len(x),), now.t)
            if full:
                epsilon, *kept = two(x, t)
            else:
                epsilon = two(x, t, None, *kept)
            x0 = (x - now.sigma * epsilon) / now.alpha
            x = after.alpha * x0 + after.sigma * epsilon
    return x


@pytest.mark.parametrize("mask", [[1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0]])
def test_a_plan_with_a_mask_is_the_loop_by_hand(tiny_model, noise, mask):
    model = tiny_model()
    for branch in range(3):
        sampler = hasten.build(model, plan(f"deep(branch={branch}, mask={tuple(mask)})"))
        wanted = by_hand(model, mask, noise, branch)
        # Float32 sums in another order; answers are multiplied by up to 157 at the first level.
        assert (sampler.sample(noise=noise, raw=True) - wanted).abs().max() < 1e-3


def test_every_second_is_the_mask_that_says_so(tiny_model, noise):
    one = hasten.build(tiny_model(), plan("deep")).sample(noise=noise)
    other = hasten.build(tiny_model(), plan("deep(mask=(1,0,1,0,1,0))")).sample(noise=noise)
    assert torch.equal(one, other)
    assert not torch.equal(one, hasten.build(tiny_model(), BASE).sample(noise=noise))


ENGINES = {"openvino": "deep(branch=0, forecast=1)", "onnxruntime": "encoder"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_runs_both_graphs_as_eager_does(tiny_model, noise, engine):
    model, cache = tiny_model(labels=3), ENGINES[engine]
    wanted = hasten.build(model, plan(cache, guidance=2.0)).sample(
        noise=noise, condition=[0, 1, 2, 0]
    )
    sampler = hasten.build(model, plan(cache, guidance=2.0, engine=engine))
    # As for engines without a cache: float32, answers multiplied by up to 157.
    assert (sampler.sample(noise=noise, condition=[0, 1, 2, 0]) - wanted).abs().max() < 1e-3
    # A smaller batch is padded up to the compiled size, features too.
    some = sampler.sample(noise=noise[:3], condition=[0, 1, 2])
    assert (some - wanted[:3]).abs().max() < 1e-3


class Doubled(torch.nn.Module):
    """A convolution whose output is kept, twice: a network that splits itself."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t, condition=None, *kept):
        deep = kept[0] if kept else self.conv(x)
        answer = 0.1 * self.conv(deep) * (t / 1000).view(-1, 1, 1, 1)
        return answer if kept else (answer, deep)

    def split(self, kind, **where):
        return self


@pytest.mark.slow
def test_compile_runs_both_graphs_as_eager_does(noise):
    model = Model(
        net=Doubled().requires_grad_(False),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("x0"),
        shape=(1, 8, 8),
        name="doubled",
    )
    wanted = hasten.build(model, plan("deep")).sample(noise=noise)
    sampler = hasten.build(model, plan("deep", engine="compile"))
    assert (sampler.sample(noise=noise) - wanted).abs().max() < 1e-5
    assert (sampler.sample(noise=noise[:3]) - wanted[:3]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.slow
def test_both_graphs_of_a_unet_are_captured_whole():
    two = split(tiny_unet(), "deep", branch=1)
    captured = torch.compile(two, backend="eager", fullgraph=True, dynamic=False)
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 7.0)
    answer, deep = captured(x, t)
    assert torch.equal(answer, two(x, t)[0])
    assert torch.equal(captured(x, t, None, deep), two(x, t, None, deep))


def test_a_dit_keeps_its_attention_and_nothing_else(noise):
    net, draws = tiny_dit(), torch.Generator().manual_seed(2)
    two = split(net, "attention")
    x, other = (torch.randn(3, 1, 8, 8, generator=draws) for _ in range(2))
    t, condition = torch.tensor([900.0, 500.0, 3.0]), torch.tensor([0, 1, 3])
    with torch.no_grad():
        whole = net(x, timestep=t, class_labels=condition).sample
        answer, *kept = two(x, t, condition)
        assert torch.equal(answer, whole)
        assert len(kept) == len(net.transformer_blocks)
        assert torch.equal(two(x, t, condition, *kept), whole)
        part = two(other, t, condition, *kept)
        assert not torch.equal(part, whole)  # what is not kept sees the current x
        with torch.no_grad():
            for block in net.transformer_blocks:
                block.attn1.to_q.weight.fill_(float("nan"))
        assert torch.equal(two(other, t, condition, *kept), part)  # the attention is not run
    plain = hasten.build(dit_model(), BASE).sample(noise=noise, condition=1, raw=True)
    every = hasten.build(dit_model(), plan("attention(every=1)"))
    assert torch.equal(every.sample(noise=noise, condition=1, raw=True), plain)
    second = hasten.build(dit_model(), plan("attention")).sample(noise=noise, condition=1, raw=True)
    assert float((second - plain).abs().max()) > 1e-4


@pytest.mark.slow
def test_an_exported_dit_keeps_its_blocks(noise):
    model, x0 = dit_model(), hasten.prediction("x0")
    model = dataclasses.replace(model, prediction=x0)  # answers multiplied by 1
    wanted = hasten.build(model, plan("blocks", steps=3)).sample(noise=noise, condition=1, raw=True)
    other = plan("blocks", steps=3, engine="onnxruntime")
    got = hasten.build(model, other).sample(noise=noise, condition=1, raw=True)
    assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max()


@pytest.mark.parametrize(
    "cache", ["deep(branch=0)", "deep(forecast=1)", "first-block(threshold=0.3)"]
)
def test_a_picture_never_depends_on_its_neighbours_or_on_an_earlier_run(tiny_model, noise, cache):
    model = dit_model() if cache.startswith("first") else tiny_model(labels=3)
    sampler = hasten.build(model, plan(cache, guidance=2.0))
    labels = [0, 1, 2, 1]
    wanted = sampler.sample(noise=noise, condition=labels, raw=True)
    sampler.sample(noise=noise.flip(0), condition=2)  # another run in between
    alone = [
        sampler.sample(noise=noise[i : i + 1], condition=labels[i], raw=True)
        for i in range(len(noise))
    ]
    # The same sums in batches of another size, multiplied by up to 157 each step.
    assert torch.allclose(torch.cat(alone), wanted, rtol=1e-3, atol=1e-3)
    assert torch.equal(sampler.sample(noise=noise, condition=labels, raw=True), wanted)


@pytest.mark.parametrize("forecast", [0, 1])
def test_decoder_steps_in_one_batch_are_those_one_by_one(tiny_model, noise, forecast):
    model, rows = tiny_model(labels=3), []
    ratios = [level.ratio for level in BASE.levels(model.schedule)]
    ends = {"guidance": 2.0, "guidance_interval": (ratios[4], float("inf"))}
    options = f"mask=(1,1,0,0,0,0), forecast={forecast}"
    wanted = hasten.build(model, plan(f"encoder({options})", **ends))
    given = plan(f"encoder({options}, batched=True)", **ends)
    net = prepare(model, given)
    assert isinstance(net, Split)
    inner = net.net
    net.net = lambda x, *rest: rows.append(len(x)) or inner(x, *rest)  # type: ignore[assignment]
    got = hasten.build(model, given, net=net).sample(noise=noise, condition=[0, 1, 2, 0])
    # The same sums in a batch of another size, multiplied by up to 157 each step.
    assert torch.allclose(got, wanted.sample(noise=noise, condition=[0, 1, 2, 0]), atol=1e-3)
    assert rows == [8, 8, 4 * 8]  # guidance ends within the block


def test_a_run_that_failed_leaves_nothing_behind(tiny_model, noise):
    sampler = hasten.build(tiny_model(), plan("deep(branch=0, every=4)"))
    wanted = sampler.sample(noise=noise)

    def fail(call: int, x0: torch.Tensor) -> None:
        if call == 2:
            raise RuntimeError("stopped on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        sampler.sample(noise=noise + 1, watch=fail)
    assert torch.equal(sampler.sample(noise=noise), wanted)


def test_a_forecast_is_exact_for_features_that_are_linear_in_time(noise):
    class Linear(torch.nn.Module):
        """A network whose kept feature is its time, and whose answer is that feature."""

        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t, condition=None, *kept):
            deep = kept[0] if kept else (0.25 * t + 3).view(-1, 1, 1, 1).expand_as(x)
            return deep if kept else (deep, deep)

        def split(self, kind, **where):
            return self

    model = Model(
        net=Linear(),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("x0"),
        shape=(1, 8, 8),
        name="linear",
    )
    seen: dict[int, list[float]] = {0: [], 1: []}
    for forecast, into in seen.items():
        given = plan(f"deep(mask=(1,1,0,0,0,1), forecast={forecast})")
        sampler = hasten.build(model, given)
        sampler.sample(noise=noise, watch=lambda _, x0, into=into: into.append(float(x0.mean())))
    assert sampler.program is not None
    wanted = [0.25 * level.t + 3 for level in sampler.program.levels]
    assert np.allclose(seen[1], wanted, rtol=1e-5)
    assert np.allclose(seen[0][2:5], wanted[1])  # without, the last one kept


def test_a_first_block_decides_for_each_picture(noise):
    model = dit_model()
    two = split(model.net.module, "first-block", threshold=0.2)
    t, condition = torch.full((4,), 500.0), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        first = two(noise, t, condition)[1:]
        moved = noise.clone()
        moved[1] += 5.0
        answer, _, rest = two(moved, t, condition, *first)
        full, _, fresh = two(moved, t, condition)
    same = [torch.equal(rest[i], first[1][i]) for i in range(4)]
    assert same == [True, False, True, True]
    # One picture alone in its batch; tokens of size 10.
    assert torch.allclose(rest[1], fresh[1], rtol=1e-4, atol=1e-4)
    assert torch.allclose(answer[1], full[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("threshold", "exact"), [(0.0, True), (100.0, False)])
def test_a_first_block_with_threshold_zero_never_uses_the_cache(noise, threshold, exact):
    wanted = hasten.build(dit_model(), BASE).sample(noise=noise, condition=0, raw=True)
    given = plan(f"first-block(threshold={threshold})")
    got = hasten.build(dit_model(), given).sample(noise=noise, condition=0, raw=True)
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-3) == exact


def test_a_program_says_what_is_cached_and_other_programs_stay_as_they_are():
    schedule = hasten.schedule("ddpm")
    program = plan("deep(mask=(1,0,0,1,0,1))").trace(schedule)
    assert program.variants == ("full", "cached", "cached", "full", "cached", "full")
    assert Program.from_json(program.to_json()) == program
    without = BASE.trace(schedule)
    assert "variant" not in without.to_json()
    assert "variant" not in str(without)
    assert program.with_variants(["full"] * 6) == without


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_lowered_program_has_the_variants_too(tiny_model, noise, guidance):
    model = tiny_model(labels=3)
    sampler = hasten.build(model, plan("deep(branch=0)", guidance=guidance))
    labels = torch.tensor([0, 1, 2, 0])
    wanted = sampler.sample(noise=noise, condition=labels, raw=True)
    low = lower(sampler.program, model.prediction, sampler.plan.guidance_at)
    assert low.variants.count("cached") == 3 * (1 if guidance == 1.0 else 2)
    low = Program.from_json(low.to_json())
    session = sampler.session(model.condition(4, labels), lambda: noise)
    with torch.inference_mode():
        got = Sequential().run(low, {"x": noise * low.start.spread}, session)
    assert (got - wanted).abs().max() < 1e-3


def test_guidance_on_an_interval_skips_the_null_branch_elsewhere(tiny_model, noise):
    model = tiny_model(labels=3)
    asked: list[int] = []
    inner = prepare(model, BASE)

    class Counted(Prepared):
        precision, weights_mb, versions = "float32", 0.0, {}

        def __call__(self, x, t, condition=None, *kept):
            asked.append(len(x))
            return inner(x, t, condition)

    given = plan(None, guidance=3.0, guidance_interval=(0.2, 5.0))
    sampler = hasten.build(model, given, net=Counted())
    sampler.sample(noise=noise, condition=1)
    inside = [0.2 < level.ratio <= 5.0 for level in sampler.levels[:-1]]
    assert asked == [8 if yes else 4 for yes in inside]
    assert {True, False} <= set(inside)
    assert macs(sampler) == (6 + sum(inside)) * network_macs(model)[0]
    low = lower(sampler.program, model.prediction, given.guidance_at)
    assert low.evaluations == 6 + sum(inside)


def test_a_guidance_interval_holds_for_calls_that_are_answered_together(tiny_model, noise):
    model = tiny_model(labels=3)
    given = plan(None, guidance=3.0, guidance_interval=(0.2, 5.0))
    sampler, labels = hasten.build(model, given), torch.tensor([0, 1, 2, 0])
    levels = list(sampler.levels[:-1])
    condition = model.condition(4, labels)
    calls = [Call(x=noise, levels=(level,) * 4, condition=condition) for level in levels]
    alone = torch.cat([sampler.denoiser([call])[0].x0 for call in calls])
    together = torch.cat([answer.x0 for answer in sampler.denoiser(calls)])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4)
    # A call whose rows are at different levels is guided row by row.
    rows = Call(
        x=torch.cat([noise] * 6),
        levels=tuple(level for level in levels for _ in range(4)),
        condition=Condition.cat([condition] * 6),
    )
    assert torch.allclose(sampler.denoiser([rows])[0].x0, alone, rtol=1e-4, atol=1e-4)


def test_a_whole_interval_is_plain_guidance(tiny_model, noise):
    model = tiny_model(labels=3)
    wanted = hasten.build(model, plan(None, guidance=3.0)).sample(noise=noise, condition=1)
    given = plan(None, guidance=3.0, guidance_interval=(0, float("inf")))
    assert torch.equal(hasten.build(model, given).sample(noise=noise, condition=1), wanted)


def test_guidance_may_end_but_not_begin_at_a_cached_evaluation(tiny_model, noise):
    model = tiny_model(labels=3)
    ratios = [level.ratio for level in BASE.levels(model.schedule)]
    ends = plan("deep(every=6)", guidance=2.0, guidance_interval=(ratios[3], float("inf")))
    assert torch.isfinite(hasten.build(model, ends).sample(noise=noise, condition=1)).all()
    begins = plan("deep(every=6)", guidance=2.0, guidance_interval=(0.0, ratios[2]))
    with pytest.raises(UserError, match="guidance begins at evaluation 3"):
        hasten.build(model, begins)
    begins = plan("deep(mask=(1,0,1,0,0,0))", guidance=2.0, guidance_interval=(0.0, ratios[2]))
    assert torch.isfinite(hasten.build(model, begins).sample(noise=noise, condition=1)).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"levers": "dep"}, "lever 'dep' is unknown"),
        ({"levers": "deep(mask=(0,1))"}, "begins with 0, but nothing is cached yet"),
        ({"levers": "deep(mask=(1,2))"}, "takes ones .full. and zeros"),
        ({"levers": "deep(mask=())"}, "takes ones .full. and zeros"),
        ({"levers": "deep(mask=(1,0), every=3)"}, "every or mask, not both"),
        ({"levers": "deep(every=0)"}, "every is 0"),
        ({"levers": "deep(forecast=2)"}, "forecast is 2"),
        ({"levers": "encoder(batched=2)"}, "batched is 2"),
        ({"levers": "first-block(threshold=-1)"}, "threshold is -1"),
        ({"levers": "first-block", "engine": "openvino"}, "is no static graph"),
        ({"guidance_interval": (1.0, 2.0)}, "narrows guidance, which is 1"),
        ({"guidance_interval": (2.0, 1.0), "guidance": 2.0}, "0 <= low < high"),
        ({"guidance_interval": "(a, 1)", "guidance": 2.0}, "is no interval"),
        ({"guidance_interval": (float("nan"), 1.0), "guidance": 2.0}, "0 <= low < high"),
    ],
)
def test_a_plan_that_cannot_cache_says_why(fields, words):
    with pytest.raises(UserError, match=words):
        Plan(**fields)


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ("deep(mask=(1,0))", "mask has 2 entries, but the plan makes 6 evaluations"),
        ("deep(branch=4)", "branch is 4, but this UNet2DModel has 4 branches; give 0"),
        ("blocks", "cannot split a UNet2DModel; it splits DiTTransformer2DModel. This one can"),
    ],
)
def test_a_network_or_mask_that_does_not_fit_is_refused(tiny_model, cache, words):
    with pytest.raises(UserError, match=words):
        hasten.build(tiny_model(), plan(cache))


def test_a_network_that_cannot_be_split_is_named(tiny_model):
    class Mine(torch.nn.Module):
        def forward(self, x, t, condition=None):
            return x

    bare = dataclasses.replace(tiny_model(), net=Mine())
    with pytest.raises(UserError, match="'deep' cannot split a Mine; it splits U-Nets"):
        hasten.build(bare, plan("deep"))
    wrapped = dataclasses.replace(tiny_model(), net=Network(Mine()))
    with pytest.raises(UserError, match="'encoder' cannot split a Mine; it splits UNet2DModel"):
        hasten.build(wrapped, plan("encoder"))
    with pytest.raises(UserError, match="first and last are 2 and 1, but this network has 4"):
        hasten.build(dit_model(), plan("blocks(first=2, last=1)"))
    torch.manual_seed(0)
    skips = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("SkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "SkipUpBlock2D"),
    )
    with pytest.raises(UserError, match="blocks of type SkipDownBlock2D, SkipUpBlock2D"):
        split(skips, "deep", branch=0)


def test_a_cache_with_what_asks_out_of_order_or_has_no_program_is_refused(tiny_model, noise):
    part, eager = levers.parse("deep"), engines.parse("eager")
    for name in executors:
        # What its class declares is all that is read.
        executor = object.__new__(executors[name])
        if executor.in_order:
            check_traits([part], executor, eager)
            continue
        words = f"keeps something from one evaluation to the next, but executor '{name}'"
        with pytest.raises(UserError, match=words):
            check_traits([part], executor, eager)
    for name in (name for name in solvers if not solvers[name].traceable):
        with pytest.raises(UserError, match=f"but solver '{name}' has none"):
            check_solver([part], object.__new__(solvers[name]))
    program = plan("deep").trace(hasten.schedule("ddpm"))
    with pytest.raises(UserError, match="variants of a network"):
        hasten.run(program, lambda x, level: x, noise)
    with pytest.raises(UserError, match="in its first evaluation"):
        program.with_variants(["cached"] * 6)
    with pytest.raises(UserError, match="net was prepared for no feature cache"):
        hasten.build(tiny_model(), plan("deep"), net=prepare(tiny_model(), BASE))


def test_a_network_prepared_for_a_cache_serves_a_plan_without(tiny_model, noise):
    model = tiny_model()
    net = prepare(model, plan("deep"))
    wanted = hasten.build(model, BASE).sample(noise=noise)
    assert torch.equal(hasten.build(model, BASE, net=net).sample(noise=noise), wanted)
    keys = [network_key(model, given) for given in (plan("deep"), plan("deep(every=3)"), BASE)]
    assert keys[0] == keys[1] != keys[2]
