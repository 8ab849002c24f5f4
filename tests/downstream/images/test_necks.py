"""Necks: strides, what they are made of, and the norms that mmcv builds."""

import pytest
import torch
from torch import nn

from mmjepa.downstream.images.necks import ConcatLevels, MultiLevelRescale, SimpleFPN
from mmjepa.downstream.images.norm import LayerNorm2d, build_norm


def maps(count, height=4, width=6, channels=16):
    return tuple(torch.randn(2, channels, height, width) for _ in range(count))


def kinds(module):
    return [type(m).__name__ for m in module.modules() if not list(m.children())]


def test_four_maps_get_four_strides():
    neck, levels = MultiLevelRescale(16, norm='BN'), maps(4)
    out = neck(levels)
    assert [x.shape for x in out] == [(2, 16, int(4 * s), int(6 * s)) for s in (4, 2, 1, 0.5)]
    assert out[2] is levels[2]
    assert torch.equal(out[3], nn.functional.max_pool2d(levels[3], 2))
    up = 'ConvTranspose2d'
    assert kinds(neck) == [up, 'BatchNorm2d', 'GELU', up, up, 'Identity', 'MaxPool2d']
    assert kinds(MultiLevelRescale(16))[1] == 'SyncBatchNorm'


def test_simple_pyramid():
    neck = SimpleFPN(16, 8)
    out = neck(maps(1))
    assert [x.shape for x in out] == [
        (2, 8, *s) for s in [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    ]
    assert torch.equal(out[4], out[3][:, :, ::2, ::2])
    behind = ['Conv2d', 'LayerNorm2d'] * 2
    up = 'ConvTranspose2d'
    assert kinds(neck) == [
        *(up, 'LayerNorm2d', 'GELU', up, *behind),
        *(up, *behind),
        *behind,
        *('MaxPool2d', *behind),
    ]
    widths = [level[-4].in_channels for level in neck.levels]
    assert widths == [4, 8, 16, 16]
    assert {c.kernel_size for c in neck.modules() if isinstance(c, nn.Conv2d)} == {(1, 1), (3, 3)}
    # 1 x 1 and 3 x 3 without bias, norms with two vectors
    count = sum(p.numel() for p in neck.parameters())
    ups = (16 * 8 * 4 + 8) + (8 * 4 * 4 + 4) + (16 * 8 * 4 + 8) + 2 * 8
    assert count == ups + sum(w * 8 + 8 * 8 * 9 + 4 * 8 for w in widths)


def test_levels_side_by_side():
    neck, levels = ConcatLevels(16, norm='BN').train(), maps(4)
    (out,) = neck(levels)
    assert out.shape == (2, 64, 4, 6)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(64), atol=1e-5, rtol=0)
    flat = torch.cat(levels, 1)
    wanted = (flat - flat.mean((0, 2, 3), keepdim=True)) / flat.std((0, 2, 3), False, keepdim=True)
    torch.testing.assert_close(out, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('neck', [MultiLevelRescale(16), SimpleFPN(16), ConcatLevels(16)])
def test_wrong_number_of_maps(neck):
    with pytest.raises(ValueError, match=r"takes [14] maps?, .* gives 2: set .*'?s out_indices"):
        neck(maps(2))


def test_every_parameter_has_a_gradient():
    for neck, count in ((MultiLevelRescale(16, 'BN'), 4), (SimpleFPN(16, 8), 1)):
        sum((x * torch.randn_like(x)).sum() for x in neck(maps(count))).backward()
        assert all(p.grad is not None and p.grad.any() for p in neck.parameters())


def test_norm_over_channels():
    norm, x = LayerNorm2d(16), torch.randn(2, 16, 3, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    wanted = (x - mean) / (var + 1e-6).sqrt() * norm.weight[:, None, None]
    torch.testing.assert_close(norm(x), wanted + norm.bias[:, None, None])
    with pytest.raises(ValueError, match="norm must be one of BN, SyncBN, LN, got 'GN'"):
        build_norm('GN', 8)


def test_mmcv_builds_it():
    mmcv = pytest.importorskip('mmcv.cnn', exc_type=ImportError)
    config = dict(type='mmjepa.LayerNorm2d', eps=1e-6)
    layer = mmcv.ConvModule(4, 8, 3, padding=1, norm_cfg=config)
    assert type(layer.norm) is LayerNorm2d and layer.norm.eps == 1e-6
    assert layer.conv.bias is None and layer.norm_name == 'ln'
    assert layer(torch.randn(1, 4, 5, 6)).shape == (1, 8, 5, 6)
