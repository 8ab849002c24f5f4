"""Both sparse backends against dense convolution, and each other."""

import ast
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from mmjepa.models.layers import rulebook, sparse_ops
from mmjepa.models.layers.sparse_ops import (
    SparseBatchNorm1d,
    SparseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    backend_name,
    bev_rows,
)

HAS_SPCONV = backend_name('cpu') == 'spconv'
needs_spconv = pytest.mark.skipif(not HAS_SPCONV, reason='spconv is not installed')
BACKENDS = [pytest.param('spconv', marks=needs_spconv), 'rulebook']
LAYERS = {
    'subm3': lambda **kw: SubMConv3d(5, 6, 3, **kw),
    'subm_uneven': lambda **kw: SubMConv3d(5, 6, (3, 1, 5), **kw),
    'subm1': lambda **kw: SubMConv3d(5, 6, (1, 1, 3), **kw),
    'stride2': lambda **kw: SparseConv3d(5, 6, 3, 2, 1, **kw),
    'stride2_pad011': lambda **kw: SparseConv3d(5, 6, 3, 2, (0, 1, 1), **kw),
    'conv_out': lambda **kw: SparseConv3d(5, 6, (3, 1, 1), (2, 1, 1), 0, **kw),
    'stride1': lambda **kw: SparseConv3d(5, 6, 3, 1, 1, **kw),
    'stride3': lambda **kw: SparseConv3d(5, 6, (2, 3, 4), (1, 3, 2), (0, 1, 2), **kw),
}


def scene(share=0.1, shape=(7, 9, 11), batch=3, empty_sample=True, channels=5):
    """Random cells in shuffled order, one sample without any."""
    occupied = torch.rand(batch, *shape) < share
    if empty_sample:
        occupied[1] = False
    cells = occupied.nonzero()
    cells = cells[torch.randperm(len(cells))]
    return occupied, SparseTensor(torch.randn(len(cells), channels), cells, shape, batch)


def dense_reference(conv, x, occupied):
    """conv3d of the dense map times the sites where an output is active."""
    out = F.conv3d(
        x.dense(), conv.weight.permute(0, 4, 1, 2, 3), stride=conv.stride, padding=conv.padding
    )
    if conv.submanifold:
        active = occupied[:, None]
    else:
        ones = torch.ones(1, 1, *conv.kernel_size)
        occupied = occupied[:, None].float()
        active = F.conv3d(occupied, ones, stride=conv.stride, padding=conv.padding) > 0.5
    return out * active, active


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('share', [0.1, 0.6, 0.004])
def test_equals_dense_convolution_forward_and_gradients(backend, name, share):
    occupied, x = scene(share)
    conv = LAYERS[name](backend=backend)
    features = x.features.clone().requires_grad_()
    out = conv(x.replace_feature(features))
    expected_features = x.features.clone().requires_grad_()
    expected, active = dense_reference(conv, x.replace_feature(expected_features), occupied)
    assert len(out.features) == active.sum()
    assert out.spatial_shape == tuple(expected.shape[2:])
    torch.testing.assert_close(out.dense(), expected, rtol=1e-5, atol=2e-6)

    target = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(
        (expected * target).sum(), [expected_features, conv.weight]
    )
    grads = torch.autograd.grad((out.dense() * target).sum(), [features, conv.weight])
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['submanifold', 'strided'])
def test_rulebook_with_either_product_equals_dense_convolution(name, monkeypatch):
    """Large layers use another kernel than ``mm`` where torch has it."""
    occupied, x = scene(0.5, shape=(6, 20, 21), batch=6, channels=32)
    conv = SubMConv3d(32, 32, backend='rulebook')
    if name == 'strided':
        conv = SparseConv3d(32, 48, 3, 2, 1, backend='rulebook')
    calls = []
    fast = rulebook._ONEDNN_LINEAR

    def counted(*args):
        calls.append(len(args[0]))
        return fast(*args)

    expected, _ = dense_reference(conv, x, occupied)
    target = torch.randn_like(expected)
    results = []
    for linear in (None, fast and counted):
        monkeypatch.setattr(rulebook, '_ONEDNN_LINEAR', linear)
        features = x.features.clone().requires_grad_()
        out = conv(x.replace_feature(features)).dense()
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        results.append(torch.autograd.grad((out * target).sum(), [features, conv.weight]))
    for slow, quick in zip(*results, strict=True):
        torch.testing.assert_close(quick, slow, rtol=1e-4, atol=1e-4)
    if fast:
        assert calls
        assert all(rows % 256 == 0 for rows in calls)


def test_rulebook_of_one_tap_is_a_linear_layer():
    _, x = scene(0.3)
    conv = SubMConv3d(5, 6, 1, backend='rulebook')
    expected = x.features @ conv.weight.view(6, 5).t()
    torch.testing.assert_close(conv(x).features, expected)


