"""Multi-block masks: sizes, places, cuts and shares of the reference's sampler."""

import pytest
import torch

from mmjepa.models.masks import MultiBlockMaskGenerator
from mmjepa.models.masks.multiblock import block_size

GRID = (14, 14)


def draw(count, batch=32, grid=GRID, **options):
    generator = MultiBlockMaskGenerator(**options)
    return [generator(torch.arange(batch) + 10_000 * i, grid) for i in range(count)]


@pytest.mark.parametrize(
    ('grid', 'draw_', 'size'),
    [
        (GRID, 0.2, (5, 6)), (GRID, 0.3, (6, 6)), (GRID, 0.46, (6, 5)), (GRID, 0.48, (6, 6)),
        (GRID, 0.55, (6, 5)), (GRID, 0.8, (7, 5)), (GRID, 0.98, (8, 5)),
        ((16, 16), 0.03, (5, 7)), ((16, 16), 0.2, (6, 7)), ((16, 16), 0.33, (6, 6)),
        ((16, 16), 0.5, (7, 6)), ((16, 16), 0.9, (8, 6)), ((16, 16), 0.95, (9, 6)),
        ((28, 28), 0.0, (9, 12)), ((28, 28), 0.999, (15, 10)),
    ],
)  # fmt: skip
def test_target_sizes(grid, draw_, size):
    assert block_size((0.15, 0.2), (0.75, 1.5), grid, draw_, draw_, False) == size


def test_context_is_one_corner_on_a_14_grid():
    for draw_ in (0.0, 0.5, 0.999):
        assert block_size((0.85, 1.0), (1.0, 1.0), GRID, draw_, draw_, False) == (13, 13)
    assert block_size((0.85, 1.0), (1.0, 1.0), (28, 28), 0.3, 0.3, False) == (26, 26)
    assert block_size((0.85, 1.0), (1.0, 1.0), (28, 28), 0.32, 0.32, False) == (27, 27)


@pytest.mark.parametrize('sampling', ['released', 'corrected'])
def test_structure(sampling):
    for masks in draw(20, sampling=sampling):
        batch = len(masks.context)
        rows, columns = masks.targets // 14, masks.targets % 14
        height = rows.amax(2) - rows.amin(2) + 1
        width = columns.amax(2) - columns.amin(2) + 1
        assert height.unique().numel() == width.unique().numel() == 1  # one size a batch
        assert (height * width == masks.targets.shape[2]).all()  # whole rectangles
        for ids in (masks.context, masks.targets):
            assert (ids.diff() > 0).all()
            assert ids.min() >= 0 and ids.max() < 196
        hidden = torch.zeros(batch, 196, dtype=torch.bool)
        hidden.scatter_(1, masks.targets.flatten(1), True)
        assert not hidden.gather(1, masks.context).any()  # nothing had to be relaxed
        assert masks.context.shape[1] > 10
        assert torch.equal(masks.rows, hidden.flatten().nonzero()[:, 0])
        number = masks.targets + torch.arange(batch)[:, None, None] * 196
        assert torch.equal(masks.rows[masks.places], number)
        if sampling == 'released':  # no block reaches the last row or column
            for ids in (masks.context, masks.targets):
                assert (ids // 14).max() < 13
                assert (ids % 14).max() < 13


def test_shares_depend_on_the_batch_as_published():
    for batch, share, spread in ((128, 0.26, 0.02), (8, 0.325, 0.02)):
        masks = draw(150, batch)
        mean = sum(m.context.shape[1] for m in masks) / len(masks) / 196
        assert mean == pytest.approx(share, abs=spread)
    union = sum(len(m.rows) / 8 for m in masks) / len(masks)
    assert union == pytest.approx(87, abs=2)


def test_released_cut_takes_the_bottom_away_and_corrected_does_not():
    shares = {}
    for sampling in ('released', 'corrected'):
        seen = torch.zeros(196)
        masks = draw(60, 128, sampling=sampling)
        for m in masks:
            seen += torch.bincount(m.context.flatten(), minlength=196)
        shares[sampling] = (seen / 128 / len(masks)).view(14, 14).mean(1)
    # of the reference: rows 0, 6, 11, 12, 13
    released = shares['released'][[0, 6, 11, 12, 13]]
    wanted = torch.tensor([0.75, 0.19, 0.06, 0.018, 0.0])
    torch.testing.assert_close(released, wanted, atol=0.03, rtol=0)
    half = shares['corrected'][:7].mean() / shares['corrected'][7:].mean()
    assert half == pytest.approx(1, abs=0.1)


def test_a_function_of_seeds():
    generator = MultiBlockMaskGenerator()
    seeds = torch.tensor([3, 5, 7])
    first, again = generator(seeds, GRID), generator(seeds, GRID)
    assert all(
        torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True)
    )
    other = generator(seeds + 100, GRID)
    assert not torch.equal(first.targets.flatten()[:9], other.targets.flatten()[:9])
    # places of an image are its own; only sizes are the batch's
    alone = generator(seeds[[0, 2]], GRID)
    assert torch.equal(alone.targets[1], first.targets[2])


def test_relaxes_where_targets_leave_nothing():
    generator = MultiBlockMaskGenerator(
        target_scale=(0.9, 0.9), target_aspect=(1.0, 1.0), min_keep=20, num_targets=6
    )
    masks = generator(torch.arange(16), (10, 10))
    assert masks.context.shape[1] > 20
    hidden = torch.zeros(16, 100, dtype=torch.bool)
    hidden.scatter_(1, masks.targets.flatten(1), True)
    assert hidden.gather(1, masks.context).any()  # it overlaps targets, and ended


def test_impossible_grids_raise():
    for grid in ((6, 6), (8, 8)):
        with pytest.raises(ValueError, match='lower min_keep'):
            MultiBlockMaskGenerator(grid=grid)
    MultiBlockMaskGenerator(grid=(8, 8), min_keep=4)
    # blocks of 8 patches need two draws that differ; the released code has one
    MultiBlockMaskGenerator(grid=(8, 8), min_keep=8)
    with pytest.raises(ValueError, match='lower min_keep'):
        MultiBlockMaskGenerator(grid=(8, 8), min_keep=8, sampling='corrected')
    with pytest.raises(ValueError, match='num_targets'):
        MultiBlockMaskGenerator(num_targets=0)
    with pytest.raises(ValueError, match='target_scale'):
        MultiBlockMaskGenerator(target_scale=(0.3, 0.2))
    with pytest.raises(ValueError, match='sampling'):
        MultiBlockMaskGenerator(sampling='better')
