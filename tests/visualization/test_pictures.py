import json

import numpy as np
import pytest
import torch
from kitti_scenes import COARSE, write_kitti

from mmjepa.visualization import (
    SweepViews,
    curves_figure,
    pca_colours,
    principal_axes,
    read_scalars,
    save_figure,
    sweep_figure,
    view_sweep,
)
from mmjepa.visualization.curves import group_scalars


def test_principal_axes_of_a_known_ellipsoid():
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator).double())
    scale = torch.tensor([9.0, 4, 2, 0.1, 0.1]).double()
    x = torch.randn(4000, 5, generator=generator).double() * scale @ basis.T + 3
    mean, axes = principal_axes(x, 3)
    assert torch.allclose(mean, torch.full((5,), 3.0).double(), atol=0.5)
    agreement = (axes @ basis[:, :3]).abs()
    assert torch.allclose(agreement, torch.eye(3).double(), atol=0.05)
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()
    # the same picture for the mirrored order of the rows
    assert torch.allclose(principal_axes(x.flip(0), 3)[1], axes, atol=1e-6)


def test_pca_colours_separate_groups_and_leave_the_rest_blank():
    features = torch.zeros(8, 4, 6)
    features[2, :, :3] = 5
    features += 1e-3 * torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(0))
    cells = torch.ones(4, 6, dtype=torch.bool)
    cells[0] = False
    image = pca_colours(features, cells)
    assert image.shape == (4, 6, 3)
    assert (image[0] == 1).all()
    left, right = image[1:, :3, 0], image[1:, 3:, 0]
    assert (left - right.mean()).abs().min() > 0.9
    assert ((image >= 0) & (image <= 1)).all()
    with pytest.raises(ValueError, match='cells must be'):
        pca_colours(features, cells.T)
    with pytest.raises(ValueError, match='two rows'):
        pca_colours(features, torch.zeros(4, 6, dtype=torch.bool))


def views(**changes):
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 4, 8, generator=generator)
    classes = torch.arange(4).repeat(8).view(4, 8).to(torch.uint8)
    fields = {
        'points': np.random.default_rng(0).uniform(-2, 6, (500, 4)).astype(np.float32),
        'point_cloud_range': (0.0, -2.0, -3.0, 8.0, 2.0, 1.0),
        'bev': torch.randn(6, 4, 8, generator=generator),
        'mask_classes': classes,
        'prediction': target * 3,
        'target': target,
        **changes,
    }
    return SweepViews(**fields)


def test_cosine_and_occupancy():
    seen = views()
    assert torch.allclose(seen.cosine, torch.ones(4, 8), atol=1e-6)
    assert int(seen.occupied.sum()) == 16
    assert torch.allclose(views(prediction=-seen.target).cosine, -torch.ones(4, 8), atol=1e-6)


def test_sweep_figure_says_what_it_shows(tmp_path):
    figure = sweep_figure(views(title='a sweep'))
    titles = ' | '.join(ax.get_title() for ax in figure.axes)
    for word in ('Cloud from above', 'Mask: 50%', 'principal components', 'Prediction', 'rank'):
        assert word in titles
    metres = [ax for ax in figure.axes if '(m)' in ax.get_xlabel()]
    assert len(metres) == 4
    assert all('(m)' in ax.get_ylabel() for ax in metres)
    agreement = next(ax for ax in figure.axes if ax.get_title().startswith('Prediction'))
    shown = agreement.images[0].get_array()
    # visible cells are left blank; row 0 of the map lies at the lowest y
    assert np.array_equal(np.ma.getmaskarray(shown), (views().mask_classes & 1).numpy() == 0)
    assert agreement.images[0].origin == 'lower'
    path = save_figure(figure, tmp_path / 'new' / 'sweep.png', dpi=40)
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


@pytest.mark.parametrize('kind', [2, 1])
def test_degenerate_sweeps_are_drawn(kind):
    # nothing occupied; nothing empty
    classes = torch.full((4, 8), kind, dtype=torch.uint8)
    figure = sweep_figure(views(mask_classes=classes, bev=torch.zeros(6, 4, 8)))
    figure.canvas.draw()


def test_view_of_a_real_model(request, tmp_path):
    from mmjepa.apis import init_model

    root = write_kitti(tmp_path / 'kitti', train=1, val=1)
    path = request.config.rootpath / 'configs/adl_jepa/kitti.py'
    model = init_model(path, cfg_options={**COARSE, 'data_root': str(root)})
    sweep = root / 'training/velodyne/000000.bin'
    seen = view_sweep(model, sweep, index=3)
    assert seen.bev.shape == seen.target.shape == (256, 16, 16)
    occupied, masked = int(seen.occupied.sum()), int((seen.mask_classes == 1).sum())
    assert masked == occupied - occupied // 2
    # occupied cells are those of the points that were drawn
    cells = np.floor((seen.points[:, :2] - (0, -12.8)) / 1.6).astype(int)
    assert occupied == len(np.unique(cells, axis=0))
    assert bool(seen.occupied[cells[0, 1], cells[0, 0]])
    assert torch.equal(view_sweep(model, sweep, index=3).mask_classes, seen.mask_classes)
    assert not torch.equal(view_sweep(model, sweep, index=4).mask_classes, seen.mask_classes)
    model.data_preprocessor.point_cloud_range = None
    with pytest.raises(TypeError, match='inspect'):
        view_sweep(model, sweep)


def write_run(folder, name, rows):
    file = folder / name / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(json.dumps(row) for row in rows) + '\n{"loss": 0.')


def test_curves_of_a_resumed_run(tmp_path):
    write_run(
        tmp_path,
        '20260101_000000',
        [
            {'loss': 3.0, 'lr': 1e-3, 'iter': 1, 'step': 1},
            {'loss': 2.0, 'collapse/target_rank': 40.0, 'iter': 2, 'step': 2},
        ],
    )
    write_run(
        tmp_path,
        '20260102_000000',
        [{'loss': 2.5, 'iter': 2, 'step': 2}, {'loss': float('nan'), 'iter': 3, 'step': 3}],
    )
    curves = read_scalars(tmp_path)
    assert curves['loss'] == [(1, 3.0), (2, 2.5)]
    assert curves['collapse/target_rank'] == [(2, 40.0)]
    assert 'step' not in curves
    figure = curves_figure(tmp_path)
    assert {ax.get_title() for ax in figure.axes} >= {'Losses', 'Rank'}
    figure.canvas.draw()


def test_scalars_go_to_their_panels():
    groups = group_scalars(
        ['loss', 'loss_empty', 'collapse/loss_over_trivial', 'lr', 'collapse/cosine', 'strange']
    )
    assert groups['Losses'] == ['loss', 'loss_empty']
    assert groups['Loss over that of the mean target'] == ['collapse/loss_over_trivial']
    assert groups['Others'] == ['strange']


def test_curves_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match='work dir'):
        read_scalars(tmp_path)
    write_run(tmp_path, 'run', [])
    with pytest.raises(ValueError, match='no scalar'):
        read_scalars(tmp_path)
