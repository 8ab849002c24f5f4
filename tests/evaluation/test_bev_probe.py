import csv
import json

import numpy as np
import pytest
import torch
from kitti_scenes import COARSE, write_kitti

from mmjepa.apis import init_model
from mmjepa.engine.config import load_config
from mmjepa.evaluation.probes import (
    BEVProbeSettings,
    ProtocolSettings,
    Samples,
    format_table,
    headline,
    probe_bev_cells,
    run_protocol,
    write_results,
)
from mmjepa.evaluation.probes.arms import calibrate_batchnorm, cell_features
from mmjepa.evaluation.probes.bev_probe import label_frames, pretraining_sweeps
from mmjepa.evaluation.probes.kitti_frames import kitti_frames
from mmjepa.evaluation.probes.protocols import ProtocolResult
from mmjepa.evaluation.probes.report import compare, summarise
from mmjepa.evaluation.probes.sampling import CellTable, balanced_rows
from mmjepa.evaluation.progress import TerminalProgress

FAST = ProtocolSettings(l2=(1e-2,), linear_iterations=20)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_kitti(tmp_path_factory.mktemp('kitti'), train=3, val=2)


@pytest.fixture(scope='module')
def config(root, request):
    path = request.config.rootpath / 'configs/adl_jepa/kitti.py'
    return load_config(path, {**COARSE, 'data_root': str(root)})


@pytest.fixture(scope='module')
def checkpoint(config, tmp_path_factory):
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp('weights') / 'run_0.pth'
    torch.save({'state_dict': init_model(config).state_dict()}, path)
    return path


@pytest.fixture(scope='module')
def results(config, checkpoint):
    settings = BEVProbeSettings(
        protocols=('knn', 'linear'), seeds=(0, 1), train_per_class=40, protocol=FAST
    )
    return probe_bev_cells(config, checkpoint, settings)


def test_results_of_all_arms(results):
    assert results['classes'] == ['background', 'Car', 'Pedestrian', 'Cyclist']
    assert results['frames'] == {'train': 3, 'val': 2}
    assert results['val_frames_in_pretraining'] == 0
    assert results['calibration_frames'] == 3
    for protocol in ('knn', 'linear'):
        arms = results['protocols'][protocol]
        assert list(arms) == ['untrained', 'handmade', 'checkpoint']
        for entry in arms.values():
            assert [r['seed'] for r in entry['runs']] == [0, 1]
            mean = np.mean([np.mean(r['per_class']) for r in entry['runs']])
            assert entry['mean'] == pytest.approx(mean)
        # heights and intensities tell these scenes' classes apart
        assert arms['handmade']['mean'] > 0.85
        assert arms['untrained']['runs'][0]['mean'] != arms['untrained']['runs'][1]['mean']
    assert results['protocols']['linear']['checkpoint']['mean'] > 0.4  # chance: 0.25


def test_table_and_files(results, tmp_path):
    text = format_table(results)
    assert '3 train and 2 val frames; chance 25.0' in text
    assert 'checkpoint - untrained' in text
    assert headline(results).startswith('BEV kNN mean class accuracy: untrained ')
    json_path, csv_path = write_results(results, tmp_path / 'out')
    assert json.loads(json_path.read_text())['protocols'].keys() == {'knn', 'linear'}
    rows = list(csv.DictReader(csv_path.open()))
    assert len(rows) == 2 * 3 * 2
    assert rows[-1]['protocol'] == 'linear'
    assert float(rows[-1]['l2']) == 0.01


def test_probe_is_deterministic_and_leaves_the_global_rng(config, checkpoint, results):
    state = torch.get_rng_state()
    settings = BEVProbeSettings(
        arms=('untrained', 'checkpoint'), seeds=(1,), train_per_class=40, protocol=FAST
    )
    again = probe_bev_cells(config, checkpoint, settings)
    for arm in settings.arms:
        new = again['protocols']['knn'][arm]['runs'][0]
        assert new == results['protocols']['knn'][arm]['runs'][1]
    assert torch.equal(state, torch.get_rng_state())


def test_one_checkpoint_for_each_seed(config, checkpoint):
    torch.manual_seed(8)
    torch.save({'state_dict': init_model(config).state_dict()}, checkpoint.parent / 'run_1.pth')
    pattern = str(checkpoint.parent / 'run_{seed}.pth')
    settings = BEVProbeSettings(arms=('checkpoint',), seeds=(0, 1), equal_classes=True)
    runs = probe_bev_cells(config, pattern, settings)['protocols']['knn']['checkpoint']['runs']
    alone = BEVProbeSettings(arms=('checkpoint',), seeds=(1,), equal_classes=True)
    single = probe_bev_cells(config, checkpoint.parent / 'run_1.pth', alone)
    assert runs[1] == single['protocols']['knn']['checkpoint']['runs'][0]
    with pytest.raises(FileNotFoundError, match='run_2'):
        probe_bev_cells(config, pattern, BEVProbeSettings(arms=('checkpoint',), seeds=(0, 2)))


def test_without_checkpoint_its_arms_are_left_out(config):
    result = probe_bev_cells(config, None, BEVProbeSettings())
    assert result['arms'] == ['untrained', 'handmade']
    assert result['comparison'] == {'knn': None}
    with pytest.raises(ValueError, match='need a checkpoint'):
        probe_bev_cells(config, None, BEVProbeSettings(arms=('checkpoint',)))


def test_shared_frames_and_absent_classes_raise(config):
    with pytest.raises(ValueError, match='share 3 frames'):
        probe_bev_cells(config, None, BEVProbeSettings(val_split='train'))
    from mmjepa.evaluation.probes import CellRule

    rule = CellRule(classes=('Car', 'Tram'))
    with pytest.raises(ValueError, match='no cell of Tram'):
        probe_bev_cells(config, None, BEVProbeSettings(rule=rule))


