"""SparseVoxelEncoder: mmdet3d's keys and numbers, shapes, edge cases."""

import pytest
import torch

from mmjepa.models.encoders import SparseVoxelEncoder
from mmjepa.models.layers.sparse_ops import backend_name
from mmjepa.registry import MODELS

SHAPE = (41, 48, 40)
NEEDS_SPCONV = pytest.mark.skipif(backend_name('cpu') != 'spconv', reason='spconv is not installed')
BACKENDS = [pytest.param('spconv', marks=NEEDS_SPCONV), 'rulebook']
RESIDUAL = dict(
    block_type='basicblock',
    encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
    encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, (0, 1, 1)), (0, 0)),
)


def voxels(shape=SHAPE, batch=2, count=900, features=4):
    """Voxels in shuffled order, crowded enough for several neighbours each."""
    depth, height, width = shape
    extent = torch.tensor([batch, depth - 1, height // 2, width // 2])
    cells = (torch.rand(count, 4) * extent).long().unique(dim=0)
    cells = cells[torch.randperm(len(cells))]
    return torch.randn(len(cells), features), cells, batch


def expected_keys():
    """The 36 pairs of a convolution and its BatchNorm, written out from mmdet3d's naming."""
    blocks = ['conv_input', 'encoder_layers.encoder_layer1.0']
    blocks += [f'encoder_layers.encoder_layer{i}.{j}' for i in (2, 3, 4) for j in (0, 1, 2)]
    blocks += ['conv_out']
    norm = ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    return [
        key for block in blocks for key in [f'{block}.0.weight', *(f'{block}.1.{n}' for n in norm)]
    ]


@pytest.mark.parametrize('backend', ['spconv', 'rulebook', None])
def test_keys_and_parameters_are_the_same_under_every_backend(backend):
    encoder = SparseVoxelEncoder(4, [41, 1600, 1408], backend=backend)
    assert list(encoder.state_dict()) == expected_keys()
    assert len(encoder.state_dict()) == 72
    assert sum(p.numel() for p in encoder.parameters()) == 711_872
    five = SparseVoxelEncoder(5, [41, 1504, 1504], backend=backend)
    assert sum(p.numel() for p in five.parameters()) == 712_304
    norm = encoder.conv_out[1]
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


@pytest.mark.parametrize(
    ('shape', 'channels', 'bev'),
    [
        ([41, 1600, 1408], 256, (200, 176)),
        ([41, 1504, 1504], 256, (188, 188)),
        ([41, 1024, 1024], 256, (128, 128)),
        ([61, 1280, 1920], 384, (160, 240)),
        ([25, 400, 352], 128, (50, 44)),
    ],
)
def test_shapes_are_derived(shape, channels, bev):
    encoder = SparseVoxelEncoder(4, shape)
    assert (encoder.out_channels, encoder.bev_shape, encoder.stride) == (channels, bev, 8)
    assert encoder.out_depth == channels // 128


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('shape', [SHAPE, (61, 40, 24)])
def test_forward_shape_and_bev_rows(backend, shape):
    encoder = SparseVoxelEncoder(4, shape, backend=backend).eval()
    feats, coors, batch = voxels(shape)
    bev = encoder(feats, coors, batch)
    assert bev.shape == (batch, encoder.out_channels, *encoder.bev_shape)
    sparse = encoder.forward_sparse(feats, coors, batch)
    assert sparse.features.shape[1] == 128
    cells = torch.randperm(batch * bev.shape[2] * bev.shape[3])[:50]
    rows = encoder.bev_rows(sparse, cells)
    assert torch.equal(rows, bev.permute(0, 2, 3, 1).flatten(0, 2)[cells])
    # channel order c * D_out + z
    assert torch.equal(bev, sparse.dense().reshape(bev.shape))


@pytest.mark.parametrize('block_type', ['conv_module', 'basicblock'])
def test_every_occupied_cell_is_active(block_type):
    encoder = SparseVoxelEncoder(4, SHAPE, block_type=block_type, backend='rulebook').eval()
    feats, coors, batch = voxels(count=60)
    out = encoder.forward_sparse(feats, coors, batch)
    occupied = {(b, y // 8, x // 8) for b, _, y, x in coors.tolist()}
    assert occupied <= {(b, y, x) for b, _, y, x in out.indices.tolist()}


@NEEDS_SPCONV
@pytest.mark.parametrize('extra', [{}, RESIDUAL], ids=['plain', 'residual'])
def test_backends_agree(extra):
    feats, coors, batch = voxels()
    results = []
    for backend in ('spconv', 'rulebook'):
        torch.manual_seed(1)
        encoder = SparseVoxelEncoder(4, SHAPE, backend=backend, **extra)
        bev = encoder(feats, coors, batch)
        bev.square().mean().backward()
        results.append([bev.detach(), *(b.float() for b in encoder.buffers())])
        results[-1] += [p.grad for p in encoder.parameters()]
    for i, (ours, other) in enumerate(zip(*results, strict=True)):
        # a ReLU that flips at 0 +- 1e-7 moves a few gradients, hence the norm there
        assert (ours - other).norm() <= (1e-4 if i < 37 else 1e-2) * other.norm() + 1e-6


@pytest.fixture(scope='module')
def build():
    """Builder of mmdet3d's own class, every spconv layer set to the CPU kernels."""
    module = pytest.importorskip('mmdet3d.models.middle_encoders')
    from spconv.core import ConvAlgo

    def build(*args, **kwargs):
        encoder = module.SparseEncoder(*args, **kwargs)
        for layer in encoder.modules():
            if hasattr(layer, 'algo'):
                layer.algo = ConvAlgo.Native
        return encoder

    return build


@pytest.mark.filterwarnings('ignore:Using a non-tuple sequence:UserWarning')
class TestAgainstMMDet3D:
    @pytest.mark.parametrize('extra', [{}, RESIDUAL], ids=['plain', 'residual'])
    @pytest.mark.parametrize('shape', [SHAPE, (61, 40, 24)])
    @pytest.mark.parametrize('backend', BACKENDS)
    def test_same_keys_and_numbers(self, build, backend, shape, extra):
        torch.manual_seed(5)
        theirs = build(4, list(shape), **extra)
        torch.manual_seed(5)
        ours = SparseVoxelEncoder(4, shape, backend=backend, **extra)
        state = theirs.state_dict()
        assert list(ours.state_dict()) == list(state)
        for key, value in ours.state_dict().items():
            assert torch.equal(value, state[key]), key  # the same draw of initial weights
        inputs = voxels(shape)
        for mode in (True, False):  # the first pass moves the running statistics
            wanted, got = theirs.train(mode)(*inputs), ours.train(mode)(*inputs)
            if backend == 'spconv':
                assert torch.equal(got, wanted)
            else:
                assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()
        if backend == 'spconv':
            for encoder in (ours, theirs):
                encoder.train().zero_grad()
                encoder(*inputs).square().sum().backward()
            for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(ours_p.grad, theirs_p.grad)

    def test_loading_survives_mmdet3ds_patch(self, build):
        """mmdet3d permutes kernels whose metadata say another version than 2."""
        theirs = build(4, list(SHAPE))
        ours = SparseVoxelEncoder(4, SHAPE)
        plain = {key: torch.randn(value.shape) for key, value in ours.state_dict().items()}
        ours.load_state_dict(plain)  # no _metadata at all
        for key, value in ours.state_dict().items():
            assert torch.equal(value, plain[key].to(value.dtype)), key
        # and a state dict of ours carries what makes mmdet3d take it as it is
        theirs.load_state_dict(ours.state_dict())
        for key, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[key]), key


@pytest.mark.parametrize('backend', BACKENDS)
def test_fp32_under_autocast(backend):
    encoder = SparseVoxelEncoder(4, SHAPE, backend=backend)
    feats, coors, batch = voxels()
    plain = encoder.train()(feats, coors, batch)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        under = encoder(feats.bfloat16().float(), coors, batch)
        same = encoder(feats, coors, batch)
    assert under.dtype == same.dtype == torch.float32
    assert torch.equal(same, plain)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('train', [True, False])
def test_empty_input_gives_a_map_of_zeros(backend, train):
    encoder = SparseVoxelEncoder(4, SHAPE, backend=backend).train(train)
    feats, coors, batch = voxels()
    bev = encoder(feats[:0], coors[:0], batch)
    assert bev.shape == (2, 256, 6, 5)
    assert not bev.any()
    bev.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters()) or not train
    assert encoder.conv_input[1].num_batches_tracked == 0


def test_one_empty_sample_leaves_the_others_alone():
    encoder = SparseVoxelEncoder(4, SHAPE, backend='rulebook')
    feats, coors, _ = voxels(batch=1)
    alone = encoder(feats, coors, 1)
    moved = coors + torch.tensor([2, 0, 0, 0])
    both = encoder(feats, moved, 3)
    assert not both[:2].any()
    torch.testing.assert_close(both[2], alone[0])


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: SparseVoxelEncoder(4, [41, 1600]), r'\[D, H, W\]'),
        (lambda: SparseVoxelEncoder(4, [5, 64, 64]), 'too small'),
        (lambda: SparseVoxelEncoder(4, SHAPE, block_type='resnet'), 'block_type'),
        (lambda: SparseVoxelEncoder(4, SHAPE, encoder_channels=((16,), (32,))), 'structure'),
        (lambda: SparseVoxelEncoder(4, SHAPE, backend='mmcv'), 'backend'),
    ],
)
def test_constructor_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_input_errors():
    encoder = SparseVoxelEncoder(5, SHAPE, backend='rulebook')
    feats, coors, batch = voxels()
    with pytest.raises(ValueError, match=r'takes voxel features \(M, 5\), got \(\d+, 4\)'):
        encoder(feats, coors, batch)
    encoder = SparseVoxelEncoder(4, SHAPE, backend='rulebook')
    with pytest.raises(ValueError, match='do not fit'):
        encoder(feats, coors, 1)
    with pytest.raises(ValueError, match='do not fit'):
        encoder(feats, coors.flip(1), batch)


def test_registered():
    encoder = MODELS.build(dict(type='SparseVoxelEncoder', in_channels=4, sparse_shape=SHAPE))
    assert isinstance(encoder, SparseVoxelEncoder)


@pytest.mark.cuda
def test_module_moves_between_devices():
    encoder = SparseVoxelEncoder(4, SHAPE).eval()
    feats, coors, batch = voxels()
    cpu = encoder(feats, coors, batch)
    encoder = encoder.cuda()
    with torch.autocast('cuda', dtype=torch.bfloat16):
        cuda = encoder(feats.cuda(), coors.cuda(), batch)
    assert (cuda.cpu() - cpu).abs().max() <= 1e-4 * cpu.abs().max()
    with torch.no_grad():
        quiet = encoder(feats.cuda(), coors.cuda(), batch)
    assert (quiet - cuda).abs().max() <= 1e-5 * cpu.abs().max()
    assert torch.equal(encoder.cpu()(feats, coors, batch), cpu)
