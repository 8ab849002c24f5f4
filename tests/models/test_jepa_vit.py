"""JEPAViT: sizes, positions, kept patches, layers, interpolation, checkpointing."""

import pytest
import torch

from mmjepa.models.encoders import JEPAViT
from mmjepa.models.layers.aggregation import AggregationHead
from mmjepa.models.layers.positions import (
    resize_positions,
    rotary_table,
    rotate,
    sincos_positions,
)
from mmjepa.models.layers.transformer import DropPath
from mmjepa.models.predictors import ViTPredictor

TINY = (32, 3, 4, 128)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ('arch', 'patch', 'size', 'depth', 'encoder', 'positions', 'predictor', 'head'),
    [
        ('base', 16, 224, 6, 85_646_592, 150_528, 11_238_912, 14_177_280),
        ('large', 16, 224, 12, 303_098_880, 200_704, 22_082_560, 25_194_496),
        ('huge', 14, 224, 12, 630_434_560, 327_680, 22_279_424, 39_357_440),
        ('huge', 16, 448, 12, 630_664_960, 1_003_520, 22_279_424, None),
        ('giant', 16, 224, 16, 1_011_092_608, 275_968, 29_475_712, None),
    ],
)
def test_published_sizes(arch, patch, size, depth, encoder, positions, predictor, head):
    with torch.device('meta'):
        vit = JEPAViT(arch, size, patch)
        narrow = ViTPredictor(vit.grid, vit.out_channels, depth=depth, num_heads=vit.num_heads)
        aggregation = AggregationHead(vit.out_channels, vit.num_heads)
    assert parameters(vit) == encoder
    assert vit.pos_embed.numel() == positions
    assert parameters(narrow) == predictor
    assert head is None or parameters(aggregation) == head


def test_keys_are_timms():
    keys = set(JEPAViT(TINY, 16, 4).state_dict())
    inner = ('norm1', 'norm2', 'attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')
    kinds = ('weight', 'bias')
    expected = {f'blocks.{i}.{n}.{kind}' for i in range(3) for n in inner for kind in kinds}
    expected |= {'pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias'}
    assert keys == expected | {'norm.weight', 'norm.bias'}


def test_sincos_halves_tell_column_and_row():
    table = sincos_positions(16, 3, 5).view(3, 5, 16)
    assert torch.equal(table[0, :, :8], table[2, :, :8])  # the first half knows no row
    assert torch.equal(table[:, 0, 8:], table[:, 4, 8:])  # the second no column
    assert not torch.equal(table[0, 0], table[0, 1])
    torch.testing.assert_close(table[1, 2, 0], torch.tensor(2.0).sin())  # column 2, w_0 = 1
    torch.testing.assert_close(table[1, 2, 12], torch.tensor(1.0).cos())
    with pytest.raises(ValueError, match='multiple of 4'):
        sincos_positions(18, 3, 3)


@pytest.mark.parametrize('positions', ['sincos', 'learned', 'rotary'])
def test_kept_patches(positions):
    torch.manual_seed(0)
    vit = JEPAViT(TINY, 16, 4, positions=positions).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        every = vit(images)
        ids = torch.stack([torch.randperm(16), torch.randperm(16)])
        shuffled = vit(images, ids)
        torch.testing.assert_close(shuffled, every.gather(1, ids[..., None].expand(-1, -1, 32)))
        # what isn't kept cannot matter
        some = ids[:, :5]
        seen = vit(images, some)
        hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, some, False)
        noise = torch.randn(2, 3, 16, 16) * hidden.view(2, 1, 4, 4).repeat_interleave(
            4, 2
        ).repeat_interleave(4, 3)
        assert torch.equal(vit(images + noise, some), seen)
        assert not torch.allclose(vit(images + noise), every)


def test_patch_embedding_is_the_convolution():
    vit = JEPAViT(TINY, 16, 4)
    images = torch.randn(2, 3, 8, 12)
    wanted = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit.patch_embed(images), wanted)


