"""Masks of clips: sizes, shares, cuts and time profiles of the reference's sampler."""

import math

import pytest
import torch

from mmjepa.models.masks import (
    FrameMaskGenerator,
    MultiBlock3DMaskGenerator,
    TubeMaskGenerator,
)
from mmjepa.models.masks.multiblock3d import BlockSettings

GRID = (8, 14, 14)
AREA = 14 * 14
TINY = (4, 4, 4)


def draw(count, batch=8, grid=GRID, generator=None, **options):
    generator = generator or MultiBlock3DMaskGenerator(**options)
    return [generator(torch.arange(batch) + 100_003 * i, grid) for i in range(count)]


def member(ids, length=8 * AREA):
    return torch.zeros(len(ids), length, dtype=torch.bool).scatter_(1, ids, True)


def shares(drawn):
    """Mean share of the tokens that is visible, under each mask."""
    return [sum(m[i].context.shape[1] for m in drawn) / len(drawn) / (8 * AREA) for i in range(2)]


def sizes(block, grid=GRID, draws=400):
    return {block.size(grid, (0.5, 0.5, i / draws))[1:] for i in range(draws)}


def test_block_sizes_on_a_14_grid():
    assert sizes(BlockSettings()) == {(5, 5), (5, 6), (6, 4), (6, 5), (7, 4)}
    long = sizes(BlockSettings(num_blocks=2, spatial_scale=(0.7, 0.7)))
    assert {h for h, _ in long} == {w for _, w in long} == set(range(10, 15))


def test_a_block_of_every_kind_of_size():
    block = BlockSettings(spatial_scale=(0.1, 0.5), temporal_scale=(0.25, 1.0))
    assert block.size((8, 10, 10), (0.0, 0.0, 1 / 3)) == (2, 3, 3)
    assert block.size((8, 10, 10), (0.999, 0.999, 1 / 3)) == (7, 7, 7)
    assert BlockSettings(temporal_scale=(0.1, 0.1)).size(TINY, (0.0, 0.0, 0.0))[0] == 1


@pytest.mark.parametrize('truncate', ['raster', 'random'])
@pytest.mark.parametrize('scale', [(1.0, 1.0), (0.3, 0.6)])
def test_structure(truncate, scale):
    blocks = [dict(temporal_scale=scale), dict(temporal_scale=scale, num_blocks=2)]
    for masks in draw(10, blocks=blocks, truncate=truncate):
        assert len(masks) == 2
        for mask in masks:
            for ids in (mask.context, mask.targets):
                assert ids.dtype == torch.int64 and ids.shape[1] > 0
                assert (ids.diff() > 0).all()  # ascending, none twice
                assert ids.min() >= 0 and ids.max() < 8 * AREA
            assert not (member(mask.context) & member(mask.targets)).any()


@pytest.mark.parametrize('options', [{}, dict(max_keep=9), dict(max_keep=9, full_complement=True)])
def test_nothing_is_cut_where_rows_are_filled_up(options):
    one = draw(20, batch=1, **options)
    seeds = torch.cat([torch.arange(1) + 100_003 * i for i in range(20)])
    generator = MultiBlock3DMaskGenerator(truncate='none', **options)
    # sizes are a batch's: rows one by one, each with its own
    alone = [generator(seed[None], GRID) for seed in seeds]
    for cut, whole in zip(one, alone, strict=True):
        for a, b in zip(cut, whole, strict=True):
            assert torch.equal(a.context, b.context) and torch.equal(a.targets, b.targets)
            assert b.context_valid.all() and b.targets_valid.all()
    lengths = set()
    for mask in generator(seeds, GRID):
        for ids, valid in ((mask.context, mask.context_valid), (mask.targets, mask.targets_valid)):
            assert ids.shape == valid.shape and valid.any(0).all()  # no longer than the longest
            for row, kept in zip(ids, valid, strict=True):
                assert (row[kept].diff() > 0).all() and (row[~kept] == row[kept][-1]).all()
                lengths.add(int(kept.sum()))
        seen, asked = member(mask.context), member(mask.targets)
        assert not (seen & asked).any()
        if options != dict(max_keep=9):
            assert (seen | asked).all()
        numbers = mask.targets_valid.flatten().nonzero()[:, 0]
        assert torch.equal(mask.asked, numbers) and len(numbers) == asked.sum()
    assert len(lengths) > 2 or 'full_complement' in options


def test_blocks_last_for_all_time_steps_before_the_cut():
    for masks in draw(20, batch=1):
        for mask in masks:
            seen = member(mask.context).view(8, AREA)
            assert (seen == seen[0]).all()
            assert torch.equal(~seen.flatten(), member(mask.targets)[0])  # the rest is predicted