def test_calibration_gives_the_statistics_of_whole_sweeps(config):
    torch.manual_seed(0)
    model = init_model(config)
    weights = {k: v.clone() for k, v in model.named_parameters()}
    seen = []
    norm = model.encoder.conv_input[1]
    norm.register_forward_hook(lambda m, args, out: seen.append(args[0].detach().clone()))
    paths = pretraining_sweeps(config)
    count = calibrate_batchnorm(model, paths, batch_size=2)
    assert count == 12
    assert len(seen) == 2
    assert torch.allclose(norm.running_mean, torch.stack([x.mean(0) for x in seen]).mean(0))
    assert torch.allclose(norm.running_var, torch.stack([x.var(0) for x in seen]).mean(0))
    assert norm.momentum == 0.01
    assert not model.training
    assert all(torch.equal(v, weights[k]) for k, v in model.named_parameters())
    with pytest.raises(ValueError, match='at least one sweep'):
        calibrate_batchnorm(model, [])


def test_features_belong_to_their_cells(config, root):
    """A model whose features are the cell's coordinates gives them back, whatever the batches."""
    model = init_model(config)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing='ij')

    def coordinates(inputs):
        frame = inputs['seeds'].view(-1, 1, 1).expand(-1, 16, 16)
        grid = torch.stack([rows, columns]).expand(len(frame), 2, 16, 16)
        return torch.cat([frame[:, None], grid], dim=1).float()

    model.extract_feat = coordinates
    frames = kitti_frames(root, 'train')
    from mmjepa.evaluation.probes.arms import grid_of

    table = label_frames(model, frames, grid_of(model, (16, 16)), BEVProbeSettings().rule)
    chosen = np.flatnonzero(table.frame != 1)[::3]
    for batch_size in (1, 2):
        feats = cell_features(model, [f.points for f in frames], table, chosen, batch_size)
        assert (feats[:, 1] * 16 + feats[:, 2]).tolist() == table.cell[chosen].tolist()
        # frame 1 is never read: the second frame read is frame 2
        assert feats[:, 0].tolist() == (table.frame[chosen] // 2).tolist()


def test_labels_agree_with_where_the_objects_are(config, root):
    model = init_model(config)
    from mmjepa.evaluation.probes.arms import grid_of, map_shape

    frames = kitti_frames(root, 'val')
    shape = map_shape(model, frames[0].points)
    table = label_frames(model, frames, grid_of(model, shape), BEVProbeSettings().rule)
    assert shape == (16, 16)
    intensity = table.statistics[:, 7]
    means = [intensity[table.label == i].mean() for i in range(4)]
    # scenes: floor .3, Car .6, Pedestrian .3, Cyclist .1
    assert means[3] < means[0] < means[1]
    assert (table.statistics[table.label > 0, 5] > 0.2).mean() > 0.9  # objects have height
    assert (table.statistics[table.label == 0, 5] < 0.1).all()


def test_balanced_rows():
    labels = np.array([0] * 50 + [1] * 5 + [2] * 20)
    rows = balanced_rows(labels, 4, 10, seed=0)
    assert np.bincount(labels[rows]).tolist() == [10, 5, 10]
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == balanced_rows(labels, 4, 10, seed=0).tolist()
    assert rows.tolist() != balanced_rows(labels, 4, 10, seed=1).tolist()
    with pytest.raises(ValueError, match='at least 1'):
        balanced_rows(labels, 4, 0, seed=0)
    with pytest.raises(ValueError, match='no frame'):
        CellTable.from_frames([])


def test_standardising_lets_knn_see_small_channels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(100)
    feats = torch.randn(200, 2, generator=generator)
    feats[:, 0] *= 100_000
    feats[:, 1] = feats[:, 1] * 0.1 + labels
    train = Samples(feats[:100], labels[:100], torch.arange(100))
    test = Samples(feats[100:], labels[100:], torch.arange(100))
    plain = run_protocol('knn', train, test, 2)
    scaled = run_protocol('knn', train, test, 2, standardise=True)
    assert scaled.mean > 0.95 > 0.8 > plain.mean
    with pytest.raises(ValueError, match='unknown protocol'):
        run_protocol('forest', train, test, 2)


def test_summary_and_comparison():
    def runs(*means):
        return summarise([(i, ProtocolResult([m, m], m)) for i, m in enumerate(means)])

    good = compare({'untrained': runs(0.4, 0.5), 'checkpoint': runs(0.8, 0.8)})
    assert good['gain'] == pytest.approx(0.35)
    assert good['spread'] == pytest.approx(0.1 / 2**0.5)
    assert good['clear']
    assert not compare({'untrained': runs(0.4, 0.8), 'checkpoint': runs(0.8, 0.8)})['clear']
    single = compare({'untrained': runs(0.4), 'checkpoint': runs(0.8)})
    assert single['spread'] is None
    assert single['clear'] is None


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'protocols': ('forest',)}, 'protocols'),
        ({'arms': ('magic',)}, 'arms'),
        ({'seeds': ()}, 'seeds'),
        ({'seeds': (1, 1)}, 'seeds'),
    ],
)
def test_bad_settings_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        BEVProbeSettings(**arguments)


def test_terminal_progress(capsys):
    progress = TerminalProgress(interval=1000)
    for i in range(5):
        progress('label', i + 1, 5)
    progress('fit', 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(' (')[0] for line in lines] == ['label: 5/5', 'fit: 1/1']
