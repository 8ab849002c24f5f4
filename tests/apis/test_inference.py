import numpy as np
import pytest
import torch
from kitti_scenes import COARSE, write_kitti

from mmjepa.apis import SweepPipeline, extract_bev, init_model
from mmjepa.engine.config import load_config


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_kitti(tmp_path_factory.mktemp('kitti'), train=1, val=1)


@pytest.fixture(scope='module')
def config(root, request):
    path = request.config.rootpath / 'configs/adl_jepa/kitti.py'
    return load_config(path, {**COARSE, 'data_root': str(root)})


@pytest.fixture
def sweep(root):
    return root / 'training/velodyne/000000.bin'


@pytest.fixture
def model(config):
    return init_model(config)


def test_config_path_with_options(request, root):
    path = request.config.rootpath / 'configs/adl_jepa/kitti.py'
    model = init_model(path, cfg_options={**COARSE, 'data_root': str(root)})
    # the option reached what the config computes from it
    assert model.encoder.bev_shape == (16, 16)
    assert not model.training
    assert model.target.training is False


def test_extract_bev_from_file_and_array(model, sweep):
    bev = extract_bev(model, sweep)
    assert bev.shape == (256, 16, 16)
    assert bev.isfinite().all()
    assert not bev.requires_grad
    assert bev.abs().sum() > 0
    assert torch.equal(bev, extract_bev(model, str(sweep)))
    points = np.fromfile(sweep, np.float32).reshape(-1, 4)
    packed = SweepPipeline(model.cfg)(sweep)
    # an array has no calibration: give it the points that the camera sees
    cropped = packed['inputs']['points']
    assert len(cropped) < len(points)
    assert torch.allclose(bev, extract_bev(model, cropped.numpy()), atol=1e-6)
    assert torch.allclose(bev, extract_bev(model, cropped), atol=1e-6)


def test_extract_bev_leaves_model_and_array_alone(model, sweep):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    points = np.fromfile(sweep, np.float32).reshape(-1, 4)
    copy = points.copy()
    extract_bev(model, points)
    assert model.training
    assert np.array_equal(points, copy)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_no_augmentation_even_without_a_load_pipeline(config, sweep):
    packed = SweepPipeline(config)(sweep)
    pipeline = SweepPipeline({'train_dataloader': config.train_dataloader})
    assert not {'RandomFlipPoints', 'GlobalRotScale', 'PointShuffle'} & set(pipeline.names)
    for index in (0, 1):
        again = pipeline(sweep, index)
        assert torch.equal(again['inputs']['points'], packed['inputs']['points'])
    assert again['data_samples']['sample_seed'] == 1


def test_checkpoint_loads_completely_or_raises(model, config, sweep, tmp_path):
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'all.pth')
    torch.manual_seed(1)
    other = init_model(config, tmp_path / 'all.pth')
    assert torch.equal(extract_bev(other, sweep), extract_bev(model, sweep))

    encoder = {k: v for k, v in model.state_dict().items() if k.startswith('encoder.')}
    torch.save({'state_dict': encoder}, tmp_path / 'encoder.pth')
    torch.manual_seed(2)
    other = init_model(config, tmp_path / 'encoder.pth')
    assert torch.equal(extract_bev(other, sweep), extract_bev(model, sweep))

    encoder.popitem()
    torch.save({'state_dict': encoder}, tmp_path / 'part.pth')
    with pytest.raises(RuntimeError, match='missing'):
        init_model(config, tmp_path / 'part.pth')


def test_untrained_weights_follow_the_seed(config):
    def first_weight(seed):
        torch.manual_seed(seed)
        return next(init_model(config).encoder.parameters())

    assert torch.equal(first_weight(0), first_weight(0))
    assert not torch.equal(first_weight(0), first_weight(1))


def test_clear_errors(model, tmp_path):
    with pytest.raises(ValueError, match='N, F'):
        extract_bev(model, np.zeros((5, 2)))
    (tmp_path / 'cut.bin').write_bytes(b'123')
    with pytest.raises(ValueError, match=r'cut\.bin'):
        extract_bev(model, tmp_path / 'cut.bin')
    with pytest.raises(TypeError, match='path or a Config'):
        init_model(3)
    with pytest.raises(AttributeError, match='init_model'):
        extract_bev(torch.nn.Linear(1, 1), tmp_path / 'x.bin')
    with pytest.raises(KeyError, match=r'train_dataloader\.dataset'):
        SweepPipeline({})


def test_another_grid_than_the_checkpoints_is_told(config, tmp_path, monkeypatch):
    from mmjepa.apis import inference

    told = []
    monkeypatch.setattr(inference, 'print_log', lambda text, *a, **k: told.append(text))
    state = init_model(config).state_dict()
    path = tmp_path / 'jepa.pth'
    torch.save({'meta': {'cfg': config.pretty_text}, 'state_dict': state}, path)
    init_model(config, path)
    assert told == []
    init_model(config, path, cfg_options={'voxel_size': [0.3, 0.3, 0.1]})
    assert len(told) == 1
    assert 'voxel_size' in told[0]
