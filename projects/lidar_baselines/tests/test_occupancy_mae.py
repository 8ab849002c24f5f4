"""Occupancy-MAE against its description: masks, targets, loss, decoder, learning."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from lidar_cases import batch, build, train
from torch import nn

from mmjepa.models.encoders import SparseVoxelEncoder
from mmjepa.models.masks.counter_rng import counter_uniform
from projects.lidar_baselines.lidar_baselines.decoders import OccupancyDecoder
from projects.lidar_baselines.lidar_baselines.losses import occupancy_bce
from projects.lidar_baselines.lidar_baselines.masks import RangeAwareMaskGenerator
from projects.lidar_baselines.lidar_baselines.targets import OccupiedVoxels

RANGE, VOXEL, SHAPE = [0, -40, -3, 70.4, 40, 1], [0.4, 0.4, 0.4], (11, 200, 176)


def voxels(counts=(4000, 3000)):
    """(M, 4) distinct random voxels of some samples, as b, z, y, x in ascending order."""
    parts = []
    for b, count in enumerate(counts):
        number = torch.arange(math.prod(SHAPE))
        draw = counter_uniform(torch.tensor(b), number)
        chosen = draw.argsort()[:count].sort().values
        z, rest = chosen // (SHAPE[1] * SHAPE[2]), chosen % (SHAPE[1] * SHAPE[2])
        parts.append(torch.stack([torch.full_like(z, b), z, rest // SHAPE[2], rest % SHAPE[2]], 1))
    return torch.cat(parts)


def metres(coors):
    """Horizontal distance of the voxels' centres from the sensor."""
    x = RANGE[0] + (coors[:, 3] + 0.5) * VOXEL[0]
    y = RANGE[1] + (coors[:, 2] + 0.5) * VOXEL[1]
    return (x**2 + y**2).sqrt()


def shares(generator, coors, distance, seeds):
    """Visible and all voxels of each sample and band (0-30, 30-50, beyond) of a distance."""
    masks = generator(coors, len(seeds), SHAPE, seeds)
    visible = torch.zeros(len(coors), dtype=torch.bool)
    visible[masks.visible_voxels] = True
    assert not visible[masks.masked_voxels].any()
    assert len(masks.visible_voxels) + len(masks.masked_voxels) == len(coors)
    for rows in (masks.visible_voxels, masks.masked_voxels):
        assert (rows.diff() > 0).all()
    found = []
    for b in range(len(seeds)):
        for low, high in ((0, 30), (30, 50), (50, 1e9)):
            here = (coors[:, 0] == b) & (distance >= low) & (distance < high)
            found.append((int(visible[here].sum()), int(here.sum())))
    return found


def test_ratios_are_exact_in_every_band_of_metres():
    coors, seeds = voxels(), torch.tensor([5, 6])
    generator = RangeAwareMaskGenerator(RANGE, VOXEL, keep_ratios=(0.5, 0.7, 0.9))
    found = shares(generator, coors, metres(coors), seeds)
    assert all(total > 100 for _, total in found)
    for (visible, total), ratio in zip(found, (0.5, 0.7, 0.9) * 2, strict=True):
        assert visible == int(total * ratio)


def test_released_rule_counts_voxels_from_the_corner():
    coors, seeds = voxels(), torch.tensor([5, 6])
    generator = RangeAwareMaskGenerator(RANGE, VOXEL, distance='corner_index')
    distance = (coors[:, 2] ** 2 + coors[:, 3] ** 2).float().sqrt()
    found = shares(generator, coors, distance, seeds)
    for (visible, total), ratio in zip(found, (0.5, 0.7, 0.7) * 2, strict=True):
        assert visible == int(total * ratio)
    # the voxels before the sensor, in the middle of the left border, count as far
    near = coors[metres(coors) < 10]
    assert (RangeAwareMaskGenerator(RANGE, VOXEL).bands(near) == 0).all()
    assert (generator.bands(near) == 2).all()


def test_masks_depend_on_seed_and_place_alone():
    coors, seeds = voxels(), torch.tensor([5, 6])
    generator = RangeAwareMaskGenerator(RANGE, VOXEL)
    whole = coors[generator(coors, 2, SHAPE, seeds).masked_voxels]
    # another order of the voxels
    order = torch.randperm(len(coors), generator=torch.Generator().manual_seed(0))
    shuffled = coors[order][generator(coors[order], 2, SHAPE, seeds).masked_voxels]
    assert {tuple(row) for row in shuffled.tolist()} == {tuple(row) for row in whole.tolist()}
    # the second sample alone
    alone = coors[coors[:, 0] == 1] - torch.tensor([1, 0, 0, 0])
    drawn = alone[generator(alone, 1, SHAPE, seeds[1:]).masked_voxels]
    assert torch.equal(drawn[:, 1:], whole[whole[:, 0] == 1][:, 1:])
    other = coors[generator(coors, 2, SHAPE, seeds + 1).masked_voxels]
    assert not torch.equal(other, whole)


