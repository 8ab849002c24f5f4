import pytest
import torch

from mmjepa.adapters import FORMATS, read_encoder
from mmjepa.adapters.openpcdet import from_common, to_common
from mmjepa.adapters.sparse_encoder import conv_bn_pairs, encoder_keys
from mmjepa.engine.checkpoint import CheckpointError

ADAPTER = FORMATS['openpcdet']

# OpenPCDet's modules, written from its classes: name of the block -> does it hold conv1/conv2.
PLAIN = [
    'conv_input',
    'conv1.0',
    *[f'conv{k}.{j}' for k in (2, 3, 4) for j in range(3)],
    'conv_out',
]
RESIDUAL = [
    'conv_input',
    'conv1.0',
    'conv1.1',
    *[f'conv{k}.{j}' for k in (2, 3, 4) for j in range(3)],
    'conv_out',
]


def _openpcdet_keys(residual):
    keys = []
    for name in RESIDUAL if residual else PLAIN:
        strided = name.endswith('.0') and name != 'conv1.0'
        block = residual and name.startswith(('conv1.', 'conv2.', 'conv3.', 'conv4.'))
        block = block and not strided
        for conv, bn in (('conv1', 'bn1'), ('conv2', 'bn2')) if block else (('0', '1'),):
            keys.append(f'{name}.{conv}.weight')
            keys += [
                f'{name}.{bn}.{x}'
                for x in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
            ]
    return keys


@pytest.mark.parametrize(('residual', 'count'), [(False, 72), (True, 126)])
def test_key_map_is_a_bijection(residual, count):
    theirs = _openpcdet_keys(residual)
    ours = encoder_keys('basicblock' if residual else 'conv_module')
    assert len(set(theirs)) == count
    assert {to_common(k, residual) for k in theirs} == set(ours)
    assert [from_common(to_common(k, residual), residual) for k in theirs] == theirs
    assert [to_common(from_common(k, residual), residual) for k in ours] == ours


def test_known_pairs_of_the_key_table():
    assert to_common('conv1.0.0.weight', False) == 'encoder_layers.encoder_layer1.0.0.weight'
    assert to_common('conv3.2.1.bias', False) == 'encoder_layers.encoder_layer3.2.1.bias'
    assert to_common('conv2.0.0.weight', True) == 'encoder_layers.encoder_layer1.2.0.weight'
    assert to_common('conv4.1.conv1.weight', True) == 'encoder_layers.encoder_layer4.0.conv1.weight'
    assert to_common('conv1.1.bn2.bias', True) == 'encoder_layers.encoder_layer1.1.bn2.bias'


@pytest.mark.parametrize('block_type', ['conv_module', 'basicblock'])
def test_round_trip_is_bit_equal(make_state, block_type):
    state = make_state(block_type)
    back, _ = ADAPTER.decode(ADAPTER.encode(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[k], v) for k, v in state.items())


def test_folded_bias_gives_equal_outputs(make_state):
    common = make_state('basicblock')
    theirs = ADAPTER.encode(common)
    biases = [k for k in theirs if k.endswith(('.conv1.bias', '.conv2.bias'))]
    assert len(biases) == 16
    for key in biases:
        theirs[key] = torch.randn_like(theirs[key])
    folded, notes = ADAPTER.decode(theirs)
    assert notes == ['folded 16 biases into running means']
    assert set(folded) == set(common)
    for conv, bn in conv_bn_pairs('basicblock'):
        if not conv.endswith(('conv1', 'conv2')):
            continue
        x = torch.randn(50, common[f'{conv}.weight'].shape[-1]).double()
        y = x @ common[f'{conv}.weight'][:, 1, 1, 1].double().T
        bias = theirs[from_common(f'{conv}.bias', True)].double()

        def norm(y, state, bn=bn):
            return torch.nn.functional.batch_norm(
                y,
                *(
                    state[f'{bn}.{n}'].double()
                    for n in ('running_mean', 'running_var', 'weight', 'bias')
                ),
                eps=1e-3,
            )

        torch.testing.assert_close(norm(y, folded), norm(y + bias, common), rtol=0, atol=5e-6)
        assert (norm(y, common) - norm(y + bias, common)).abs().max() > 1e-2


def test_some_biases_missing_is_refused(make_state):
    theirs = ADAPTER.encode(make_state('basicblock'))
    del theirs['conv3.1.conv2.bias']
    with pytest.raises(CheckpointError, match='15 biases for 16'):
        ADAPTER.decode(theirs)


def test_pretraining_file_with_heads_and_a_target(tmp_path, make_state):
    online = {f'backbone_3d.{k}': v for k, v in ADAPTER.encode(make_state(seed=0)).items()}
    other = {
        f'backbone_3d.target_encoder.{k}': v for k, v in ADAPTER.encode(make_state(seed=1)).items()
    }
    head = {'dense_head.conv.weight': torch.zeros(3)}
    path = tmp_path / 'checkpoint_epoch_30.pth'
    torch.save(
        {
            'model_state': online | other | head,
            'epoch': 30,
            'it': 1,
            'version': 'x',
            'optimizer_state': None,
        },
        path,
    )
    encoder = read_encoder(path, 'auto')
    assert encoder.notes == [
        'found format openpcdet',
        'left out 73 tensors outside the encoder: backbone_3d 72, dense_head 1',
    ]
    assert all(torch.equal(v, encoder.state[k]) for k, v in make_state(seed=0).items())
    target = read_encoder(path, 'openpcdet', prefix='backbone_3d.target_encoder.')
    assert all(torch.equal(v, target.state[k]) for k, v in make_state(seed=1).items())

    nested = {f'backbone_3d.online.{k[12:]}': v for k, v in online.items()}
    torch.save({'model_state': nested}, path)
    encoder = read_encoder(path, 'openpcdet')
    assert encoder.prefix == 'backbone_3d.online.'
    assert encoder.notes == ["encoder found below 'backbone_3d.online.'"]
    torch.save({'model_state': nested | other}, path)
    with pytest.raises(CheckpointError, match='--from-prefix'):
        read_encoder(path, 'openpcdet')
