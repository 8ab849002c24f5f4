import itertools
import json
import struct

import pytest
import torch

from mmjepa.adapters import FORMATS, detect_format, read_encoder, write_encoder
from mmjepa.adapters.convert import __version__
from mmjepa.adapters.sparse_encoder import KERNEL_LAYOUTS
from mmjepa.engine.checkpoint import CheckpointError, load_file


def _name(fmt):
    return f'{fmt}.safetensors' if fmt == 'safetensors' else f'{fmt}.pth'


@pytest.mark.parametrize(('source', 'target'), list(itertools.permutations(FORMATS, 2)))
def test_every_pair_of_formats_and_back(tmp_path, mmjepa_file, make_state, source, target):
    start = read_encoder(mmjepa_file, 'mmjepa')
    first, second, third = tmp_path / _name(source), tmp_path / _name(target), tmp_path / 'c.pth'
    assert write_encoder(start, first, source) == (72, 72)
    assert write_encoder(read_encoder(first, 'auto'), second, target) == (72, 72)
    back = read_encoder(second, 'auto')
    assert write_encoder(back, third, 'mmjepa') == (72, 72)
    state = load_file(third)['state_dict']
    assert set(state) == {f'encoder.{k}' for k in make_state()}
    assert all(torch.equal(state[f'encoder.{k}'], v) for k, v in make_state(seed=0).items())
    assert back.meta['method'] == 'ADLJEPA'
    assert back.meta['origin'].startswith('epoch_30.pth sha256:')
    assert 'SparseVoxelEncoder' in back.meta['cfg']


def test_online_is_the_default_and_target_on_request(mmjepa_file, make_state):
    online, target = (read_encoder(mmjepa_file, 'mmjepa', which=w) for w in (None, 'target'))
    assert torch.equal(online.state['conv_out.0.weight'], make_state(seed=0)['conv_out.0.weight'])
    assert torch.equal(target.state['conv_out.0.weight'], make_state(seed=1)['conv_out.0.weight'])
    assert 'left out 74 tensors' in online.notes[0]
    with pytest.raises(ValueError, match='--from mmjepa'):
        read_encoder(mmjepa_file, 'mmdet3d', which='target')


def test_provenance(tmp_path, mmjepa_file):
    import hashlib

    write_encoder(read_encoder(mmjepa_file, 'mmjepa'), tmp_path / 'a.pth', 'mmdet3d')
    meta = torch.load(tmp_path / 'a.pth', weights_only=True)['meta']
    digest = hashlib.sha256(mmjepa_file.read_bytes()).hexdigest()
    assert meta['source'] == 'epoch_30.pth'
    assert meta['source_sha256'] == digest
    assert (meta['source_format'], meta['source_prefix']) == ('mmjepa', 'encoder.')
    assert (meta['mmjepa_version'], meta['method']) == (__version__, 'ADLJEPA')


def test_safetensors_header_is_plain_text(tmp_path, mmjepa_file):
    out = tmp_path / 'a.safetensors'
    write_encoder(read_encoder(mmjepa_file, 'mmjepa'), out, 'safetensors')
    data = out.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack('<Q', data[:8])[0]])
    assert header['__metadata__']['format'] == 'safetensors'
    assert header['__metadata__']['source'] == 'epoch_30.pth'
    assert header['conv_input.0.weight']['shape'] == [16, 3, 3, 3, 4]
    with pytest.raises(ValueError, match='suffix'):
        write_encoder(read_encoder(out, 'auto'), tmp_path / 'b.safetensors', 'mmdet3d')


@pytest.mark.parametrize('layout', ['RSCK', 'RSKC'])
@pytest.mark.parametrize('block_type', ['conv_module', 'basicblock'])
def test_kernel_layout_is_explicit(tmp_path, make_state, layout, block_type):
    state = make_state(block_type)
    inverse = [KERNEL_LAYOUTS[layout].index(i) for i in range(5)]
    old = {
        f'middle_encoder.{k}': v.permute(inverse) if v.ndim == 5 else v for k, v in state.items()
    }
    path = tmp_path / 'old.pth'
    torch.save({'state_dict': old}, path)
    encoder = read_encoder(path, 'mmdet3d', layout=layout)
    assert all(torch.equal(encoder.state[k], v) for k, v in state.items())
    with pytest.raises(CheckpointError, match=f'kernel layout {layout} fits'):
        read_encoder(path, 'mmdet3d')


