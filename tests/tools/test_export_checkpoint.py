import importlib.util
from pathlib import Path

import pytest
import torch

from mmjepa.adapters.sparse_encoder import conv_bn_pairs


@pytest.fixture(scope='module')
def tool():
    path = Path(__file__).parents[2] / 'tools' / 'export_checkpoint.py'
    spec = importlib.util.spec_from_file_location('export_checkpoint', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path):
    state, channels = {}, 5
    for conv, bn in conv_bn_pairs('conv_module'):
        kernel = (3, 1, 1) if conv.startswith('conv_out') else (3, 3, 3)
        state[f'encoder.{conv}.weight'] = torch.randn(8, *kernel, channels)
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            state[f'encoder.{bn}.{name}'] = torch.rand(8)
        state[f'encoder.{bn}.num_batches_tracked'] = torch.tensor(1)
        channels = 8
    path = tmp_path / 'in.pth'
    torch.save({'state_dict': state}, path)
    return path


@pytest.mark.parametrize(
    ('options', 'prefix'),
    [
        ([], 'middle_encoder.'),
        (['--detector', 'second'], 'middle_encoder.'),
        (['--detector', 'centerpoint'], 'pts_middle_encoder.'),
        (['--prefix', 'my.encoder.'], 'my.encoder.'),
    ],
)
def test_export_to_a_detector(tool, checkpoint, tmp_path, capsys, options, prefix):
    out = tmp_path / 'out.pth'
    assert (
        tool.main(
            [str(checkpoint), '--from', 'auto', '--to', 'mmdet3d', '--out', str(out), *options]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert 'found format mmjepa' in printed
    assert '72/72 tensors' in printed
    state = torch.load(out, weights_only=True)['state_dict']
    assert len(state) == 72
    assert all(key.startswith(prefix) for key in state)
    assert state._metadata[f'{prefix}conv_input.0'] == {'version': 2}


def test_errors_are_one_line_and_leave_nothing(tool, checkpoint, tmp_path, capsys):
    out = tmp_path / 'out.pth'
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert (
        tool.main([str(checkpoint), '--from', 'mmjepa', '--to', 'openpcdet', '--out', str(out)])
        == 1
    )
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert 'truncated' in error
    assert error.count('\n') == 1
    assert [p.name for p in tmp_path.iterdir()] == ['in.pth']


def test_detector_needs_mmdet3d(tool, checkpoint):
    with pytest.raises(SystemExit):
        tool.main(
            [
                str(checkpoint),
                '--from',
                'mmjepa',
                '--to',
                'openpcdet',
                '--out',
                'x.pth',
                '--detector',
                'second',
            ]
        )
