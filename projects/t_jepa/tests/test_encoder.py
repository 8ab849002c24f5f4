"""The encoder: blocks against PyTorch's, what it sees and what not."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmjepa.models.layers.transformer import Block
from projects.t_jepa.t_jepa.encoder import PostNormBlock, PostNormStack, TabularEncoder, dropout

SMALL = dict(channels=16, depth=2, num_heads=2, ffn_channels=32)


def encoder(**options):
    torch.manual_seed(0)
    return TabularEncoder(**SMALL | dict(num_numeric=6, cardinalities=[4, 3]) | options)


def rows(count=5):
    numbers, codes = torch.randn(count, 6), torch.randint(1, 3, (count, 2))
    return torch.cat([numbers, codes.float()], 1)


def test_block_is_pytorchs_post_norm_layer():
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
    ours = PostNormBlock(16, 4, 24)
    attention = theirs.self_attn
    pairs = {
        'attn.qkv.weight': attention.in_proj_weight,
        'attn.qkv.bias': attention.in_proj_bias,
        **{f'attn.proj.{k}': getattr(attention.out_proj, k) for k in ('weight', 'bias')},
    }
    for mine, yours in (
        ('mlp.fc1', 'linear1'),
        ('mlp.fc2', 'linear2'),
        ('norm1',) * 2,
        ('norm2',) * 2,
    ):
        pairs |= {f'{mine}.{k}': getattr(getattr(theirs, yours), k) for k in ('weight', 'bias')}
    for parameter in pairs.values():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(pairs)
    x = torch.randn(3, 7, 16)
    assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert isinstance(ours, Block)  # so that compile=True finds it


def test_dropout_is_on_in_training_alone():
    made = encoder(dropout=0.3)
    x = rows()
    assert not torch.equal(made(x), made(x))
    assert torch.equal(made.eval()(x), made(x))
    quiet = encoder()
    assert torch.equal(quiet(x), quiet(x))
    # dropped units are made up for
    block = PostNormBlock(16, 2, 32, dropout=0.5)
    dropped = block._drop(torch.ones(100_000))
    assert set(dropped.tolist()) == {0.0, 2.0}
    assert abs(float(dropped.mean()) - 1) < 0.02


def test_number_of_parameters():
    """Jannis: 414,848, by the formulas of the method."""
    made = TabularEncoder(54, channels=64, depth=16, num_heads=2, ffn_channels=64)
    assert sum(p.numel() for p in made.parameters()) == 414_848
    h, f, d, cards, reg = 16, 32, 8, 7, 2
    layer, tail = 4 * h**2 + 2 * h * f + 9 * h + f, h**2 + 5 * h
    tokens = (reg + 6 + d) * h + h * cards
    made = encoder(num_reg=reg)
    assert sum(p.numel() for p in made.parameters()) == 2 * layer + tail + tokens


@torch.no_grad()
def test_initial_values():
    stack = PostNormStack(64, 2, 2, 128, 0.0)
    for block in list(stack)[:2]:
        bound = (6 / (64 + 3 * 64)) ** 0.5
        weight = block.attn.qkv.weight
        assert weight.abs().max() <= bound
        assert_close(float(weight.std()), bound / 3**0.5, rtol=0.03, atol=0)
        for linear in (block.attn.proj, block.mlp.fc1, block.mlp.fc2, stack[4]):
            assert_close(float(linear.weight.std()), 0.02, rtol=0.05, atol=0)
        assert all(not p.any() for n, p in block.named_parameters() if n.endswith('.bias'))
    assert {m.eps for m in stack.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    norms = stack(torch.randn(4, 9, 64)).norm(dim=2)
    assert_close(norms, torch.full_like(norms, 8.0), rtol=0.01, atol=0)


@pytest.mark.parametrize('reg', [0, 1, 2])
def test_shapes_and_keep_ids(reg):
    made, x = encoder(num_reg=reg).eval(), rows()
    whole = made(x)
    assert whole.shape == (5, reg + 8, 16)
    ids = torch.arange(8).expand(5, -1)
    assert_close(made(x, ids), whole)
    order = torch.stack([torch.randperm(8) for _ in range(5)])
    shuffled = made(x, order)[:, reg:]
    assert_close(shuffled, whole[:, reg:].gather(1, order[..., None].expand(-1, -1, 16)))
    assert made(x, order[:, :3]).shape == (5, reg + 3, 16)
    # [REG] are tokens 0 .. R - 1
    tokens = torch.cat([torch.arange(reg).expand(5, -1), order[:, :3] + reg], 1)
    assert torch.equal(made.encode_tokens(x, tokens), made(x, order[:, :3]))


@torch.no_grad()
def test_hidden_features_have_no_influence():
    """A feature outside the set doesn't change a bit, one inside changes every token."""
    made, x = encoder().eval(), rows()
    ids = torch.tensor([1, 4, 7]).expand(5, -1)
    seen, whole = made(x, ids), made(x)
    for feature in range(8):
        other = x.clone()
        other[:, feature] = 3 - other[:, feature] if feature > 5 else other[:, feature] + 1
        changed = (made(other, ids) != seen).any(2)
        assert changed.all() if feature in (1, 4, 7) else not changed.any()
        assert (made(other) != whole).any(2).all()


@torch.no_grad()
def test_rows_are_independent():
    made, x = encoder().eval(), rows()
    order = torch.randperm(5)
    assert_close(made(x[order]), made(x)[order])


def test_rare_dropout_is_dropout():
    """Every element, and every pair of neighbours, is dropped as often as by independent draws."""
    torch.manual_seed(0)
    rate, rows = 0.04, 40_000
    x = torch.ones(rows, 25, requires_grad=True)
    out = dropout(x, rate)
    gone = out.detach() == 0
    assert out[~gone].unique().tolist() == [pytest.approx(1 / (1 - rate))]
    out.sum().backward()
    assert torch.equal(x.grad, out)
    places = gone.double().mean(0)
    assert (places - rate).abs().max() < 5 * (rate / rows) ** 0.5
    pairs = (gone.flatten()[1:] & gone.flatten()[:-1]).double().mean()
    assert abs(pairs - rate**2) < 5 * rate / (25 * rows) ** 0.5
    assert torch.equal(dropout(x, 0.0), x)
    assert dropout(torch.ones(3).expand(2, 3), rate).shape == (2, 3)


def test_dropout_out_of_range_is_refused():
    with pytest.raises(ValueError, match='dropout'):
        encoder(dropout=1.0)
    with pytest.raises(ValueError, match='heads'):
        encoder(num_heads=3)
