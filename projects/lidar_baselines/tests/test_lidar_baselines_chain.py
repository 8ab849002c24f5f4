"""From the command line to a detector's checkpoint; devices and processes."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from lidar_cases import BASELINES, CASES, batch, build
from toy_lidar import write_toy_sweeps

from mmjepa.apis import extract_bev, init_model


@pytest.fixture
def export(repo):
    """Main function of tools/export_checkpoint.py."""
    path = repo / 'tools' / 'export_checkpoint.py'
    spec = importlib.util.spec_from_file_location('export_checkpoint', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def check_export(export, checkpoint, out, capsys):
    """Every tensor of the encoder arrives under the detector's name, bit for bit."""
    argv = [str(checkpoint), '--from', 'mmjepa', '--to', 'mmdet3d', '--out', str(out)]
    assert export([*argv, '--detector', 'second']) == 0
    assert '72/72 tensors' in capsys.readouterr().out
    state = torch.load(out, weights_only=True)['state_dict']
    trained = torch.load(checkpoint, weights_only=False)['state_dict']
    trained = {k.removeprefix('encoder.'): v for k, v in trained.items() if k[:8] == 'encoder.'}
    assert state.keys() == {f'middle_encoder.{key}' for key in trained}
    assert all(torch.equal(state[f'middle_encoder.{key}'], v) for key, v in trained.items())
    assert state._metadata['middle_encoder.conv_input.0'] == {'version': 2}


@pytest.mark.parametrize('name', BASELINES)
def test_export(name, export, tmp_path, capsys):
    case = CASES[name]
    root = case.make_data(tmp_path / 'toy')
    runner = case.runner(root, tmp_path / 'w', max_iters=1)
    runner.train()
    checkpoint = tmp_path / 'w' / 'iter_1.pth'
    check_export(export, checkpoint, tmp_path / 'out.pth', capsys)
    # and probes and pictures read it
    model = init_model(case.load(root), checkpoint)
    bev = extract_bev(model, root / 'training' / 'velodyne' / '000000.bin')
    assert bev.shape[-3:] == (256, 8, 8)


@pytest.mark.parametrize('name', BASELINES)
def test_everything_is_trained(name):
    """The target has no parameter; the optimizer has all there are."""
    model = build(name)
    assert not list(model.target.parameters())
    assert not model.target.moves
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        feats = model.extract_feat(batch(model))
    assert feats.shape == (2, model.encoder.out_channels, *model.encoder.bev_shape)


def test_command_line(repo, tmp_path, export, capsys):
    """The documented command, in a process that has the root of the checkout on its path."""
    write_toy_sweeps(tmp_path / 'toy', 4, extent=12.8, ground=400, boxes=3)
    env = {**os.environ, 'PYTHONPATH': str(repo), 'OMP_NUM_THREADS': '1'}
    command = [
        sys.executable, 'tools/train.py', 'projects/lidar_baselines/configs/bev_mae_kitti.py',
        '--work-dir', str(tmp_path / 'work'), '--cfg-options', f'data_root={tmp_path / "toy"}',
        'batch_size=2', 'num_workers=0', 'max_iters=2', 'log_interval=1',
        'model.encoder.backend=rulebook',  # spconv takes seconds to import
        'voxel_size=[0.2,0.2,0.1]', 'point_cloud_range=[0,-6.4,-3,12.8,6.4,1]',
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'loss_points' in done.stdout + done.stderr
    check_export(export, tmp_path / 'work' / 'iter_2.pth', tmp_path / 'out.pth', capsys)


@pytest.mark.parametrize('name', BASELINES)
def test_bf16(name):
    """Under autocast the losses stay float32 and near those without."""
    model = build(name)
    inputs = batch(model)
    plain = model.loss(inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = model.loss(inputs)
    for key, value in plain.items():
        assert mixed[key].dtype == torch.float32
        torch.testing.assert_close(mixed[key], value, rtol=0.05, atol=1e-3)
    model.parse_losses(mixed)[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.cuda
@pytest.mark.parametrize('name', BASELINES)
def test_first_loss_equals_the_cpu(name):
    """Same weights, samples and masks; spconv's kernels against its CPU ones."""
    model = build(name)
    on_cpu = model.loss(batch(model))
    model.cuda()
    on_gpu = model.loss(batch(model))
    for key, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[key].cpu(), value, rtol=1e-2, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize('name', BASELINES)
def test_a_step_at_the_published_grid(name):
    model = build(name, voxel_size=[0.05, 0.05, 0.1], point_cloud_range=[0, -40, -3, 70.4, 40, 1])
    model.cuda()
    model.parse_losses(model.loss(batch(model)))[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