def test_other_sizes_get_interpolated_positions():
    vit = JEPAViT(TINY, 16, 4)
    assert vit(torch.randn(1, 3, 24, 8)).shape == (1, 12, 32)
    table = vit.pos_embed
    assert resize_positions(table, (4, 4), (4, 4)) is table
    ramp = torch.arange(16.0).view(1, 16, 1)
    wide = resize_positions(ramp, (4, 4), (4, 8)).view(4, 8)
    assert (wide[:, 1:] >= wide[:, :-1]).all()  # still ascends along a row
    torch.testing.assert_close(wide.mean(1), ramp.view(4, 4).mean(1))
    with pytest.raises(ValueError, match='no .4, 5. grid'):
        resize_positions(ramp, (4, 5), (4, 8))
    with pytest.raises(ValueError, match='18 x 16 pixels is not whole .*multiple of patch_size'):
        vit(torch.randn(1, 3, 18, 16))


def test_rotary_attention_sees_differences_only():
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    q, k = torch.randn(2, 1, 1, 16, 8).double()
    here, there = (rotary_table(p, 8)[None].double() for p in (places, places + 3))
    scores = [rotate(q, t).double() @ rotate(k, t).double().mT for t in (here, there)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores[0], q @ k.mT)
    with pytest.raises(ValueError, match='cannot turn'):
        rotary_table(places, 2)


def test_layers():
    torch.manual_seed(0)
    vit = JEPAViT(TINY, 16, 4).eval()
    images = torch.randn(2, 3, 16, 16)
    first, last = vit.layers(images, (0, -1))
    assert torch.equal(last, vit(images))
    raw = vit.layers(images, (0,), norm=False)[0]
    assert torch.equal(vit.norm(raw), first)
    for wrong in ((3,), (0, 0), (-4,)):
        with pytest.raises(ValueError, match='indices'):
            vit.layers(images, wrong)


def test_layer_depth():
    vit = JEPAViT(TINY, 16, 4)
    depths = {name: vit.get_layer_depth(f'backbone.{name}', 'backbone.')[0] for name in (
        'pos_embed', 'patch_embed.proj.bias', 'blocks.0.norm1.weight', 'blocks.2.mlp.fc1.bias',
        'norm.weight',
    )}  # fmt: skip
    assert list(depths.values()) == [0, 0, 1, 3, 4]
    assert vit.get_layer_depth('norm.bias')[1] == 5


def test_checkpointing_recomputes_with_equal_gradients():
    torch.manual_seed(0)
    vit = JEPAViT(TINY, 16, 4)
    images, calls, gradients = torch.randn(2, 3, 16, 16), [], []
    vit.blocks[1].norm1.register_forward_hook(lambda *_: calls.append(1))
    for wanted in (False, True):
        vit.checkpoint_blocks = wanted
        vit.zero_grad()
        calls.clear()
        vit(images).square().mean().backward()
        assert len(calls) == 1 + wanted
        gradients.append([p.grad.clone() for p in vit.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_drop_path_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    x = drop(torch.ones(4000, 1, 3))
    assert x.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert x.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(x.amin(2), x.amax(2))  # a sample as a whole
    assert torch.equal(drop.eval()(x), x)
    assert [b.drop_path.rate for b in JEPAViT(TINY, 16, 4, drop_path_rate=0.2).blocks] == [
        0.0,
        pytest.approx(0.1),
        pytest.approx(0.2),
    ]


def test_initialisation():
    torch.manual_seed(0)
    vit = JEPAViT((128, 4, 4, 512), 16, 4)
    assert vit.blocks[3].mlp.fc2.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert vit.blocks[0].attn.qkv.bias.abs().max() == 0
    scaled = JEPAViT((128, 4, 4, 512), 16, 4, rescale_init=True)
    assert scaled.blocks[3].mlp.fc2.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.05)


def test_bad_settings():
    with pytest.raises(ValueError, match='arch must be one of'):
        JEPAViT('enormous')
    with pytest.raises(ValueError, match='positions must be'):
        JEPAViT(TINY, 16, 4, positions='polar')
    with pytest.raises(ValueError, match='no multiple of 3 heads'):
        JEPAViT((32, 1, 3, 64), 16, 4)


@pytest.mark.slow
def test_compiles():
    torch.manual_seed(0)
    vit = JEPAViT(TINY, 16, 4).eval()
    images = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(vit, dynamic=True)
    for count in (5, 7, 9):  # another number of kept patches each step
        ids = torch.stack([torch.randperm(16)[:count] for _ in range(2)])
        torch.testing.assert_close(compiled(images, ids), vit(images, ids), rtol=1e-4, atol=1e-5)
