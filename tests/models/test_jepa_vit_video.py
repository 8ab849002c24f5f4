"""JEPAViT of clips: sizes, tubelets, positions, kept tubelets, stills."""

import pytest
import torch

from mmjepa.models.encoders import JEPAViT, jepa_vit
from mmjepa.models.layers.positions import resize_positions, sincos_positions

TINY = dict(arch=(96, 3, 4, 384), img_size=32, patch_size=8, num_frames=8)  # 4 x 4 x 4 tokens
POSITIONS = ['sincos', 'learned', 'rotary', 'rotary_vjepa2']


def clips(*sizes, seed=0):
    sizes = sizes or (2, 3, 8, 32, 32)
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def subsets(count, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(64, generator=rng)[:count] for _ in range(2)])


def tiny(**options):
    torch.manual_seed(0)
    vit = JEPAViT(**{**TINY, **options}).eval()
    for block in vit.blocks:  # attention far from uniform, so that positions matter
        block.attn.qkv.weight.data *= 5
    return vit


@pytest.mark.parametrize(
    ('arch', 'parameters'),
    [
        ('base', 86_236_416),
        ('large', 303_885_312),
        ('huge', 631_648_000),
        ('giant', 1_012_173_952),
        ('giant22', 1_012_173_952),
        ('gigantic', 1_843_923_840),
    ],
)
@pytest.mark.parametrize('positions', ['rotary', 'sincos'])
def test_published_sizes(arch, parameters, positions):
    with torch.device('meta'):
        vit = JEPAViT(arch, 224, num_frames=16, positions=positions)
    assert sum(p.numel() for p in vit.parameters()) == parameters
    assert vit.grid == (8, 14, 14)
    assert ('pos_embed' in vit.state_dict()) == (positions == 'sincos')


def test_names_of_architectures():
    heads = {name: sizes[2] for name, sizes in jepa_vit.ARCHITECTURES.items()}
    assert (heads['giant'], heads['giant22'], heads['gigantic']) == (16, 22, 16)


def test_tubelet_embedding_is_the_convolution():
    vit = tiny()
    video = clips()
    wanted = vit.patch_embed.proj(video).flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit.patch_embed(video), wanted)
    ids = subsets(9)
    kept = wanted.gather(1, ids[..., None].expand(-1, -1, 96))
    torch.testing.assert_close(vit.patch_embed(video, ids), kept)