def test_rulebook_gradients_in_double():
    _, x = scene(0.15, shape=(3, 4, 5), batch=2, empty_sample=False, channels=2)
    for conv in (SubMConv3d(2, 3, backend='rulebook'), SparseConv3d(2, 3, 3, 2, 1)):
        conv = conv.double()
        conv.backend = 'rulebook'
        features = x.features.double().requires_grad_()

        def run(features, weight, conv=conv):
            return torch.func.functional_call(
                conv, {'weight': weight}, (x.replace_feature(features),)
            ).features

        assert torch.autograd.gradcheck(run, (features, conv.weight))


@pytest.mark.parametrize('backend', BACKENDS)
def test_row_order_changes_nothing_but_the_order(backend):
    _, x = scene(0.3)
    conv = SubMConv3d(5, 6, backend=backend)
    order = torch.randperm(len(x.features))
    shuffled = SparseTensor(x.features[order], x.indices[order], x.spatial_shape, 3)
    torch.testing.assert_close(
        conv(shuffled).features, conv(x).features[order], rtol=1e-5, atol=1e-6
    )


def test_rulebook_gradients_do_not_depend_on_what_needs_them():
    _, x = scene(0.3)
    conv = SubMConv3d(5, 6, backend='rulebook')
    features = x.features.clone().requires_grad_()
    both = torch.autograd.grad(
        conv(x.replace_feature(features)).features.square().sum(), [features, conv.weight]
    )
    (weight_only,) = torch.autograd.grad(conv(x).features.square().sum(), [conv.weight])
    conv.weight.requires_grad_(False)
    (features_only,) = torch.autograd.grad(
        conv(x.replace_feature(features)).features.square().sum(), [features]
    )
    assert torch.equal(weight_only, both[1])
    assert torch.equal(features_only, both[0])


def test_grid_beyond_int32_keys():
    """Neighbours across a grid of 2**37 cells; a wrapped key would join strangers."""
    shape = (2**12, 2**12, 2**12)
    corner = torch.tensor([0, 4000, 4000, 4000])
    far = torch.tensor([1, 4095, 4095, 4095])
    cells = torch.stack([corner, corner + torch.tensor([0, 1, 0, -1]), far, far * 0])
    x = SparseTensor(torch.eye(4), cells, shape, 2)
    conv = SubMConv3d(4, 1, backend='rulebook')
    torch.nn.init.ones_(conv.weight)
    assert conv(x).features.view(-1).tolist() == [2, 2, 1, 1]
    strided = SparseConv3d(4, 1, 3, 2, 1, backend='rulebook')
    assert int(strided(x).indices[:, 1:].max()) == 2047


def test_grid_too_large_for_keys_raises():
    x = SparseTensor(torch.ones(1, 1), torch.zeros(1, 4), (2**21, 2**21, 2**21), 1)
    with pytest.raises(ValueError, match='overflows int64 keys'):
        SubMConv3d(1, 1, backend='rulebook')(x)


def test_neighbours_do_not_wrap_around_rows():
    """The last cell of a row and the first of the next are no neighbours."""
    cells = torch.tensor([[0, 0, 0, 4], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 2, 3, 4]])
    conv = SubMConv3d(1, 1, backend='rulebook')
    torch.nn.init.ones_(conv.weight)
    out = conv(SparseTensor(torch.ones(5, 1), cells, (3, 4, 5), 2)).features
    assert out.view(-1).tolist() == [1, 2, 2, 1, 1]  # only (0,0,1,0) and (0,1,0,0) touch


@pytest.mark.parametrize('backend', BACKENDS)
def test_rules_are_shared_under_a_key(backend, monkeypatch):
    _, x = scene(0.3)
    made = []
    shared = sparse_ops._shared_rules
    monkeypatch.setattr(
        sparse_ops,
        '_shared_rules',
        lambda conv, x, variant, build: shared(
            conv, x, variant, lambda: made.append(conv) or build()
        ),
    )
    layers = SparseSequential(
        SubMConv3d(5, 6, indice_key='a', backend=backend),
        torch.nn.ReLU(),
        SubMConv3d(6, 6, indice_key='a', backend=backend),
        SparseConv3d(6, 6, 3, 2, 1, indice_key='b', backend=backend),
        # the same name on other cells must not meet the old rules
        SubMConv3d(6, 6, indice_key='a', backend=backend),
    )
    layers(x)
    assert made == [layers[0], layers[3], layers[4]]


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('train', [True, False])
def test_no_active_cell(backend, train):
    x = SparseTensor(torch.zeros(0, 5), torch.zeros(0, 4), (7, 9, 11), 2)
    layers = SparseSequential(
        SubMConv3d(5, 6, backend=backend),
        SparseBatchNorm1d(6),
        torch.nn.ReLU(),
        SparseConv3d(6, 7, 3, 2, 1, backend=backend),
    ).train(train)
    out = layers(x)
    assert out.dense().shape == (2, 7, 4, 5, 6)
    assert not out.dense().any()
    out.dense().sum().backward()
    assert not layers[0].weight.grad.any()  # and not None: every parameter stays in the graph
    if train:
        assert not layers[1].weight.grad.any()
        assert layers[1].num_batches_tracked == 0


