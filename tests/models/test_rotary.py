"""Rotary positions of clips: shares of the axes, the rotation, and V-JEPA 2's released form."""

import math

import pytest
import torch

from mmjepa.models.layers.positions import rotary_grid, rotary_table, rotate

GRID = (4, 4, 4)


def turned(x, places, tiled):
    """What the two forms are, channel by channel, for one vector at one place."""
    out, d = x.clone(), len(x)
    share = 2 * ((d // 3) // 2)
    for axis, place in enumerate(places):
        for j in range(0, share, 2):
            a, b = axis * share + j, axis * share + j + 1
            pairs = (j % (share // 2), (j + 1) % (share // 2)) if tiled else (j // 2, j // 2)
            one, two = (place * 10000 ** (-pair / (share / 2)) for pair in pairs)
            out[a] = x[a] * math.cos(one) - x[b] * math.sin(one)
            out[b] = x[b] * math.cos(two) + x[a] * math.sin(two)
    return out


@pytest.mark.parametrize('tiled', [False, True])
@pytest.mark.parametrize('head', [6, 16, 24, 64])
def test_formula(head, tiled):
    x = torch.randn(60, head, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = (3, 4, 5)
    found = rotate(x.float()[None, None], rotary_grid(grid, head, tiled)[None])[0, 0]
    for token, vector in enumerate(x):
        t, rest = divmod(token, grid[1] * grid[2])
        wanted = turned(vector, (t, *divmod(rest, grid[2])), tiled)
        torch.testing.assert_close(found[token].double(), wanted, rtol=1e-5, atol=1e-5)


def test_formula_in_two_dimensions():
    """Half of the pairs turn by the row, half by the column; pairs are neighbours."""
    x = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    found = rotate(x[None, None], rotary_grid((3, 4), 8)[None])[0, 0]
    for token, vector in enumerate(x):
        row, column = divmod(token, 4)
        angles = torch.tensor([row, row / 100, column, column / 100], dtype=torch.float64)
        unit = torch.polar(torch.ones_like(angles), angles)
        wanted = torch.view_as_real(torch.view_as_complex(vector.double().view(4, 2)) * unit)
        torch.testing.assert_close(found[token].double(), wanted.flatten())


@pytest.mark.parametrize('tiled', [False, True])
@pytest.mark.parametrize(
    ('head', 'share'), [(24, 8), (32, 10), (64, 20), (80, 26), (88, 28), (104, 34)]
)
def test_shares_of_the_axes(head, share, tiled):
    origin = rotary_table(torch.zeros(1, 3), head, tiled=tiled)
    for axis in range(3):
        moved = rotary_table(torch.eye(3)[axis : axis + 1], head, tiled=tiled)
        channels = (moved != origin).any(1)[0].nonzero().flatten()
        assert channels.tolist() == list(range(axis * share, (axis + 1) * share))
    assert (origin[0, 0] == 1).all() and (origin[0, 1] == 0).all()


def scores(offset, tiled, q, k):
    places = torch.cartesian_prod(*(torch.arange(n) for n in GRID)) + torch.tensor(offset)
    table = rotary_table(places, q.shape[-1], tiled=tiled)[None]
    q, k = rotate(q, table), rotate(k, table)
    return q @ k.mT / q.shape[-1] ** 0.5, q


@pytest.mark.parametrize('offset', [(3, 0, 0), (0, 5, 0), (0, 0, 2), (3, 5, 2)])
def test_only_the_rotation_sees_differences_alone(offset):
    q, k = torch.randn(2, 1, 2, 64, 24, generator=torch.Generator().manual_seed(0))
    here, there = (scores(place, False, q, k)[0] for place in ((0, 0, 0), offset))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-5)
    here, there = (scores(place, True, q, k)[0] for place in ((0, 0, 0), offset))
    assert (here - there).abs().max() > 0.1


def test_only_the_rotation_keeps_lengths():
    q = torch.randn(1, 2, 64, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scores((0, 0, 0), False, q, q)[1].norm(dim=-1), q.norm(dim=-1))
    change = (scores((0, 0, 0), True, q, q)[1].norm(dim=-1) / q.norm(dim=-1) - 1).abs()
    assert change.max() > 0.05
    assert (change[:, :, 0] < 1e-6).all()  # at the origin neither turns


def test_float32_inside_and_the_type_of_the_input_outside():
    q = torch.randn(1, 2, 64, 24, generator=torch.Generator().manual_seed(0))
    table = rotary_grid(GRID, 24)[None]
    assert table.dtype == torch.float32
    low = rotate(q.bfloat16(), table)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, rotate(q.bfloat16().float(), table).bfloat16())


def test_heads_too_small_for_three_axes():
    with pytest.raises(ValueError, match='heads of 4 channels cannot turn along 3 axes'):
        rotary_grid(GRID, 4)
    assert rotary_grid(GRID, 6, tiled=True).shape == (64, 2, 6)
