"""BEV-MAE against its description: masking, token, targets, losses, learning."""

import pytest
import torch
from lidar_cases import batch, build, train

from projects.lidar_baselines.lidar_baselines.decoders import CellPointDecoder
from projects.lidar_baselines.lidar_baselines.losses import CellPointLoss, masked_chamfer
from projects.lidar_baselines.lidar_baselines.targets import CellPoints


@pytest.fixture(scope='module')
def model():
    return build('BEVMAE')


@pytest.fixture
def inputs(model):
    return batch(model)


def cell_of(model, coors):
    """(M,) BEV cell of each voxel, one by one."""
    h, w = model.encoder.bev_shape
    return torch.tensor([(b * h + y // 8) * w + x // 8 for b, _, y, x in coors.tolist()])


def test_the_ratio_is_exact_among_occupied_cells(model, inputs):
    masks, _ = model._masked(inputs)
    occupied = cell_of(model, inputs['coors']).unique()
    assert set(masks.visible_occupied.tolist()) | set(masks.masked_occupied.tolist()) == set(
        occupied.tolist()
    )
    assert len(masks.masked_empty) == 0
    per_sample = model.encoder.bev_shape[0] * model.encoder.bev_shape[1]
    for b in range(2):
        total = int((occupied // per_sample == b).sum())
        hidden = int((masks.masked_occupied // per_sample == b).sum())
        assert hidden == total - int(total * (1 - 0.7))


def test_masked_voxels_keep_their_places_and_lose_their_features(model, inputs):
    seen = []
    first = model.encoder.conv_input[0]
    handle = first.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    masks, _ = model._masked(inputs)
    losses = model.loss(inputs)
    hidden = torch.isin(cell_of(model, inputs['coors']), masks.masked_occupied)
    assert torch.equal(hidden.nonzero()[:, 0], masks.masked_voxels)
    assert 0 < hidden.sum() < len(hidden)
    assert torch.equal(seen[0].indices.long(), inputs['coors'])
    token = model.point_token.detach().expand(len(hidden), -1)
    assert torch.equal(seen[0].features[hidden], token[hidden])
    assert torch.equal(seen[0].features[~hidden], inputs['feats'][~hidden])
    # nothing of the hidden features arrives any other way
    changed = dict(inputs, feats=inputs['feats'].clone())
    changed['feats'][hidden] += 5
    again = model.loss(changed)
    assert all(torch.equal(again[k], losses[k]) for k in losses)
    handle.remove()


def test_points_keep_the_cells_of_their_voxels(model, inputs):
    """Voxels of the points are the voxels that the encoder gets."""
    whole = inputs['points'].floor().long()
    coors = torch.cat([inputs['point_sample'][:, None], whole.flip(1)], 1).unique(dim=0)
    assert torch.equal(coors, inputs['coors'])


def targets(model, inputs, cells, transform=None):
    return (transform or model.target.transform)(
        inputs['points'],
        inputs['point_sample'],
        cells,
        inputs['grid_shape'],
        model.encoder.bev_shape,
        model.encoder.stride,
        inputs['seeds'],
    )


@pytest.mark.parametrize('max_points', [5, 64])
def test_targets_against_a_loop_over_points(model, inputs, max_points):
    h, w = model.encoder.bev_shape
    assert inputs['grid_shape'] == (40, 64, 64)
    held = {}
    for b, (x, y, z) in zip(
        inputs['point_sample'].tolist(), inputs['points'].tolist(), strict=True
    ):
        column, row = int(x // 8), int(y // 8)
        local = (x / 8 - column - 0.5, y / 8 - row - 0.5, z / 40 - 0.5)
        held.setdefault((b * h + row) * w + column, []).append(local)
    cells = model._masked(inputs)[0].masked_occupied
    found = targets(model, inputs, cells, CellPoints(max_points))
    assert found.points.shape == (len(cells), max_points, 3)
    sizes = [len(held[cell]) for cell in cells.tolist()]
    assert min(sizes) < 5 < max(sizes)
    assert torch.equal(found.density, torch.tensor(sizes) / 64)
    for i, cell in enumerate(cells.tolist()):
        mine = found.points[i][found.valid[i]]
        assert len(mine) == min(sizes[i], max_points)
        distance = torch.cdist(mine, torch.tensor(held[cell]))
        nearest = distance.min(1)
        assert nearest.values.max() < 1e-5
        assert len(nearest.indices.unique()) == len(mine)
        assert (found.points[i][~found.valid[i]] == 0).all()
    assert found.points.abs().max() <= 0.5


def test_the_choice_of_points_is_a_function_of_the_seed(model, inputs):
    cells = model._masked(inputs)[0].masked_occupied
    first, again = (targets(model, inputs, cells, CellPoints(5)) for _ in range(2))
    assert torch.equal(first.points, again.points)
    other = targets(model, dict(inputs, seeds=inputs['seeds'] + 1), cells, CellPoints(5))
    assert torch.equal(other.density, first.density)
    assert not torch.equal(other.points, first.points)


def test_points_out_of_the_grid_count_for_nothing():
    nan, inf = float('nan'), float('inf')
    points = torch.tensor(
        [[4, 4, 5], [-1, 4, 5], [4, 4, 10], [16, 4, 5], [nan, 4, 5], [4, inf, 5], [12, 4, 2.5]]
    )
    found = CellPoints(3)(
        points, torch.zeros(7, dtype=torch.long), torch.tensor([0, 1, 3]), (10, 16, 16), (2, 2), 8,
        torch.tensor([1]),
    )  # fmt: skip
    assert found.valid.sum(1).tolist() == [1, 1, 0]
    assert torch.equal(found.density, torch.tensor([1, 1, 0]) / 64)
    torch.testing.assert_close(found.points[:2, 0], torch.tensor([[0, 0, 0], [0, 0, -0.25]]))


def test_chamfer_of_known_sets():
    target = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [9, 9, 9]]])
    prediction = torch.tensor([[[0.0, 0, 0], [0, 2, 0]]])
    two = torch.tensor([[True, True, False]])
    # there: 0 and 4 to the origin; back: 0, and 1 from (1, 0, 0) to the origin
    assert masked_chamfer(prediction, target, two).tolist() == [2.0 + 0.5]
    one = torch.tensor([[False, True, False]])
    # there: 1 and 1 + 4; back: 1
    assert masked_chamfer(prediction, target, one).tolist() == [3.0 + 1.0]
    assert masked_chamfer(prediction, target, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [0]


def test_chamfer_against_its_definition():
    g = torch.Generator().manual_seed(0)
    prediction = torch.rand(6, 20, 3, generator=g) - 0.5
    target = torch.rand(6, 64, 3, generator=g) - 0.5
    valid = torch.arange(64) < torch.tensor([1, 2, 20, 40, 63, 64])[:, None]
    mine = prediction.clone().requires_grad_()
    other = prediction.clone().requires_grad_()
    found = masked_chamfer(mine, target, valid)
    wanted = []
    for p, t, v in zip(other, target, valid, strict=True):
        d = (p[:, None] - t[v][None]).square().sum(2)
        wanted.append(d.min(1).values.mean() + d.min(0).values.mean())
    torch.testing.assert_close(found, torch.stack(wanted))
    found.sum().backward()
    sum(wanted).backward()
    torch.testing.assert_close(mine.grad, other.grad)


def test_loss_in_closed_form():
    module = CellPointLoss(points_weight=2.0, density_weight=3.0)
    points = torch.zeros(2, 1, 3)
    target = torch.tensor([[[1.0, 0, 0]], [[0.0, 2, 0]]])
    losses = module(
        points, torch.tensor([0.5, 3.0]), target, torch.ones(2, 1, dtype=torch.bool),
        torch.tensor([0.0, 1.0]),
    )  # fmt: skip
    assert losses['loss_points'].item() == pytest.approx(2 * (2 + 8) / 2)
    assert losses['loss_density'].item() == pytest.approx(3 * (0.5 * 0.25 + 1.5) / 2)


def test_no_masked_cell_is_no_loss():
    """Samples of one occupied cell each have nothing to hide."""
    losses = CellPointLoss()(
        torch.zeros(0, 20, 3, requires_grad=True), torch.zeros(0), torch.zeros(0, 64, 3),
        torch.zeros(0, 64, dtype=torch.bool), torch.zeros(0),
    )  # fmt: skip
    assert [v.item() for v in losses.values()] == [0, 0]
    assert losses['loss_points'].requires_grad


def test_prediction_is_read_at_the_masked_cells(model, inputs):
    """A decoder that says the right points and densities everywhere has no loss."""
    masks, _ = model._masked(inputs)
    found = targets(model, inputs, masks.masked_occupied)
    h, w = model.encoder.bev_shape
    table = torch.full((2 * h * w, 61), 7.0)
    # each cell's points in turn, twenty times over
    turn = torch.arange(20) % found.valid.sum(1, keepdim=True)
    told = found.points.gather(1, turn[..., None].expand(-1, -1, 3))
    table[masks.masked_occupied] = torch.cat([told.flatten(1), found.density[:, None]], 1)
    perfect = table.view(2, h, w, 61).permute(0, 3, 1, 2)
    handle = model.predictor.register_forward_hook(lambda *args: perfect)
    losses = model.loss(inputs)
    handle.remove()
    assert losses['loss_density'] == 0
    few = found.valid.sum(1) <= 20
    assert few.float().mean() > 0.5
    wanted = masked_chamfer(told, found.points, found.valid)
    assert (wanted[few] == 0).all()
    torch.testing.assert_close(losses['loss_points'], wanted.mean())


def test_decoder():
    decoder = CellPointDecoder(256)
    assert [tuple(p.shape) for p in decoder.parameters()] == [(61, 256, 3, 3), (61,)]
    points, density = decoder.split(torch.arange(122.0).view(2, 61))
    assert points.shape == (2, 20, 3)
    assert points[1, 0].tolist() == [61, 62, 63]
    assert density.tolist() == [60, 121]
    with pytest.raises(ValueError, match='num_points'):
        CellPointDecoder(256, 0)


@pytest.mark.parametrize('bad', [dict(max_points=0), dict(density_unit=0)])
def test_impossible_targets_raise(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        CellPoints(**bad)


def test_gradients_reach_token_encoder_and_decoder():
    model = build('BEVMAE')
    losses = model.loss(batch(model))
    (losses['loss_points'] + losses['loss_density']).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_learns():
    history = train(build('BEVMAE'), 30, 1e-3)
    first, last = history[0], history[-1]
    assert last['loss_points'] < 0.4 * first['loss_points']
    assert last['loss_density'] < 0.3 * first['loss_density']
