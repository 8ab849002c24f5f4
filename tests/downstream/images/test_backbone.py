"""The ViT that gives maps: equal to the plain one, windows, relative positions, freezing."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmjepa.downstream.images.backbone import JEPAViTBackbone
from mmjepa.downstream.images.vitdet_attention import (
    GridAttention,
    from_windows,
    relative_table,
    to_windows,
)
from mmjepa.models.encoders import JEPAViT
from mmjepa.models.layers.transformer import Attention

VIT = dict(arch=(24, 4, 3, 48), img_size=(24, 40), patch_size=8)  # 3 x 5 patches
WINDOWS = dict(window_size=2, global_blocks=(1, 3), rel_pos=True)


def backbone(seed=0, **options):
    torch.manual_seed(seed)
    return JEPAViTBackbone(**{**VIT, **options})


def images(height=24, width=40):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(5))


def attention(window=0, rel_pos=None, seed=1):
    """One whose parameters are all different from their start."""
    torch.manual_seed(seed)
    made = GridAttention(Attention(24, 3), window, rel_pos)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.double()


def as_map(tokens, rows, columns):
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


@pytest.mark.parametrize('size', [(24, 40), (40, 64)], ids=['native', 'interpolated'])
@pytest.mark.parametrize('positions', ['sincos', 'rotary'])
@pytest.mark.parametrize('norm', [True, False])
def test_without_windows_it_is_the_plain_vit(size, positions, norm):
    options = dict(positions=positions, final_norm=norm)
    model = backbone(out_indices=(1, -1), **options)
    plain = JEPAViT(**VIT, **options)
    plain.load_state_dict(model.state_dict())
    ours, theirs = model(images(*size)), plain.layers(images(*size), (1, 3))
    assert [x.shape for x in ours] == [(2, 24, size[0] // 8, size[1] // 8)] * 2
    for x, y in zip(ours, theirs, strict=True):
        assert torch.equal(x, as_map(y, *x.shape[2:]))
    assert not torch.equal(*ours)


def test_the_same_draws_as_the_plain_vit():
    torch.manual_seed(0)
    plain, model = JEPAViT(**VIT).state_dict(), backbone(**WINDOWS).state_dict()
    assert all(torch.equal(plain[k], model[k]) for k in plain)


def test_keys_are_timms_and_relative_positions():
    plain = JEPAViT(**VIT).state_dict()
    added = {f'blocks.{i}.attn.rel_pos_{a}' for i in range(4) for a in 'hw'}
    state = backbone(**WINDOWS).state_dict()
    assert state.keys() == plain.keys() | added
    sides = {k: len(v) for k, v in state.items() if k in added}
    assert [sides[f'blocks.{i}.attn.rel_pos_h'] for i in range(4)] == [3, 5, 3, 5]
    assert [sides[f'blocks.{i}.attn.rel_pos_w'] for i in range(4)] == [3, 9, 3, 9]
    assert not any(state[k].any() for k in added)
    missing, unexpected = backbone(**WINDOWS).load_state_dict(plain, strict=False)
    assert set(missing) == added and not unexpected
    assert backbone().state_dict().keys() == plain.keys()
    assert backbone(**WINDOWS).get_layer_depth('blocks.2.attn.rel_pos_h') == (3, 6)


def test_relative_positions_change_nothing_at_the_start():
    plain, model = backbone(), backbone(rel_pos=True)
    torch.testing.assert_close(model(images()), plain(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('grid', [(4, 6), (5, 7), (1, 3)])
def test_windows_equal_a_loop_over_them(grid):
    """Zeros beyond the edge are keys as all others, whatever they become through the biases."""
    model = attention(window=2)
    x = torch.randn(2, *grid, 24, dtype=torch.float64)
    wanted = torch.zeros_like(x)
    for top in range(0, grid[0], 2):
        for left in range(0, grid[1], 2):
            window = torch.zeros(2, 2, 2, 24, dtype=torch.float64)
            inside = x[:, top : top + 2, left : left + 2]
            h, w = inside.shape[1:3]
            window[:, :h, :w] = inside
            attended = Attention.forward(model, window.flatten(1, 2)).unflatten(1, (2, 2))
            wanted[:, top : top + h, left : left + w] = attended[:, :h, :w]
    torch.testing.assert_close(model(x), wanted)
    assert torch.equal(from_windows(to_windows(x, 3), grid), x)


def test_window_of_the_whole_grid_is_global():
    model = backbone(img_size=(32, 32), rel_pos=True)
    windowed = backbone(img_size=(32, 32), rel_pos=True, window_size=4)
    pair = images(32, 32)
    torch.testing.assert_close(model(pair), windowed(pair))
    local = backbone(img_size=(32, 32), rel_pos=True, window_size=2)
    assert (model(pair)[0] - local(pair)[0]).abs().max() > 1e-3


def naive(model, x):
    """Loops over the formula, with a bias of every pair of tokens."""
    _, h, w, _ = x.shape
    q, k, v = model.qkv(x.flatten(1, 2)).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    bias = torch.zeros(*q.shape[:3], h * w, dtype=x.dtype)
    for i in range(h * w):
        for j in range(h * w):
            down, right = i // w - j // w, i % w - j % w
            sides = model.rel_pos_h[down + h - 1] + model.rel_pos_w[right + w - 1]
            bias[:, :, i, j] = q[:, :, i] @ sides
    weights = (q @ k.transpose(2, 3) / math.sqrt(8) + bias).softmax(-1)
    return model.proj((weights @ v).transpose(1, 2).flatten(2)).unflatten(1, (h, w))


def test_relative_positions_equal_the_formula():
    model = attention(rel_pos=(3, 5))
    x = torch.randn(2, 3, 5, 24, dtype=torch.float64)
    torch.testing.assert_close(model(x), naive(model, x))
    windowed = attention(window=2, rel_pos=(2, 2))
    blocks = to_windows(x, 2)
    wanted = from_windows(naive(windowed, blocks), (3, 5))
    torch.testing.assert_close(windowed(x), wanted)


def test_relative_positions_of_another_length_are_interpolated():
    offsets = torch.linspace(-2, 2, 5)[:, None]  # native length 3, the offset itself
    table = relative_table(offsets, 3)[..., 0]
    assert table.tolist() == [[0, -1, -2], [1, 0, -1], [2, 1, 0]]
    longer = relative_table(offsets, 6)[..., 0]
    assert longer.shape == (6, 6)
    wanted = F.interpolate(offsets.t()[None], 11, mode='linear')[0, 0]
    assert torch.equal(longer[5], wanted[5:].flip(0))
    assert torch.equal(longer[:, 5], wanted[:6])
    model = backbone(**WINDOWS)
    assert model(images(48, 24))[0].shape == (2, 24, 6, 3)


@pytest.mark.parametrize('checkpointed', [False, True])
def test_every_parameter_has_a_gradient(checkpointed):
    model = backbone(**WINDOWS, out_indices=(0, 3), checkpoint_blocks=checkpointed)
    loss = sum((x * torch.randn_like(x)).sum() for x in model(images()))
    loss.backward()
    none = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert none == []


def test_frozen_whatever_the_mode_is():
    model = backbone(**WINDOWS, frozen=True, drop_path_rate=0.9)
    first = model(images())[0]
    model.train()
    model.requires_grad_()  # by somebody else
    second = model(images())[0]
    assert not model.training and not any(m.training for m in model.modules())
    assert not second.requires_grad
    assert torch.equal(first, second)
    assert not any(p.requires_grad for p in backbone(frozen=True).parameters())
    assert backbone().train().training


def test_bf16_stays_close():
    model = backbone(**WINDOWS)
    for name, parameter in model.named_parameters():
        if 'rel_pos' in name:
            torch.nn.init.normal_(parameter, std=0.2)
    full = model(images())[0]
    with torch.autocast('cpu', torch.bfloat16):
        half = model(images())[0]
    assert (full - half).abs().max() < 0.1


@pytest.mark.slow
def test_compiled_gives_the_same():
    model = backbone(**WINDOWS)
    compiled = torch.compile(model)
    torch.testing.assert_close(compiled(images()), model(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(global_blocks=(1,)), r'global_blocks=\[1\] .* need window_size > 0'),
        (dict(window_size=2, global_blocks=(4,)), r'global_blocks=\[4\] must be among the 4'),
        (dict(window_size=2, positions='rotary'), "need positions='sincos' or 'learned'"),
        (dict(rel_pos=True, positions='rotary'), "need positions='sincos' or 'learned'"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ValueError, match=message):
        backbone(**options)


def test_images_that_are_not_whole_patches_name_the_remedy():
    with pytest.raises(
        ValueError, match=r'30 x 40 pixels [^:]*: set pad_size_divisor .* size_divisor'
    ):
        backbone()(images(30, 40))
    with pytest.raises(ValueError, match='keep_ids must be None'):
        backbone().layers(images(), (0,), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match='windows'):
        backbone(windows=3)