def test_numbers_of_tubelets():
    """A clip whose pixels say where they are: token t S + h W' + w is tubelet (t, h, w)."""
    vit = tiny()
    proj = vit.patch_embed.proj
    proj.weight.data.fill_(1 / proj.weight[0].numel())
    proj.bias.data.zero_()
    t, h, w = torch.meshgrid(torch.arange(8), torch.arange(32), torch.arange(48), indexing='ij')
    number = (t // 2) * 24 + (h // 8) * 6 + w // 8
    tokens = vit.patch_embed(number.float().expand(1, 3, -1, -1, -1))
    torch.testing.assert_close(tokens[0, :, 0], torch.arange(96.0), rtol=0, atol=1e-3)
    kept = vit.patch_embed(number.float().expand(1, 3, -1, -1, -1), torch.tensor([[95, 7, 24]]))
    torch.testing.assert_close(kept[0, :, 5], torch.tensor([95.0, 7, 24]), rtol=0, atol=1e-3)


@pytest.mark.parametrize('positions', POSITIONS)
def test_kept_tubelets(positions):
    """Order of the ids is order of the outputs; all ids are no ids; hidden pixels can't matter."""
    vit, video = tiny(positions=positions), clips()
    with torch.no_grad():
        every, ids = vit(video), subsets(64)
        shuffled = vit(video, ids)
        torch.testing.assert_close(
            shuffled, every.gather(1, ids[..., None].expand(-1, -1, 96)), rtol=1e-4, atol=1e-5
        )
        some = ids[:, :20]
        seen = vit(video, some)
        assert seen.shape == (2, 20, 96)
        hidden = torch.ones(2, 64, dtype=torch.bool).scatter(1, some, False)
        pixels = hidden.view(2, 1, 4, 4, 4)
        for axis, size in ((2, 2), (3, 8), (4, 8)):
            pixels = pixels.repeat_interleave(size, axis)
        noise = clips(seed=2) * pixels
        assert torch.equal(vit(video + noise, some), seen)
        moved = video.clone()
        t, h, w = some[0, 0] // 16, some[0, 0] // 4 % 4, some[0, 0] % 4
        moved[0, :, 2 * t + 1, 8 * h + 7, 8 * w] += 1  # one pixel of one visible tubelet
        changed = (vit(moved, some) != seen).any(-1)
        assert changed[0].all() and not changed[1].any()
        # a whole clip's token depends on all others
        assert not torch.equal(vit(video + noise)[0, some[0, 0]], every[0, some[0, 0]])


@pytest.mark.parametrize('positions', POSITIONS)
def test_positions_matter(positions):
    """The same pixels at other places, also along time alone."""
    vit = tiny(positions=positions)
    video = clips(1, 3, 2, 8, 8).repeat(1, 1, 4, 4, 4)  # one tubelet everywhere
    with torch.no_grad():
        tokens = vit(video + clips(1, 3, 8, 32, 32)).unflatten(1, (4, 4, 4))
        again = vit((video + clips(1, 3, 8, 32, 32)).roll(2, 2)).unflatten(1, (4, 4, 4))
    assert (tokens.roll(1, 1) - again).abs().amax() > 1e-3


@pytest.mark.parametrize('positions', POSITIONS)
def test_stills_are_clips_of_equal_frames(positions):
    vit, image = tiny(positions=positions), clips(2, 3, 32, 32)
    with torch.no_grad():
        wanted = vit(image[:, :, None].repeat(1, 1, 8, 1, 1))
        assert torch.equal(vit(image), wanted)
        ids = subsets(9)
        assert vit(image, ids).shape == (2, 9, 96)
    assert vit.grid_of(32, 48) == vit.grid_of(8, 32, 48) == (4, 4, 6)


@pytest.mark.parametrize('positions', POSITIONS)
def test_other_sizes(positions):
    vit = tiny(positions=positions)
    assert vit(clips(1, 3, 4, 16, 48)).shape == (1, 2 * 2 * 6, 96)
    assert vit(clips(1, 3, 12, 32, 32), torch.tensor([[95, 3]])).shape == (1, 2, 96)


def test_tables_are_interpolated_along_three_axes():
    ramp = torch.arange(4.0).view(4, 1, 1) + 10 * torch.arange(4.0).view(1, 4, 1)
    table = (ramp + 100 * torch.arange(4.0)).view(1, 64, 1)
    wide = resize_positions(table, (4, 4, 4), (8, 4, 2)).view(8, 4, 2)
    times = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    wanted = times.view(8, 1, 1) + 10 * torch.arange(4.0).view(1, 4, 1)
    torch.testing.assert_close(wide, wanted + 100 * torch.tensor([0.5, 2.5]))
    with pytest.raises(ValueError, match='other axes'):
        resize_positions(table, (4, 4, 4), (8, 8))


@pytest.mark.parametrize(
    ('dim', 'uniform', 'shares'),
    [(24, True, (8, 8, 8)), (16, True, (6, 6, 4)), (16, False, (8, 4, 4))],
)
def test_shares_of_the_sincos_table(dim, uniform, shares):
    """Time, row, column; each share is sines, then cosines, and the last may be cut."""
    grid = (3, 4, 5)
    table = sincos_positions(dim, *grid, uniform_power=uniform).view(*grid, dim)
    start = 0
    for axis, share in enumerate(shares):
        half = shares[0] // 2 if uniform else share // 2
        coordinate = torch.arange(grid[axis], dtype=torch.float64)
        angles = coordinate[:, None] * 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        wanted = torch.cat([angles.sin(), angles.cos()], 1)[:, :share].float()
        part = table[..., start : start + share].movedim(axis, 0)
        for others in part.flatten(1, 2).unbind(1):
            torch.testing.assert_close(others, wanted)
        start += share
    assert start == dim


def test_released_share_of_a_large_table():
    assert sincos_positions(1024, 2, 2, 2).shape == (8, 1024)  # 3 x 342, two dropped
    with pytest.raises(ValueError, match='3D grid need a multiple of 8, got 12'):
        sincos_positions(12, 2, 2, 2, uniform_power=False)


def test_order_of_tables_of_images():
    """I-JEPA's first half tells the column, V-JEPA's the row."""
    column, row = (sincos_positions(16, 3, 3, row_first=first) for first in (False, True))
    assert torch.equal(column[:, :8], row[:, 8:]) and torch.equal(column[:, 8:], row[:, :8])
    options = dict(arch=(16, 1, 2, 32), img_size=24, patch_size=8)
    assert torch.equal(JEPAViT(**options, row_first=True).pos_embed[0], row)
    assert torch.equal(JEPAViT(**options).pos_embed[0], column)


def test_one_rotary_table_a_pass(monkeypatch):
    """Whatever the depth, and in float32 under autocast, too."""
    tables = []
    original = jepa_vit.rotary_grid
    monkeypatch.setattr(
        jepa_vit, 'rotary_grid', lambda *args: tables.append(original(*args)) or tables[-1]
    )
    vit = tiny(positions='rotary')
    seen = []
    for block in vit.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    with torch.autocast('cpu', torch.bfloat16):
        vit(clips(), subsets(9))
    assert len(tables) == 1 and len(seen) == 3
    assert all(table is seen[0] for table in seen)
    assert seen[0].dtype == torch.float32 and seen[0].shape == (2, 9, 2, 24)
    assert torch.equal(seen[0], tables[0][subsets(9)])


@pytest.mark.parametrize('positions', POSITIONS)
def test_gradients_of_kept_tubelets(positions):
    vit = tiny(positions=positions, checkpoint_blocks=True)
    vit(clips(), subsets(9)).square().mean().backward()
    empty = [name for name, p in vit.named_parameters() if p.grad is None or not p.grad.any()]
    assert empty == []


def test_bad_clips():
    vit, images = tiny(), JEPAViT((16, 1, 2, 32), 16, 8)
    with pytest.raises(ValueError, match='7 frames is not whole tubelets of 2 .* tubelet_size'):
        vit(clips(1, 3, 7, 32, 32))
    with pytest.raises(ValueError, match='30 x 32 pixels is not whole'):
        vit(clips(1, 3, 8, 30, 32))
    with pytest.raises(ValueError, match='give it num_frames'):
        images(clips(1, 3, 8, 16, 16))
    with pytest.raises(ValueError, match='not whole tubelets of 3'):
        JEPAViT(**TINY, tubelet_size=3)
    with pytest.raises(ValueError, match='positions must be'):
        JEPAViT(**TINY, positions='polar')


@pytest.mark.slow
def test_compiles():
    """One graph for any number of tubelets; what inductor makes of it is torch's affair."""
    vit = tiny(positions='rotary')
    graphs = []
    compiled = torch.compile(
        vit, dynamic=True, fullgraph=True, backend=lambda g, _: graphs.append(g) or g
    )
    for count in (5, 7, 9):
        ids = subsets(count)
        torch.testing.assert_close(compiled(clips(), ids), vit(clips(), ids), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