@pytest.mark.parametrize(('count', 'visible'), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_few_voxels_are_neither_all_hidden_nor_all_seen(count, visible):
    coors = torch.tensor([[0, 0, 100, i] for i in range(count)])
    masks = RangeAwareMaskGenerator(RANGE, VOXEL)(coors, 1, SHAPE, torch.tensor([3]))
    assert len(masks.visible_voxels) == visible


def test_targets_are_the_voxels():
    coors = voxels((300, 200))
    dense = torch.zeros(2, *SHAPE)
    dense.view(-1)[OccupiedVoxels()(coors, SHAPE)] = 1
    assert torch.equal(dense.nonzero(), coors)


def test_the_whole_input_is_the_target():
    model = build('OccupancyMAE')
    inputs = batch(model)
    model.predictor.register_forward_hook(lambda m, i, out: torch.full_like(out, -20.0))
    loss = model.loss(inputs)['loss_occupancy']
    wanted = 20 * len(inputs['coors']) / (2 * math.prod(model.encoder.sparse_shape))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize('logit', [-3.0, 0.0, 2.0])
def test_bce_of_a_constant_logit(logit):
    logits = torch.full((2, 4, 5, 6), logit)
    occupied = torch.tensor([0, 17, 239])
    p = 1 / (1 + math.exp(-logit))
    wanted = -(3 * math.log(p) + 237 * math.log(1 - p)) / 240
    assert occupancy_bce(logits, occupied).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_bce_and_its_gradient_equal_the_dense_ones(dtype):
    mine = torch.randn(2, 4, 5, 6).to(dtype).requires_grad_()
    other = mine.detach().clone().requires_grad_()
    occupied = torch.tensor([3, 200, 17])
    target = torch.zeros(240)
    target[occupied] = 1
    wanted = F.binary_cross_entropy_with_logits(other.float().flatten(), target)
    loss = occupancy_bce(mine, occupied)
    torch.testing.assert_close(loss, wanted)
    (3 * loss).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize(
    'shape', [(41, 64, 64), (61, 32, 32), (41, 50, 44), (81, 24, 40), (47, 17, 33)]
)
def test_decoder_covers_the_grid(shape):
    """Its output has the grid of the input, and every voxel follows from some feature."""
    encoder = SparseVoxelEncoder(4, shape)
    grid = (encoder.out_depth, *encoder.bev_shape)
    decoder = OccupancyDecoder(4, grid, shape, channels=(3, 2))
    for layer in decoder:
        if isinstance(layer, nn.ConvTranspose3d):
            nn.init.ones_(layer.weight)
            assert all(
                stride <= kernel
                for stride, kernel in zip(layer.stride, layer.kernel_size, strict=True)
            )
    nn.init.zeros_(decoder[-1].bias)
    out = decoder.eval()(torch.ones(1, 4, *grid))
    assert out.shape == (1, *shape)
    assert (out > 0).all()


def test_decoder_as_described():
    decoder = OccupancyDecoder(128, (2, 200, 176), (41, 1600, 1408))
    layers = [layer for layer in decoder if isinstance(layer, nn.ConvTranspose3d)]
    widths = [128, 32, 8, 1]
    assert [(a.in_channels, a.out_channels) for a in layers] == list(pairwise(widths))
    assert [a.stride for a in layers] == [(2, 2, 2), (4, 2, 2), (3, 2, 2)]


@pytest.mark.parametrize('depth', [40, 33, 51])
def test_grids_that_do_not_fit_raise(depth):
    encoder = SparseVoxelEncoder(4, (depth, 32, 32))
    with pytest.raises(ValueError, match=rf'\({depth}, 32, 32\).*41 and 61 slices'):
        OccupancyDecoder(128, (encoder.out_depth, *encoder.bev_shape), encoder.sparse_shape)
    with pytest.raises(ValueError, match='strides needs 3'):
        OccupancyDecoder(128, (2, 4, 4), (41, 32, 32), strides=(2, 2))


def test_dropped_voxels_reach_the_encoder_in_no_way():
    model = build('OccupancyMAE')
    inputs = batch(model)
    seen = []
    model.encoder.conv_input[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    masks = model.mask_generator(inputs['coors'], 2, model.encoder.sparse_shape, inputs['seeds'])
    losses = model.loss(inputs)
    assert torch.equal(seen[0].indices.long(), inputs['coors'][masks.visible_voxels])
    assert torch.equal(seen[0].features, inputs['feats'][masks.visible_voxels])
    changed = dict(inputs, feats=inputs['feats'].clone())
    changed['feats'][masks.masked_voxels] += 5
    again = model.loss(changed)
    assert torch.equal(again['loss_occupancy'], losses['loss_occupancy'])


def test_probabilities_are_those_of_the_two_parts():
    model = build('OccupancyMAE')
    inputs = batch(model)
    masks = model.mask_generator(inputs['coors'], 2, model.encoder.sparse_shape, inputs['seeds'])
    occupied = model.target(model.encoder, inputs['coors'], model.encoder.sparse_shape)

    def certain(module, args, out):
        logits = torch.full_like(out, -30.0)
        logits.view(-1)[occupied[masks.masked_voxels]] = 30.0
        return logits

    model.predictor.register_forward_hook(certain)
    losses = model.loss(inputs)
    assert losses['probability_masked'].item() == pytest.approx(1)
    assert losses['probability_visible'].item() == pytest.approx(0, abs=1e-6)


def test_it_learns():
    history = train(build('OccupancyMAE'), 30, 3e-3)
    assert history[-1]['loss_occupancy'] < 0.6 * history[0]['loss_occupancy']


def test_it_learns_where():
    """From the share of occupied voxels on, only a prediction of places lowers the loss."""
    history = train(build('OccupancyMAE', prior=0.005), 30, 3e-3)
    first, last = history[0], history[-1]
    assert first['probability_masked'] == pytest.approx(0.005, rel=0.3)
    assert last['loss_occupancy'] < 0.85 * first['loss_occupancy']
    assert last['probability_masked'] > 3 * first['probability_masked']


def test_prior_must_be_a_probability():
    with pytest.raises(ValueError, match='prior must lie'):
        OccupancyDecoder(128, (2, 4, 4), (41, 32, 32), prior=1.0)
