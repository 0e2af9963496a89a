"""A U-Net that is computed only where its input differs, against the network computed in full."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor
from torch import nn

from hasten.adapters.regions import Regions, macs
from hasten.adapters.tiles import Tiling
from hasten.core.errors import UserError

SIZE = 32
EPSILON = 1e-5  # relative, of float32 through some thirty layers


def plain(**options: object) -> UNet2DModel:
    given = {
        "sample_size": SIZE,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    torch.manual_seed(0)
    return awake(UNet2DModel(**given | options))


def prompted(**options: object) -> UNet2DConditionModel:
    given = {
        "sample_size": SIZE,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
    }
    torch.manual_seed(0)
    return awake(UNet2DConditionModel(**given | options))


def awake(net: nn.Module) -> nn.Module:
    """``net`` with normalisations whose weights and biases count."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return net.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "scaled": functools.partial(
        plain, resnet_time_scale_shift="scale_shift", downsample_padding=0, attn_norm_num_groups=4
    ),
    "prompted": prompted,
    "linear": functools.partial(
        prompted, use_linear_projection=True, transformer_layers_per_block=2
    ),
}


@functools.cache
def network(name: str) -> nn.Module:
    return NETWORKS[name]()


def caller(net: nn.Module) -> Callable[[torch.Tensor], Callable[[], torch.Tensor]]:
    """``caller(net)(x)()`` is the answer to x."""
    text = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1))

    def run(x: torch.Tensor) -> Callable[[], torch.Tensor]:
        crossed = isinstance(net, UNet2DConditionModel)
        more = {"encoder_hidden_states": text.expand(len(x), -1, -1).to(x)} if crossed else {}
        t = torch.full((len(x),), 300.0)
        return lambda: net(x, t, return_dict=False, **more)[0]

    return run


def noise(n: int, net: nn.Module, height: int = SIZE, width: int = SIZE, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, net.config.in_channels, height, width, generator=generator)


def box(n: int, top: int, left: int, side: int, size: tuple[int, int] = (SIZE, SIZE)):
    mask = torch.zeros(n, 1, *size, dtype=torch.bool)
    mask[:, :, top : top + side, left : left + side] = True
    return mask


@contextlib.contextmanager
def frozen_statistics(net: nn.Module, run: Callable[[], object], least: int) -> Iterator[None]:
    """``net`` with the means and variances that its normalisations of maps of ``least`` and more
    cells on a side see during ``run``."""
    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(norm: nn.GroupNorm, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0][0, 0].numel() >= least**2:
            groups = inputs[0].unflatten(1, (norm.num_groups, -1)).flatten(2)
            seen[norm] = groups.mean(2), groups.var(2, unbiased=False)

    hooks = [norm.register_forward_pre_hook(watch) for norm in norms]
    run()
    for hook in hooks:
        hook.remove()

    def take(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        mean, variance = (part[:, :, None] for part in seen[norm])
        groups = x.unflatten(1, (norm.num_groups, -1)).flatten(2)
        even = ((groups - mean) / (variance + norm.eps).sqrt()).view(x.shape)
        shape = 1, -1, *[1] * (x.ndim - 2)
        return even * norm.weight.view(shape) + norm.bias.view(shape)

    for norm in seen:
        norm.forward = functools.partial(take, norm)
    try:
        yield
    finally:
        for norm in seen:
            del norm.forward


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)  # on maps this small two threads mostly wait for each other
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mask_that_is_true_everywhere_gives_the_full_run_with_the_stored_statistics(name):
    net = network(name)
    run, old, new = caller(net), noise(2, net), noise(2, net, seed=1)
    regions = Regions(net)
    answer, features = regions.full(run(old), 2)
    assert torch.equal(answer, run(old)())
    everywhere = torch.ones(2, 1, SIZE, SIZE, dtype=torch.bool)
    assert apart(regions.sparse(run(old), 2, features, everywhere), answer) < EPSILON
    with frozen_statistics(net, run(old), 16):
        exact = run(new)()
    assert apart(regions.sparse(run(new), 2, features, everywhere), exact) < EPSILON
    assert apart(exact, run(new)()) > 100 * EPSILON  # the statistics are not the same


