"""A pre-trained encoder in a detector: completely, or the run stops."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from toy_engine import Log, toy_runner

from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.engine.hooks import LoadEncoderHook, NativeSpconvHook, load_encoder
from mmjepa.models import SparseVoxelEncoder
from mmjepa.registry import MODELS

GRID = [41, 64, 48]
CFG = """
batch_size = 2
model = dict(
    data_preprocessor=dict(type='VoxelPreprocessor', voxel_size=[0.1, 0.1, 0.1]),
    encoder=dict(sparse_shape=[{depth}, 8, 8], type='SparseVoxelEncoder'))
"""


@MODELS.register_module()
class ToyDetector(BaseModel):
    """An encoder and a head; the loss reaches every weight of both."""

    def __init__(self, in_channels=4):
        super().__init__()
        self.middle_encoder = SparseVoxelEncoder(in_channels, GRID, backend='rulebook')
        self.head = nn.Linear(4, 1)

    def forward(self, x, index, seed, mode='tensor'):
        x = torch.stack(list(x))
        coors = torch.tensor([[0, 20, 10, 10], [0, 20, 10, 11], [0, 21, 30, 30], [0, 5, 40, 20]])
        feats = torch.rand(4, self.middle_encoder.in_channels)
        bev = self.middle_encoder(feats, coors, 1)
        return dict(loss=bev.square().mean() + self.head(x).square().mean())


@pytest.fixture
def pretrained(tmp_path):
    """A pre-training checkpoint: online and target encoder, predictor, config text."""

    def write(name='jepa.pth', in_channels=4, depth=41, spoil=None, drop=None):
        torch.manual_seed(1)
        online, target = (SparseVoxelEncoder(in_channels, GRID) for _ in range(2))
        state = {f'encoder.{k}': v for k, v in online.state_dict().items()}
        state |= {f'target.encoder.{k}': v for k, v in target.state_dict().items()}
        state['predictor.weight'] = torch.ones(3)
        if spoil:
            state[spoil] = state[spoil] * float('nan')
        if drop:
            del state[drop]
        meta = dict(method='ADLJEPA', cfg=CFG.format(depth=depth))
        path = tmp_path / name
        torch.save(dict(meta=meta, state_dict=state), path)
        return path, online, target

    return write


@pytest.fixture
def run(repo, tmp_path):
    def make(hook, work_dir='run', **options):
        runner = toy_runner(repo, tmp_path / work_dir, **{'model.type': 'ToyDetector', **options})
        runner.cfg.model.middle_encoder = dict(sparse_shape=GRID)
        runner.cfg.model.data_preprocessor = dict(voxel_layer=dict(voxel_size=[0.1, 0.1, 0.1]))
        runner.register_hook(hook)
        return runner

    return make


def same(module, other):
    ours, theirs = module.state_dict(), other.state_dict()
    return all(torch.equal(ours[k], theirs[k]) for k in ours if 'num_batches' not in k)


def test_pretraining_checkpoint_is_taken_as_it_is(run, pretrained):
    path, online, target = pretrained()
    for which, source in ((None, online), ('online', online), ('target', target)):
        runner = run(LoadEncoderHook(str(path), which=which), f'run_{which}')
        log = Log(runner, 20)
        runner.call_hook('before_train')
        assert same(runner.bare_model.middle_encoder, source)
        assert 'loaded 72/72 tensors into middle_encoder' in log.texts
        assert any('left out' in text for text in log.texts)


def test_scratch_arm_says_so_and_touches_nothing(run):
    runner = run(LoadEncoderHook(None))
    log = Log(runner, 20)
    before = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}
    runner.call_hook('before_train')
    assert any('starts from scratch' in text for text in log.texts)
    assert all(torch.equal(v, before[k]) for k, v in runner.bare_model.state_dict().items())


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (dict(drop='encoder.conv_out.1.bias'), '1 of 72 tensors missing'),
        (dict(spoil='encoder.encoder_layers.encoder_layer2.0.0.weight'), 'NaN or Inf'),
        (dict(in_channels=5), 'conv_input.0.weight'),
        (dict(depth=61), 'pre-trained with depth 61, this config has 41'),
    ],
)
def test_unfit_checkpoint_stops_the_run_and_loads_nothing(run, pretrained, damage, message):
    path, *_ = pretrained(**damage)
    runner = run(LoadEncoderHook(str(path)))
    before = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        runner.train()
    assert all(torch.equal(v, before[k]) for k, v in runner.bare_model.state_dict().items())


def test_other_voxel_size_is_refused_unless_told(run, pretrained):
    path, online, _ = pretrained()
    for check in (True, False):
        runner = run(LoadEncoderHook(str(path), check_grid=check), f'run_{check}')
        runner.cfg.model.data_preprocessor.voxel_layer.voxel_size = [0.2, 0.2, 0.1]
        if check:
            with pytest.raises(CheckpointError, match='give both the same voxel_size'):
                runner.call_hook('before_train')
        else:
            runner.call_hook('before_train')
            assert same(runner.bare_model.middle_encoder, online)


@pytest.mark.parametrize('content', ['truncated', 'vit', 'nothing', 'wide'])
def test_files_that_cannot_be_it_are_named_with_a_remedy(run, pretrained, tmp_path, content):
    path = tmp_path / f'{content}.pth'
    message = dict(
        truncated=r'no encoder for middle_encoder: .* is truncated, .*central directory. Fetch',
        vit=r'no encoder for middle_encoder: .*method IJEPA, keys such as encoder.blocks.*adl_jepa',
        nothing=r'no sparse voxel encoder \(method unknown, keys such as a.b\).*from scratch',
        wide=r'does not fit: .* 71/72 tensors match; 1 mismatched: conv_input.*values a point',
    )[content]
    good, *_ = pretrained('wide.pth', in_channels=5 if content == 'wide' else 4)
    weight = torch.ones(2)
    if content == 'truncated':
        path.write_bytes(good.read_bytes()[:2000])
    elif content == 'vit':
        meta = dict(method='IJEPA')
        torch.save(dict(meta=meta, state_dict={'encoder.blocks.0.weight': weight}), path)
    elif content == 'nothing':
        torch.save({'a.b': weight}, path)
    runner = run(LoadEncoderHook(str(path)))
    before = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'jepa_checkpoint={path} .*{message}'):
        runner.call_hook('before_train')
    assert all(torch.equal(v, before[k]) for k, v in runner.bare_model.state_dict().items())


def test_absent_file_and_wrong_half_are_told_in_the_config_s_terms(run, pretrained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'jepa_checkpoint: no checkpoint file at .*x.pth'):
        run(LoadEncoderHook(str(tmp_path / 'x.pth'))).call_hook('before_train')
    _, online, _ = pretrained()
    bare = tmp_path / 'bare.pth'
    torch.save({f'middle_encoder.{k}': v for k, v in online.state_dict().items()}, bare)
    hook = LoadEncoderHook(str(bare), which='target')
    with pytest.raises(CheckpointError, match=r'bare.pth gives no encoder .*export_checkpoint'):
        run(hook, 'target').call_hook('before_train')


def test_missing_module_names_those_that_are_there(run):
    with pytest.raises(ValueError, match=r'no module pts_middle_encoder for.*middle_encoder'):
        run(LoadEncoderHook(None, module='pts_middle_encoder')).call_hook('before_train')


def test_frozen_epochs_keep_weights_and_statistics(run, pretrained):
    path, online, _ = pretrained()
    runner = run(LoadEncoderHook(str(path), frozen_epochs=1), length=4, max_iters=2)
    head = runner.bare_model.head.weight.detach().clone()
    runner.train()  # two iterations an epoch: the first epoch
    encoder = runner.bare_model.middle_encoder
    assert same(encoder, online)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not torch.equal(runner.bare_model.head.weight, head)

    runner = run(LoadEncoderHook(str(path), frozen_epochs=1), 'longer', length=4, max_iters=4)
    runner.train()
    encoder = runner.bare_model.middle_encoder
    assert all(p.requires_grad for p in encoder.parameters())
    assert not torch.equal(encoder.conv_out[0].weight, online.conv_out[0].weight)
    assert not torch.equal(encoder.conv_out[1].running_mean, online.conv_out[1].running_mean)


def test_run_resumed_within_a_frozen_epoch_keeps_the_statistics(run, pretrained):
    path, online, _ = pretrained()
    options = dict(length=8, accumulate=1)
    runner = run(LoadEncoderHook(str(path), frozen_epochs=1), max_iters=1, **options)
    runner.train()  # four iterations an epoch
    resumed = run(LoadEncoderHook(str(path), frozen_epochs=1), resume=True, max_iters=3, **options)
    resumed.train()
    assert same(resumed.bare_model.middle_encoder, online)


def test_other_z_range_is_refused(run, pretrained):
    path, *_ = pretrained()
    content = torch.load(path, weights_only=True)
    cfg = content['meta']['cfg']
    content['meta']['cfg'] = cfg.replace(
        'voxel_size', 'point_cloud_range=[0, -40, -1, 70.4, 40, 3], voxel_size'
    )
    torch.save(content, path)
    runner = run(LoadEncoderHook(str(path)))
    runner.cfg.model.data_preprocessor.voxel_layer.point_cloud_range = [0, -40, -3, 70.4, 40, 1]
    with pytest.raises(CheckpointError, match=r'z_range \[-1, 3\], this config has \[-3, 1\]'):
        runner.call_hook('before_train')


def test_which_must_be_known():
    with pytest.raises(ValueError, match="which must be 'online' or 'target', got 'ema'"):
        LoadEncoderHook('x.pth', which='ema')


def test_resumed_run_keeps_its_own_weights(run, pretrained, tmp_path):
    path, online, _ = pretrained()
    runner = run(LoadEncoderHook(str(path)), max_iters=2)
    runner.train()
    trained = runner.bare_model.middle_encoder
    assert not same(trained, online)
    resumed = run(LoadEncoderHook(str(path)), resume=True, max_iters=2)
    log = Log(resumed, 20)
    resumed.train()
    assert any('keeps the weights' in text for text in log.texts)
    assert same(resumed.bare_model.middle_encoder, trained)


def test_native_kernels_where_the_model_is_on_cpu():
    pytest.importorskip('spconv', exc_type=ImportError)
    from spconv.core import ConvAlgo
    from spconv.pytorch import SubMConv3d

    class Runner:
        bare_model = nn.Sequential(SubMConv3d(2, 3, 3), nn.Linear(1, 1))

    assert Runner.bare_model[0].algo != ConvAlgo.Native
    NativeSpconvHook().before_run(Runner)
    assert Runner.bare_model[0].algo == ConvAlgo.Native


def test_a_student_is_taken_and_not_its_teacher():
    """Both lie in the file; of other methods the target is the encoder to fine-tune."""
    state = {f'{part}.conv_input.0.weight': torch.ones(2) for part in ('encoder', 'target.encoder')}
    files = [dict(meta=dict(method=name), state_dict=state) for name in ('SALT', 'VJEPA')]
    assert [load_encoder._target_if_there(file) for file in files] == ['online', 'target']
