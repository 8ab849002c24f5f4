import pytest
import torch

from mmjepa.adapters.sparse_encoder import conv_bn_pairs

WIDTHS = {  # output channels of every convolution, in order
    'conv_module': (16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64, 128),
    'basicblock': (16, *[16] * 4, 32, *[32] * 4, 64, *[64] * 4, 128, *[128] * 4, 128),
}


def _make(block_type='conv_module', in_channels=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for (conv, bn), out in zip(conv_bn_pairs(block_type), WIDTHS[block_type], strict=True):
        kernel = (3, 1, 1) if conv.startswith('conv_out') else (3, 3, 3)
        state[f'{conv}.weight'] = torch.randn(out, *kernel, in_channels, generator=rng)
        for name in ('weight', 'bias', 'running_mean'):
            state[f'{bn}.{name}'] = torch.randn(out, generator=rng)
        state[f'{bn}.running_var'] = torch.rand(out, generator=rng) + 0.5
        state[f'{bn}.num_batches_tracked'] = torch.tensor(7)
        in_channels = out
    return state


@pytest.fixture
def make_state():
    """Random weights of a sparse voxel encoder in the common form."""
    return _make


@pytest.fixture
def mmjepa_file(tmp_path):
    """A full pre-training checkpoint: online encoder (seed 0), target (seed 1), the rest."""
    state = {f'encoder.{k}': v for k, v in _make(seed=0).items()}
    state |= {f'target.encoder.{k}': v for k, v in _make(seed=1).items()}
    state |= {'mask_token': torch.zeros(1, 256, 1, 1), 'predictor.0.weight': torch.zeros(3)}
    cfg = "seed = 0\nmodel = dict(type='ADLJEPA', encoder=dict(type='SparseVoxelEncoder'))\n"
    path = tmp_path / 'epoch_30.pth'
    torch.save({'meta': {'cfg': cfg, 'epoch': 30}, 'state_dict': state, 'optimizer': {}}, path)
    return path