def test_rulebook_survives_a_layer_that_loses_every_point():
    x = SparseTensor(torch.ones(1, 5), torch.tensor([[0, 7, 3, 3]]), (8, 9, 9), 1)
    conv = SparseConv3d(5, 6, 3, 2, (0, 1, 1), backend='rulebook')  # leaves slice 7 out
    assert conv(x).features.shape == (0, 6)


def test_batch_norm_names_a_single_cell():
    with pytest.raises(ValueError, match='single active cell'):
        SparseBatchNorm1d(3)(torch.ones(1, 3))


def test_bev_rows_equal_the_dense_map():
    _, x = scene(0.2, shape=(2, 6, 5))
    features = x.features.clone().requires_grad_()
    x = x.replace_feature(features)
    cells = torch.randperm(3 * 6 * 5)
    rows = bev_rows(x, cells)
    expected = x.dense().flatten(1, 2).permute(0, 2, 3, 1).flatten(0, 2)[cells]
    assert torch.equal(rows, expected)
    target = torch.randn_like(rows)
    grad, wanted = (
        torch.autograd.grad((value * target).sum(), features, retain_graph=True)[0]
        for value in (rows, expected)
    )
    torch.testing.assert_close(grad, wanted)


def test_init_is_spconvs_default():
    weight = SubMConv3d(16, 32).weight
    bound = 1 / (27 * 16) ** 0.5
    assert weight.shape == (32, 3, 3, 3, 16)
    assert 0.99 * bound < weight.abs().max() <= bound


@needs_spconv
def test_init_draws_the_same_numbers_as_spconv():
    from spconv.pytorch import SubMConv3d as Original

    torch.manual_seed(3)
    ours = SubMConv3d(4, 16).weight
    torch.manual_seed(3)
    assert torch.equal(ours, Original(4, 16, 3, bias=False).weight)


def test_rulebook_without_spconv(monkeypatch):
    monkeypatch.setattr(sparse_ops, '_spconv', lambda: None)
    assert backend_name('cpu') == 'rulebook'
    occupied, x = scene(0.2)
    conv = SubMConv3d(5, 6)
    torch.testing.assert_close(
        conv(x).dense(), dense_reference(conv, x, occupied)[0], rtol=1e-5, atol=2e-6
    )
    with pytest.raises(ImportError, match=r"pip install 'mmjepa\[lidar\]'"):
        SubMConv3d(5, 6, backend='spconv')(x)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: SubMConv3d(4, 4, 2), 'odd kernel'),
        (lambda: SubMConv3d(4, 4, backend='mmcv'), 'backend must be one of'),
        (lambda: SparseTensor(torch.ones(2, 3), torch.ones(3, 4), (1, 1, 1), 1), 'indices'),
        (lambda: SparseTensor(torch.ones(2, 3), torch.ones(2, 4), (1, 1), 1), 'spatial shape'),
        (lambda: SubMConv3d(4, 4)(scene()[1]), 'takes 4 channels, the sparse tensor has 5'),
        (lambda: SparseConv3d(5, 4, 8, 1, 0)(scene()[1]), 'too small for kernel'),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_sparse_ops_imports_spconv(repo):
    importers = set()
    for path in (repo / 'mmjepa').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            if any(name.split('.')[0] == 'spconv' for name in names):
                importers.add(path.name)
    assert importers == {'sparse_ops.py'}


@needs_spconv
@pytest.mark.slow
def test_import_is_quiet_and_needs_no_mmcv(repo):
    code = (
        'from mmjepa.models.layers.sparse_ops import backend_name; import sys\n'
        "assert backend_name('cpu') == 'spconv'\n"
        "assert not {'mmcv', 'mmdet3d'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, '-W', 'default', '-c', code], cwd=repo, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert 'FutureWarning' not in run.stderr


@pytest.mark.cuda
@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('backend', BACKENDS)
def test_cuda_equals_cpu(backend, name):
    _, x = scene(0.3)
    conv = LAYERS[name](backend=backend)
    results = []
    for device in ('cpu', 'cuda'):
        conv = conv.to(device)  # the same module moves: the algorithm is chosen at forward
        features = x.features.to(device).detach().requires_grad_()
        out = conv(SparseTensor(features, x.indices.to(device), x.spatial_shape, 3)).dense()
        weights = torch.linspace(-1, 1, out.numel(), device=device).view_as(out)
        grads = torch.autograd.grad((out * weights).sum(), [features, conv.weight])
        results.append([part.detach().cpu() for part in (out, *grads)])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=1e-4, atol=1e-4)
