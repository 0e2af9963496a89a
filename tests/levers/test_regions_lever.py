"""Edits that compute a U-Net only where its input differs from that of an earlier edit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

import hasten
from hasten.adapters.families import Network, TurnsFamily
from hasten.adapters.prompted import Prompted
from hasten.adapters.region_network import InRegions
from hasten.core.ask import MAIN
from hasten.core.condition import Condition
from hasten.core.draws import Draws
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.session import Session
from hasten.data.shapes.drawing import drawn
from hasten.data.shapes.motion import frames, moving_scene
from hasten.editing.edit import Editor, edit
from hasten.editing.method import SOURCE, methods
from hasten.editing.stream import Stream, Streaming
from hasten.sampling import build
from zoo import built

SIZE, STEPS = 64, 4
PLAN = f"solver=ddim,grid=uniform,steps={STEPS}"
ROUNDING = 1e-5  # of float32 through some thirty layers, where batches of another size are computed
SIZES: dict[str, Any] = {"sample_size": SIZE, "block_out_channels": (8, 16), "layers_per_block": 1}


def unet(**options: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        **SIZES,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=3,
        **options,
    ).eval()


def prompted() -> Prompted:
    torch.manual_seed(0)
    net = UNet2DConditionModel(
        **SIZES,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=12,
    )
    return Prompted(net.eval(), torch.randn(3, 5, 12))


def model_of(net: nn.Module, **options: Any) -> Model:
    """A model of two labels or prompts."""
    given = {"shape": (3, SIZE, SIZE), "labels": 2, "null_label": 2, "name": "small"}
    return Model(
        net=Network(net).requires_grad_(False),
        schedule=hasten.schedule("ddpm"),
        prediction=hasten.prediction("epsilon"),
        **(given | options),
    )


@pytest.fixture(params=["labels", "prompts"])
def model(request) -> Model:
    return model_of(unet() if request.param == "labels" else prompted())


@pytest.fixture(autouse=True)
def ran(monkeypatch) -> list[tuple[str, int]]:
    """How the network was called, and for how many rows."""
    calls: list[tuple[str, int]] = []
    forward = InRegions.forward

    def watched(self: InRegions, x: torch.Tensor, t: Any, condition: Any, *features: Any) -> Any:
        kind = ("plain", "full")[len(features)] if len(features) < 2 else "sparse"
        calls.append((kind, len(x)))
        return forward(self, x, t, condition, *features)

    monkeypatch.setattr(InRegions, "forward", watched)
    torch.set_num_threads(1)  # on maps this small two threads mostly wait for each other
    return calls


def editor_of(
    model: Model, method: str = "sdedit(strength=0.5)", lever: str | None = "regions", **plan: Any
) -> Editor:
    levers = () if lever is None else (lever,)
    sampler = build(model, Plan.read(PLAN).model_copy(update={"levers": levers, **plan}))
    return Editor.of(sampler, methods.parse(method), masked=False)


def edited(
    editor: Editor, pictures: torch.Tensor, label: int = 1, source: int | None = 0
) -> torch.Tensor:
    n, model = len(pictures), editor.sampler.model
    asked = {MAIN: model.condition(n, label), SOURCE: model.condition(n, source)}
    return editor(pictures, asked, Draws(4, list(range(n)), model))


def scenes(count: int, number: int = 2) -> torch.Tensor:
    return drawn(frames(moving_scene(7, number, count))).float() / 255


def painted(pictures: torch.Tensor, top: int, left: int, side: int) -> torch.Tensor:
    out = pictures.clone()
    out[..., top : top + side, left : left + side] = torch.tensor([0.9, 0.1, 0.4]).view(3, 1, 1)
    return out


def evaluated(model: Model, lever: str, kept: dict[Any, Any]) -> Any:
    """``evaluated(...)(x)``: one evaluation of a new run."""
    denoiser = build(model, Plan.read(PLAN).with_lever(lever)).denoiser
    level = model.schedule.at(1.0)

    @torch.inference_mode()
    def answer(x: torch.Tensor, label: int = 0) -> torch.Tensor:
        asked = model.condition(len(x), label).branch("cond")
        return Session(denoiser, lambda: x, asked, kept=kept).denoise(x, level)

    return answer


@pytest.mark.parametrize(
    ("method", "guidance"),
    [("sdedit(strength=0.5)", 1.0), ("flowedit(average=2)", 3.0), ("inversion", 3.0)],
)
def test_the_same_edit_again_is_the_same_picture_without_a_network_call(
    model, ran, method, guidance
):
    """No source prompt asks the same of the source as guidance does of the edit, at other inputs;
    two averaged differences ask it twice at one level."""
    pictures = scenes(2)
    plain = edited(editor_of(model, method, None, guidance=guidance), pictures, source=None)
    editor = editor_of(model, method, guidance=guidance)
    first = edited(editor, pictures, source=None)
    assert torch.equal(first, plain)
    assert {kind for kind, _ in ran} == {"full"}
    ran.clear()
    assert torch.equal(edited(editor, pictures, source=None), first)
    assert ran == []


def test_a_change_is_answered_within_its_tiles_and_nowhere_else(model, ran):
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    other = painted(x, 20, 24, 12)
    reused = evaluated(model, "regions(tolerance=0.0)", {})
    before, after = reused(x), reused(other)
    assert ran == [("full", 1), ("sparse", 1)]
    tiles = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    tiles[16:36, 20:40] = True  # tiles of 4 that the change, grown by a cell, touches
    assert torch.equal(after[..., ~tiles], before[..., ~tiles])
    exact = evaluated(model, "regions", {})(other)
    error, spread = (after - exact)[..., tiles], exact.std()
    # What is given up: the change's own effect on the statistics, and on what lies around it.
    assert error.square().mean().sqrt() < 0.05 * spread
    assert (after - exact).square().mean().sqrt() < 0.02 * spread


def test_the_region_of_an_edit_does_not_grow_from_step_to_step(model, ran):
    """Each evaluation answers whole tiles, so the input of the next one differs in all of them."""
    editor = editor_of(model, lever="regions(tolerance=0.0)", steps=12)
    picture = scenes(2)[:1]
    before = edited(editor, picture)
    after = edited(editor, painted(picture, 20, 24, 12))
    assert ran == [("full", 1)] * 6 + [("sparse", 1)] * 6
    tiles = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    tiles[16:36, 20:40] = True
    assert torch.equal(after[..., ~tiles], before[..., ~tiles])
    assert not torch.equal(after, before)


def test_some_pictures_of_a_run_are_compared_with_their_own(model, ran):
    x = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    level, kept = model.schedule.at(1.0), {}
    denoiser = build(model, Plan.read(PLAN).with_lever("regions")).denoiser
    asked = model.condition(3, [0, 1, 1]).branch("cond")
    with torch.inference_mode():
        every = Session(denoiser, lambda: x, asked, kept=kept).denoise(x, level)
        some = Session(denoiser, lambda: x, asked, kept=kept).rows([2, 0, 1]).rows([2, 0])
        assert torch.equal(some.denoise(x[[1, 2]], level), every[[1, 2]])
    assert ran == [("full", 3)]


def test_a_captured_pipeline_takes_it(ran):
    captured = hasten.load(built("sdxl"), prompts=["a cat", "a bat"])
    x = torch.randn(1, *captured.shape, generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[..., :2, :2] = 0.0
    reused = evaluated(captured, "regions", {})
    before, after = reused(x), reused(other)
    assert [kind for kind, _ in ran] == ["full", "sparse"]
    assert torch.equal(reused(x), before)
    exact = evaluated(captured, "regions", {})(other)
    assert (after - exact).abs().max() < 0.1 * exact.std()


def test_a_difference_within_the_tolerance_is_none(model, ran):
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    reused, strict = (
        evaluated(model, f"regions(tolerance={tolerance})", {}) for tolerance in (0.01, 0.0)
    )
    near = x.clone()
    near[..., 30:34, 30:34] += 0.009
    before = reused(x)
    change = (reused(near) - before).abs().amax(1)[0]  # of x alone: the network answered the same
    assert ran == [("full", 1)]
    assert change[30:34, 30:34].min() > 0
    assert change.count_nonzero() == 16
    strict(x), strict(near)
    assert ran[1:] == [("full", 1), ("sparse", 1)]


def test_a_value_that_is_not_a_number_is_a_difference(model, ran):
    x = torch.zeros(1, 3, SIZE, SIZE)
    reused = evaluated(model, "regions", {})
    reused(x)
    x[0, 1, 5, 5] = float("nan")
    assert bool(reused(x).isnan().any())
    assert [kind for kind, _ in ran] == ["full", "sparse"]


def test_another_condition_size_or_too_much_that_differs_runs_in_full_and_is_kept(model, ran):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, SIZE, SIZE, generator=generator)
    small = torch.randn(1, 3, 32, 32, generator=generator)
    most = painted(x, 0, 0, 40)  # 0.39 of the places
    reused = evaluated(model, "regions(most=0.3)", {})
    for again, label in ((x, 0), (x, 1), (small, 1), (x, 1), (most, 1)):
        fresh = evaluated(model, "regions", {})
        ran.clear()
        kept = reused(again, label)
        assert ran == [("full", 1)]
        assert torch.equal(kept, fresh(again, label))
        ran.clear()
        assert torch.equal(reused(again, label), kept)
        assert ran == []
    ran.clear()
    reused(x, 1)  # as far from what was kept last as that is from it
    assert ran == [("full", 1)]


def test_what_is_compared_with_stays_until_too_much_differs(model, ran):
    """Small steps away from one frame add up, and are not lost."""
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    reused = evaluated(model, "regions(most=0.2)", {})
    kinds = []
    for side in (0, 8, 16, 24, 32, 36):
        ran.clear()
        reused(painted(x, 0, 0, side))
        kinds += [kind for kind, _ in ran]
    assert kinds == ["full", "sparse", "sparse", "sparse", "full", "sparse"]


def test_every_row_is_compared_with_its_own(model, ran):
    """Of three pictures one stays, one changes a little, and one as a whole."""
    pictures = scenes(3)
    changed = torch.stack([pictures[0], painted(pictures[1], 40, 4, 10), pictures[2].flip(2)])
    editor = editor_of(model)
    before = edited(editor, pictures)
    ran.clear()
    after = edited(editor, changed)
    assert ran == [("sparse", 1), ("full", 1)] * 2
    assert torch.equal(after[0], before[0])
    plain = edited(editor_of(model, lever=None), changed)
    assert (after[2] - plain[2]).abs().max() < ROUNDING
    assert (after[1] - plain[1]).square().mean().sqrt() < 0.01
    ran.clear()
    assert torch.equal(edited(editor, changed)[[0, 2]], after[[0, 2]])
    assert ran == [("sparse", 1)] * 2


def test_rows_that_are_replaced_leave_no_memory_behind(model):
    pictures = scenes(3)
    editor = editor_of(model)
    for last in range(3):
        edited(editor, torch.cat([1 - pictures[:last], pictures[last:]]))
        rows = {id(one.features): len(one.features[0]) for one in editor.kept.values()}
        assert sum(rows.values()) == len(editor.kept) == 3 * 2


@pytest.mark.parametrize(
    ("method", "bound"), [("sdedit(strength=0.5)", 0.15), ("flowedit(strength=0.5)", 0.2)]
)
def test_a_clip_of_moving_shapes_is_edited_nearly_as_without(model, ran, method, bound):
    """In a stream every row of a joined call is of another frame at another step. The error is held
    against what moved; random weights, guided, answer anything with large differences."""
    clip = scenes(4)
    asked = {MAIN: model.condition(1, 1), SOURCE: model.condition(1, 0)}
    made = {}
    for name, lever, depth in (
        ("plain", None, 1000),
        ("one by one", "regions", 1),
        ("stream", "regions", 1000),
    ):
        editor = editor_of(model, method, lever, guidance=2.0)
        ran.clear()
        stream = Stream(editor, asked, seed=4, settings=Streaming(depth=depth))
        made[name] = torch.stack(list(stream(iter(clip))))
        full, sparse = (
            sum(rows for kind, rows in ran if kind == wanted) for wanted in ("full", "sparse")
        )
        if lever:
            rows = (full + sparse) // len(clip)
            assert full == rows  # those of the first frame
            assert sparse > 0
        if depth > 1 and lever:
            assert max(rows for _, rows in ran) > rows // 2
    assert (made["stream"] - made["plain"])[0].abs().max() < ROUNDING
    assert (made["stream"] - made["one by one"]).abs().max() < 1e-4
    moved = (made["plain"] - made["plain"][:1])[1:].square().mean().sqrt()
    error = (made["stream"] - made["plain"])[1:].square().mean().sqrt()
    assert error < bound * moved


def test_pictures_of_one_call_of_edit_follow_each_other(model, ran):
    clip = scenes(3)
    plan = Plan.read(PLAN).with_lever("regions(most=0.4)")
    options = {"method": "sdedit(strength=0.5)", "shared_noise": True, "batch": 1}
    out = edit(model, clip[[0, 0, 1]], 1, plan=plan, **options)
    assert [kind for kind, _ in ran] == ["full"] * 2 + ["sparse"] * 2
    assert torch.equal(out[0], out[1])


def test_half_precision_is_kept_as_it_is(model, ran):
    editor, picture = editor_of(model, dtype="bfloat16"), scenes(2)[:1]
    first = edited(editor, picture)
    assert torch.equal(edited(editor, picture), first)
    assert [kind for kind, _ in ran] == ["full"] * 2
    after = edited(editor, painted(picture, 20, 20, 12))
    assert [kind for kind, _ in ran[2:]] == ["sparse"] * 2
    plain = edited(editor_of(model, lever=None, dtype="bfloat16"), painted(picture, 20, 20, 12))
    assert (after - plain).square().mean().sqrt() < 0.02


def test_a_plan_says_it_in_every_form():
    plan = Plan.read(f"{PLAN},levers=[regions(most=0.4)]")
    assert plan.levers == ("regions(most=0.4)",)
    assert Plan.read(str(plan)) == plan
    for option, wrong in (("most", 0), ("most", 1.5), ("tolerance", -1)):
        with pytest.raises(hasten.UserError, match=option):
            Plan.read(f"{PLAN},levers=[regions({option}={wrong})]")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("engine=compile,levers=[regions]", "no static graph, so engine 'compile' cannot run it"),
        ("executor=picard,levers=[regions]", "'regions' keeps something from one run to the next"),
        ("levers=[regions, deep]", "'regions' keeps .* one run .*'deep' keeps .*drop one"),
        ("levers=[regions, torchao]", "'regions' keeps .*'torchao' computes in integers; drop"),
        ("levers=[regions, regions(most=0.1)]", "'regions' keeps .*'regions' keeps .*drop one"),
    ],
)
def test_plans_that_cannot_take_it_are_refused(fields, why):
    with pytest.raises(hasten.UserError, match=why) as refused:
        Plan.read(f"{PLAN},{fields}")
    assert "\n" not in str(refused.value)


def test_networks_that_cannot_take_it_are_refused():
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, num_layers=1, sample_size=8
    )
    one = Network(unet())
    turns = Network(one, TurnsFamily(name="UNet2DModel"))
    for net, options, why in [
        (Network(dit), {"shape": (3, 8, 8)}, "a DiTTransformer2DModel has no residual blocks"),
        (Network(nn.Conv2d(3, 3, 1)), {}, "a plain module.*U-Nets of diffusers; drop regions"),
        (turns, {}, "two take turns; drop it"),
        (one, {"shape": (3, 2, SIZE, SIZE)}, "is for pictures, and model 'small' makes samples"),
    ]:
        made = dataclasses.replace(model_of(nn.Conv2d(3, 3, 1)), net=net, **options)
        with pytest.raises(hasten.UserError, match=why) as refused:
            build(made, f"{PLAN},levers=[regions]")
        assert "\n" not in str(refused.value)


def test_sampling_which_takes_nothing_up_is_refused(model):
    sampler = build(model, f"{PLAN},levers=[regions]")
    with pytest.raises(hasten.UserError, match="only edits take it up; use"):
        sampler.sample(1, condition=1)


def test_conditions_are_the_same_where_every_part_is():
    labels = Condition.labels_of(torch.tensor([1, 2]), null=0)
    assert labels.same(Condition.labels_of(torch.tensor([1, 2]), null=0))
    assert not labels.same(Condition.labels_of(torch.tensor([1, 3]), null=0))
    assert not labels.same(Condition.labels_of(torch.tensor([1, 2]), null=3))
    assert not labels.same(labels.rows([0]))
    assert not labels.same(Condition.none(2))
    assert Condition.none(2).same(Condition.none(2))