def _bad(state, kind):
    if kind == 'missing':
        del state['conv_out.0.weight']
    elif kind == 'unexpected':
        state['extra.weight'] = torch.zeros(1)
    elif kind == 'shape':
        state['encoder_layers.encoder_layer3.0.0.weight'] = torch.zeros(64, 3, 3, 3, 16)
    elif kind == 'bn shape':
        state['conv_input.1.running_var'] = torch.zeros(1)
    elif kind == 'nan':
        state['conv_input.1.running_mean'][3] = float('nan')
    return state


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('missing', r"1 of 72 tensors missing \['conv_out.0.weight'\]"),
        ('unexpected', r"1 unexpected \['extra.weight'\]"),
        ('shape', 'encoder_layer3.0.0.weight is .*expected'),
        ('bn shape', 'conv_input.1.running_var'),
        ('nan', 'NaN or Inf in 1 tensors, first conv_input.1.running_mean'),
    ],
)
@pytest.mark.parametrize('prefix', ['encoder.', 'middle_encoder.'])
def test_damaged_encoders_are_refused(tmp_path, make_state, prefix, kind, words):
    path = tmp_path / 'bad.pth'
    torch.save({'state_dict': {prefix + k: v for k, v in _bad(make_state(), kind).items()}}, path)
    with pytest.raises(CheckpointError, match=words) as error:
        read_encoder(path, 'auto')
    assert 'bad.pth' in str(error.value)


def test_other_methods_checkpoint_is_refused(tmp_path):
    path = tmp_path / 'vit.pth'
    cfg = "model = dict(encoder=dict(type='JEPAViT'), type='mmjepa.models.IJEPA')"
    torch.save({'meta': {'cfg': cfg}, 'state_dict': {'encoder.blocks.0.w': torch.zeros(2)}}, path)
    with pytest.raises(CheckpointError, match=r'no sparse voxel encoder.*method IJEPA'):
        read_encoder(path, 'mmjepa')
    with pytest.raises(CheckpointError, match='give --from'):
        read_encoder(path, 'auto')


def test_wrong_format_is_refused(tmp_path, mmjepa_file, make_state):
    with pytest.raises(
        CheckpointError, match=r"encoders lie below \['encoder.', 'target.encoder.'\]"
    ):
        read_encoder(mmjepa_file, 'mmdet3d')
    torch.save({f'encoder.{k}': v for k, v in make_state().items()}, tmp_path / 'a.pth')
    for wrong in ('mmdet3d', 'openpcdet', 'safetensors'):
        with pytest.raises(CheckpointError):
            read_encoder(tmp_path / 'a.pth', wrong)


def test_auto_refuses_two_formats(make_state):
    both = {p + k: v for p in ('encoder.', 'middle_encoder.') for k, v in make_state().items()}
    with pytest.raises(CheckpointError, match='mmjepa, mmdet3d fits'):
        detect_format({'state_dict': both})


def test_two_encoders_below_known_prefixes_are_ambiguous(tmp_path, make_state):
    both = {
        p + k: v
        for p in ('middle_encoder.', 'pts_middle_encoder.')
        for k, v in make_state().items()
    }
    torch.save(both, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='--from-prefix'):
        read_encoder(tmp_path / 'a.pth', 'mmdet3d')
    assert len(read_encoder(tmp_path / 'a.pth', 'mmdet3d', prefix='middle_encoder.').state) == 72


def test_existing_file_stays_unless_told(tmp_path, mmjepa_file):
    out = tmp_path / 'out.pth'
    out.write_text('precious')
    encoder = read_encoder(mmjepa_file, 'mmjepa')
    with pytest.raises(FileExistsError, match='--overwrite'):
        write_encoder(encoder, out, 'mmdet3d')
    assert out.read_text() == 'precious'
    assert write_encoder(encoder, out, 'mmdet3d', overwrite=True) == (72, 72)


def test_failed_verification_leaves_the_old_file(tmp_path, mmjepa_file, monkeypatch):
    out = tmp_path / 'out.pth'
    out.write_text('precious')
    encoder = read_encoder(mmjepa_file, 'mmjepa')
    adapter = FORMATS['openpcdet']
    plain = type(adapter).encode
    monkeypatch.setattr(
        adapter, 'encode', lambda s: {k: v + 1 for k, v in plain(adapter, s).items()}
    )
    with pytest.raises(CheckpointError, match='only 0/72 tensors came back'):
        write_encoder(encoder, out, 'openpcdet', overwrite=True)
    assert out.read_text() == 'precious'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['epoch_30.pth', 'out.pth']