def test_hidden_is_the_union_of_so_many_rectangles():
    generator = MultiBlock3DMaskGenerator([dict(num_blocks=1, temporal_scale=(0.5, 0.5))])
    for masks in draw(10, batch=6, generator=generator):
        hidden = member(masks[0].targets).view(6, *GRID)
        t, h, w = (hidden.flatten(1).nonzero()[:, 1].view(6, -1) // k % n
                   for k, n in ((AREA, 8), (14, 14), (1, 14)))  # fmt: skip
        extent = [int((x.amax(1) - x.amin(1) + 1).unique()) for x in (t, h, w)]  # one a batch
        assert extent[0] == 4 and math.prod(extent) == masks[0].targets.shape[1]


def test_visible_shares_without_a_cut():
    short, long = shares(draw(800, batch=1))
    assert short == pytest.approx(0.372, abs=0.01)
    assert long == pytest.approx(0.188, abs=0.01)


def test_shares_and_time_profile_of_a_batch_of_24():
    drawn = draw(120, batch=24)
    short, long = shares(drawn)
    assert short == pytest.approx(0.235, abs=0.01)
    assert long == pytest.approx(0.064, abs=0.01)
    wanted = {
        (0, 'context'): [0.37, 0.37, 0.37, 0.34, 0.24, 0.12, 0.05, 0.02],
        (0, 'targets'): [0.63, 0.63, 0.63, 0.63, 0.61, 0.46, 0.20, 0.05],
        (1, 'context'): [0.19, 0.15, 0.08, 0.04, 0.02, 0.01, 0.01, 0.01],
        (1, 'targets'): [0.81, 0.81, 0.81, 0.81, 0.81, 0.80, 0.58, 0.18],
    }
    for (number, part), profile in wanted.items():
        ids = torch.cat([getattr(m[number], part).flatten() for m in drawn])
        got = torch.bincount(ids // AREA, minlength=8) / (len(drawn) * 24 * AREA)
        torch.testing.assert_close(got, torch.tensor(profile), atol=0.03, rtol=0)


def test_shares_of_a_batch_of_64():
    short, long = shares(draw(40, batch=64))
    assert short == pytest.approx(0.208, abs=0.015)
    assert long == pytest.approx(0.053, abs=0.015)


def test_a_random_cut_has_no_time_bias_and_the_same_lengths():
    raster, cut = draw(30, batch=24), draw(30, batch=24, truncate='random')
    for a, b in zip(raster, cut, strict=True):
        for i in range(2):
            assert a[i].context.shape == b[i].context.shape
            assert a[i].targets.shape == b[i].targets.shape
    ids = torch.cat([m[0].context.flatten() for m in cut])
    profile = torch.bincount(ids // AREA, minlength=8) / (30 * 24 * AREA)
    assert profile.min() > 0.95 * profile.max()


def test_options_of_the_reference():
    for mask in draw(5, batch=6, full_complement=True)[0]:
        assert torch.equal(member(mask.targets), ~member(mask.context))
    for masks in draw(5, batch=6, max_keep=40):
        assert all(m.context.shape[1] <= 40 for m in masks)
    causal = [dict(max_temporal_keep=0.5), dict(num_blocks=2, max_temporal_keep=0.5)]
    for masks in draw(5, batch=1, blocks=causal):
        for mask in masks:
            assert mask.context.max() < 4 * AREA
            assert torch.equal(member(mask.targets), ~member(mask.context))


def test_a_function_of_seeds():
    generator = MultiBlock3DMaskGenerator(truncate='random')
    seeds = torch.tensor([3, 5, 5, 7])
    torch.manual_seed(1)
    first = generator(seeds, GRID)
    torch.manual_seed(2)  # the global generator has no say
    again = MultiBlock3DMaskGenerator(truncate='random')(seeds, GRID)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.context, b.context) and torch.equal(a.targets, b.targets)
        assert torch.equal(a.context[1], a.context[2])  # clips of one sample
        assert not torch.equal(a.context[0], a.context[1])
    other = generator(seeds + 100, GRID)
    assert not torch.equal(first[0].context[0, :50], other[0].context[0, :50])
    # places of a clip are its own; sizes and the cut are the batch's
    alone = MultiBlock3DMaskGenerator(full_complement=True)(seeds[[0, 3]], GRID)
    both = MultiBlock3DMaskGenerator(full_complement=True)(seeds, GRID)
    kept = min(alone[0].context.shape[1], both[0].context.shape[1])
    assert torch.equal(alone[0].context[1, :kept], both[0].context[3, :kept])


def test_masks_of_a_clip_differ():
    twice = MultiBlock3DMaskGenerator([{}, {}])(torch.arange(4), GRID)
    assert twice[0].context.shape != twice[1].context.shape or not torch.equal(
        twice[0].context, twice[1].context
    )


def test_never_empty_where_blocks_often_hide_everything():
    """Four blocks of 3 x 4 on a 4 x 4 grid hide all of it in 7 of 8 draws."""
    generator = MultiBlock3DMaskGenerator(
        [dict(num_blocks=4, spatial_scale=(0.75, 0.75), aspect=(0.75, 0.75))]
    )
    for masks in draw(20, batch=64, grid=TINY, generator=generator):
        assert masks[0].context.shape[1] == 4 * 4  # one row of a frame, at all times
        assert masks[0].targets.shape[1] == 4 * 12


def test_small_grids():
    for grid in ((4, 4, 4), (2, 7, 5), (1, 14, 14)):
        for masks in draw(5, batch=16, grid=grid):
            assert all(m.context.shape[1] and m.targets.shape[1] for m in masks)


def test_masks_move_to_a_device():
    mask = draw(1)[0][0].to(torch.device('meta'))
    assert mask.context.device.type == mask.targets.device.type == 'meta'


@pytest.mark.parametrize(
    ('blocks', 'grid', 'said'),
    [
        (dict(spatial_scale=(0.02, 0.02)), TINY, 'spatial_scale.*raise it'),
        (dict(spatial_scale=(1.0, 1.0), aspect=(1.0, 1.0)), TINY, 'hide all.*lower them'),
        (dict(max_temporal_keep=0.2), TINY, 'max_temporal_keep=0.2 leaves none of 4'),
    ],
)
def test_impossible_grids(blocks, grid, said):
    generator = MultiBlock3DMaskGenerator([blocks])
    with pytest.raises(ValueError, match=said):
        generator.check(grid)
    with pytest.raises(ValueError, match=said):
        generator(torch.arange(2), grid)


@pytest.mark.parametrize(
    'options',
    [
        dict(blocks=[]), dict(truncate='end'), dict(max_keep=0),
        dict(blocks=[dict(num_blocks=0)]), dict(blocks=[dict(spatial_scale=(0.0, 0.5))]),
        dict(blocks=[dict(temporal_scale=(0.5, 1.1))]), dict(blocks=[dict(aspect=(2.0, 1.0))]),
        dict(blocks=[dict(max_temporal_keep=0.0)]),
    ],
)  # fmt: skip
def test_impossible_settings(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MultiBlock3DMaskGenerator(**options)


def test_a_misspelt_block_is_named():
    with pytest.raises(TypeError, match='spatial_scales'):
        MultiBlock3DMaskGenerator([dict(spatial_scales=(0.1, 0.1))])


def test_tubes():
    generator = TubeMaskGenerator(ratio=0.9, num_masks=2)
    masks = generator(torch.arange(6), GRID)
    for mask in masks:
        seen = member(mask.context).view(6, 8, AREA)
        assert (seen == seen[:, :1]).all() and (seen[:, 0].sum(1) == 19).all()
        assert torch.equal(member(mask.targets), ~member(mask.context))
    assert not torch.equal(masks[0].context, masks[1].context)
    assert not torch.equal(masks[0].context[0], masks[0].context[1])
    with pytest.raises(ValueError, match='ratio'):
        generator.check((8, 3, 3))
    for bad in (dict(ratio=1.0), dict(num_masks=0)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            TubeMaskGenerator(**bad)


@pytest.mark.parametrize('order', ['random', 'block', 'future'])
def test_whole_frames(order):
    generator = FrameMaskGenerator(ratio=(0.5, 0.5), order=order, num_masks=2)
    starts = set()
    for masks in draw(20, batch=4, grid=(8, 3, 5), generator=generator):
        for mask in masks:
            hidden = member(mask.targets, 120).view(4, 8, 15)
            steps = hidden.any(2)
            assert torch.equal(hidden.all(2), steps) and (steps.sum(1) == 4).all()
            assert torch.equal(member(mask.context, 120), ~hidden.flatten(1))
            if order != 'random':
                assert (steps.int().diff().abs().sum(1) <= 2).all()
            if order == 'future':
                assert steps[:, 4:].all()
            starts.update(steps.int().argmax(1).tolist())
    assert len(starts) >= {'random': 4, 'block': 5, 'future': 1}[order]


def test_frames_hide_one_share_a_batch():
    generator = FrameMaskGenerator(ratio=(0.2, 0.9))
    counts = {m[0].targets.shape[1] for m in draw(60, grid=(10, 1, 1), generator=generator)}
    assert counts == set(range(2, 9))
    with pytest.raises(ValueError, match='1 time steps'):
        generator.check((1, 4, 4))
    for bad in (dict(ratio=(0.5, 1.0)), dict(order='past'), dict(num_masks=0)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FrameMaskGenerator(**bad)