def reached(mask: torch.Tensor, size: tuple[int, int], tile: int) -> torch.Tensor:
    """The cells (n, 1, *size) of the tiles that ``mask`` touches, grown by one cell."""
    share = nn.functional.avg_pool2d(mask.float(), mask.shape[2] // size[0])
    grown = nn.functional.max_pool2d((share > 0.3).float(), 3, 1, 1)
    tiles = nn.functional.max_pool2d(grown, tile, ceil_mode=True)
    cells = tiles.repeat_interleave(tile, 2).repeat_interleave(tile, 3) > 0
    return cells[:, :, : size[0], : size[1]]


@contextlib.contextmanager
def merged_layers(
    net: nn.Module, run: Callable[[], object], mask: torch.Tensor, tile: int
) -> Iterator[None]:
    """``net`` whose layers give what they gave during ``run`` wherever ``mask`` does not reach."""
    in_tiles = re.compile(r"conv_in|conv_out|.*(resnets|samplers)\.\d+(\.conv1)?")
    in_cells = re.compile(r".*attentions\.\d+(\.(.*attn1\.)?to_[kv])?")
    stored: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, _: object, answer: object) -> None:
        stored[module] = answer[0] if isinstance(answer, tuple) else answer

    def merge(module: nn.Module, side: int, answer: object) -> object:
        old, new = stored[module], answer[0] if isinstance(answer, tuple) else answer
        if new.ndim == 4:
            merged = torch.where(reached(mask, tuple(new.shape[2:]), side), new, old)
        else:
            height = int(new.shape[1] ** 0.5)
            cells = reached(mask, (height, height), side).flatten(2).transpose(1, 2)
            merged = torch.where(cells, new, old)
        return (merged,) if isinstance(answer, tuple) else merged

    hooks = []
    layers = {
        module: side
        for name, module in net.named_modules()
        for pattern, side in ((in_tiles, tile), (in_cells, 1))
        if pattern.fullmatch(name)
    }
    hooks = [module.register_forward_hook(keep) for module in layers]
    run()
    for hook in hooks:
        hook.remove()
    hooks = [
        module.register_forward_hook(lambda m, _, answer, side=side: merge(m, side, answer))
        for module, side in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tile", [4, 5])  # 5 does not divide the maps
def test_any_mask_gives_what_merging_the_whole_maps_after_every_layer_gives(name, tile):
    net = network(name)
    run, old, new = caller(net), noise(2, net), noise(2, net, seed=1)
    mask = torch.cat([box(1, 0, 3, 8) | box(1, 22, 25, 9), box(1, 9, 11, 1) | box(1, 30, 0, 2)])
    regions = Regions(net, Tiling(tile=tile, multiple=7))
    _, features = regions.full(run(old), 2)
    with frozen_statistics(net, run(old), 16), merged_layers(net, run(old), mask, tile):
        exact = run(new)()
    assert apart(regions.sparse(run(new), 2, features, mask), exact) < EPSILON


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("least", [16, 32])
def test_an_input_that_did_not_change_gives_the_stored_answer_with_any_mask(name, least):
    net = network(name)
    run, x = caller(net), noise(2, net)
    regions = Regions(net, Tiling(least=least))
    answer, features = regions.full(run(x), 2)
    for mask in (box(2, 0, 0, 0), box(2, 3, 20, 9), torch.rand(2, 1, SIZE, SIZE) < 0.1):
        assert apart(regions.sparse(run(x), 2, features, mask), answer) < 2e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_a_local_change_is_answered_within_the_tiles_and_nowhere_else(name):
    """The error is what the change would do outside of the mask, so it shrinks as the mask grows,
    and only the statistics are left of it in the end."""
    net = network(name)
    run, old = caller(net), noise(1, net)
    new = torch.where(box(1, 12, 10, 5), noise(1, net, seed=1), old)
    regions = Regions(net)
    stored, features = regions.full(run(old), 1)
    with frozen_statistics(net, run(old), 16):
        exact = run(new)()
    errors = []
    for grown in (0, 3, 6, SIZE):
        mask = box(1, max(12 - grown, 0), max(10 - grown, 0), 5 + 2 * grown)
        answer = regions.sparse(run(new), 1, features, mask)
        errors.append(float((answer - exact).norm() / (stored - exact).norm()))
        outside = ~reached(mask, (SIZE, SIZE), 4).expand_as(answer)
        assert torch.equal(answer[outside], stored[outside])
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.75  # a change that covers all that the mask does, so its edge spreads
    assert errors[2] < 0.2
    assert errors[3] < EPSILON
    assert apart(answer, run(new)()) < 0.1


@pytest.mark.parametrize("name", ["plain", "prompted"])
def test_every_row_of_a_batch_has_a_mask_of_its_own(name):
    net = network(name)
    run, old, new = caller(net), noise(3, net), noise(3, net, seed=1)
    regions = Regions(net, Tiling(multiple=8))
    _, features = regions.full(run(old), 3)
    mask = torch.cat([box(1, 2, 2, 9), box(1, 0, 0, 0), box(1, 20, 6, 12)])
    together = regions.sparse(run(new), 3, features, mask)
    for row in range(3):
        only = slice(row, row + 1)
        mine = tuple(feature[only] for feature in features)
        alone = Regions(net).sparse(run(new[only]), 1, mine, mask[only])
        assert apart(together[only], alone) < EPSILON


def test_a_sample_that_takes_two_rows_has_one_mask():
    net = network("prompted")
    run, old, new = caller(net), noise(4, net), noise(4, net, seed=1)
    regions, mask = Regions(net), torch.cat([box(1, 2, 2, 9), box(1, 20, 6, 12)])
    _, features = regions.full(run(old), 2)
    assert all(feature.shape[:2] == (2, 2) for feature in features)
    pairs = regions.sparse(run(new), 2, features, mask)
    flat = tuple(feature.flatten(0, 1).unflatten(0, (4, 1)) for feature in features)
    assert torch.equal(pairs, regions.sparse(run(new), 4, flat, mask.repeat_interleave(2, 0)))


def test_sizes_that_halving_rounds_are_grown_back():
    net = network("prompted")
    run, old, new = caller(net), noise(1, net, 37, 33), noise(1, net, 37, 33, seed=1)
    regions = Regions(net)
    answer, features = regions.full(run(old), 1)
    everywhere = torch.ones(1, 1, 37, 33, dtype=torch.bool)
    with frozen_statistics(net, run(old), 16):
        assert apart(regions.sparse(run(new), 1, features, everywhere), run(new)()) < EPSILON
    mask = box(1, 30, 26, 7, (37, 33))
    assert apart(regions.sparse(run(old), 1, features, mask), answer) < 2e-6


def test_maps_below_the_least_size_run_in_full_with_statistics_of_their_own():
    net = network("plain")
    run, old, new = caller(net), noise(1, net), noise(1, net, seed=1)
    regions = Regions(net, Tiling(least=32))
    _, features = regions.full(run(old), 1)
    _, every = Regions(net).full(run(old), 1)
    assert sum(map(torch.numel, features)) < sum(map(torch.numel, every))
    everywhere = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    with frozen_statistics(net, run(old), 32):
        exact = run(new)()
    assert apart(regions.sparse(run(new), 1, features, everywhere), exact) < EPSILON


@pytest.mark.parametrize("name", ["plain", "prompted"])
def test_a_tenth_of_the_input_costs_less_than_a_fifth_of_the_multiplications(name):
    net = network(name)
    run, x, mask = caller(net), noise(1, net, 64, 64), box(1, 26, 26, 20, (64, 64))
    assert 0.09 < mask.float().mean() < 0.1
    regions = Regions(net)
    _, features = regions.full(run(x), 1)
    whole = macs(run(x))
    part = macs(lambda: regions.sparse(run(x), 1, features, mask))
    twice = macs(lambda: regions.sparse(run(x), 1, features, box(1, 26, 6, 20, (64, 64)) | mask))
    everywhere = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    assert 5 * part < whole
    assert 1.8 * part < twice < 2.2 * part
    assert macs(lambda: regions.sparse(run(x), 1, features, everywhere)) == whole


def test_numbers_are_rounded_up_so_that_shapes_repeat():
    net = network("prompted")
    run, x = caller(net), noise(1, net)
    _, features = Regions(net).full(run(x), 1)
    costs = {
        multiple: [
            macs(lambda: regions.sparse(run(x), 1, features, mask))  # noqa: B023
            for mask in (box(1, 9, 9, 6), box(1, 9, 9, 7))
        ]
        for multiple, regions in [(m, Regions(net, Tiling(multiple=m))) for m in (1, 256)]
    }
    assert costs[1][0] < costs[1][1] < costs[256][0] == costs[256][1]


@pytest.mark.parametrize("processor", [AttnProcessor, functools.partial(SlicedAttnProcessor, 1)])
def test_attention_may_be_computed_by_any_processor(processor):
    net = prompted()
    run, old, new = caller(net), noise(1, net), noise(1, net, seed=1)
    regions, mask = Regions(net), box(1, 4, 4, 9)
    _, features = regions.full(run(old), 1)
    usual = regions.sparse(run(new), 1, features, mask)
    net.set_attn_processor(processor())
    assert apart(regions.sparse(run(new), 1, features, mask), usual) < EPSILON


def test_half_the_precision_gives_half_the_digits():
    net = prompted()
    run, old, mask = caller(net), noise(1, net), box(1, 4, 4, 9)
    new = torch.where(mask, noise(1, net, seed=1), old)
    regions = Regions(net)
    _, features = regions.full(run(old), 1)
    exact = regions.sparse(run(new), 1, features, mask)
    net.bfloat16()
    _, halved = regions.full(run(old.bfloat16()), 1)
    assert {feature.dtype for feature in halved} == {torch.bfloat16, torch.float32}
    answer = regions.sparse(run(new.bfloat16()), 1, halved, mask)
    assert answer.dtype == torch.bfloat16
    assert apart(answer.float(), exact) < 0.05


def test_a_convolution_that_is_not_plain_runs_in_full():
    class Adapted(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    net = plain()
    before = len(Regions(net).parts)
    net.up_blocks[1].resnets[0].conv1.__class__ = Adapted
    regions, run, x = Regions(net), caller(net), noise(1, net)
    assert len(regions.parts) == before - 1
    answer, features = regions.full(run(x), 1)
    assert torch.equal(answer, run(x)())
    assert apart(regions.sparse(run(x), 1, features, box(1, 4, 4, 9)), answer) < 2e-6


def test_neither_the_network_nor_what_was_kept_changes():
    net = network("prompted")
    run, old, new = caller(net), noise(1, net), noise(1, net, seed=1)
    regions = Regions(net)
    answer, features = regions.full(run(old), 1)
    copies = [feature.clone() for feature in features]
    changes = regions.changes(box(1, 4, 4, 9))
    first = regions.sparse(run(new), 1, features, changes)
    first.clone().zero_()
    assert torch.equal(regions.sparse(run(new), 1, features, changes), first)
    assert all(map(torch.equal, features, copies))
    assert not any("forward" in vars(module) for module in net.modules())
    assert torch.equal(run(old)(), answer)


@pytest.mark.parametrize(
    ("mask", "wrong"),
    [
        (box(2, 4, 4, 9, (16, 16)), "mask is of 16 x 16"),
        (box(2, 4, 4, 9).float(), "it takes booleans"),
        (box(1, 4, 4, 9), "mask has 1 rows, but the run has 2 samples"),
    ],
)
def test_a_mask_that_does_not_fit_the_input_is_refused(mask, wrong):
    net = network("plain")
    run, x, regions = caller(net), noise(2, net), Regions(net)
    _, features = regions.full(run(x), 2)
    with pytest.raises(UserError, match=wrong):
        regions.sparse(run(x), 2, features, mask)


def test_features_of_another_network_batch_or_size_are_refused():
    net, other = network("plain"), network("prompted")
    run, x, regions, mask = caller(net), noise(2, net), Regions(net), box(2, 4, 4, 9)
    _, features = regions.full(run(x), 2)
    _, small = regions.full(run(noise(2, net, 48, 48)), 2)
    _, others = Regions(other).full(caller(other)(noise(2, other)), 2)
    for kept, wrong in [
        (features[:-1], "another network"),
        (others, "another network"),
        (tuple(feature[:1] for feature in features), "features are of 1 samples"),
        (small, "2 maps of 48 x 48, but this run has 2 of 32 x 32"),
    ]:
        with pytest.raises(UserError, match=wrong):
            regions.sparse(run(x), 2, kept, mask)


def test_networks_and_calls_without_regions_are_refused():
    net = network("prompted")
    run, x, regions = caller(net), noise(1, net), Regions(net)
    with pytest.raises(UserError, match="calls its network once"):
        regions.full(lambda: run(x)() + run(x)(), 1)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=8
    )
    with pytest.raises(UserError, match="no residual blocks or attention"):
        Regions(dit)
    fused = prompted()
    fused.fuse_qkv_projections()
    with pytest.raises(UserError, match="unfuse"):
        Regions(fused).full(caller(fused)(x), 1)
    _, features = regions.full(run(x), 1)
    text, hide = torch.zeros(1, 5, 12), torch.ones(1, 5)
    with pytest.raises(UserError, match="attention_mask"):
        regions.sparse(lambda: net(x, 1, text, attention_mask=hide), 1, features, box(1, 4, 4, 9))
