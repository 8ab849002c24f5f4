import numpy as np
import pytest

from mmjepa.apis.sweeps import SweepPipeline
from mmjepa.datasets.kitti import points_in_boxes
from mmjepa.datasets.transforms.gt_sampling import (
    GTSampling,
    ObjectBank,
    boxes_overlap,
    read_labels,
)
from mmjepa.engine.config import load_config
from mmjepa.registry import DATASETS


@pytest.fixture
def root(shared_dir, tmp_path):
    """The real frames with a split of five; the sixth takes objects in."""
    root = tmp_path / 'kitti'
    (root / 'ImageSets').mkdir(parents=True)
    (root / 'training').symlink_to(shared_dir / 'data/kitti/training')
    (root / 'ImageSets/train.txt').write_text('000000\n000001\n000002\n002155\n007347\n')
    return root


def paste(root, seed=0, **kwargs):
    path = root / 'training/velodyne/000003.bin'
    points = np.fromfile(path, np.float32).reshape(-1, 4)
    results = {'points': points, 'path': str(path), 'rng': np.random.default_rng(seed)}
    return points, GTSampling(root, **kwargs)(results)['points']


def test_objects_are_pasted_whole_and_make_room(root):
    before, after = paste(root)
    bank = GTSampling(root).bank
    found = {name: (bank.names == name).sum() for name in ('Car', 'Pedestrian', 'Cyclist')}
    assert found == {'Car': 7, 'Pedestrian': 2, 'Cyclist': 0}
    _, own = read_labels(root / 'training', '000003')
    pasted = [
        i for i in range(len(bank.names))
        if (after[:, None] == bank.points_of(i)[:1]).all(-1).any()
        and not (before[:, None] == bank.points_of(i)[:1]).all(-1).any()
    ]  # fmt: skip
    assert pasted
    boxes = bank.boxes[pasted]
    assert not boxes_overlap(boxes, own).any()
    assert (boxes_overlap(boxes, boxes) == np.eye(len(pasted), dtype=bool)).all()
    removed = (points_in_boxes(before, boxes) >= 0).sum()
    added = sum(len(bank.points_of(i)) for i in pasted)
    assert len(after) == len(before) - removed + added


def test_it_is_a_function_of_the_seed(root):
    counts = {'Car': 3}
    once, again = paste(root, 1, counts=counts)[1], paste(root, 1, counts=counts)[1]
    np.testing.assert_array_equal(once, again)
    assert any(len(paste(root, seed, counts=counts)[1]) != len(once) for seed in range(2, 8))


def test_own_objects_count(root):
    before, after = paste(root, counts={'Car': 1})  # the frame has its car already
    np.testing.assert_array_equal(before, after)


def test_bank_is_cached_and_repaired(root, monkeypatch):
    from mmjepa.datasets.file_index import cache_dir

    first = GTSampling(root).bank
    with monkeypatch.context() as patch:
        patch.setattr(ObjectBank, '_cut', lambda *_: pytest.fail('cut again'))
        np.testing.assert_array_equal(GTSampling(root).bank.points, first.points)
    (file,) = cache_dir().glob('objects_*.npz')
    file.write_bytes(b'damaged')
    np.testing.assert_array_equal(GTSampling(root).bank.boxes, first.boxes)


def test_without_labels_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match='Label-free pre-training does without'):
        GTSampling(tmp_path)


def test_it_is_an_option_of_the_config(root, repo):
    def built(**options):
        cfg = load_config(
            repo / 'configs/adl_jepa/kitti.py',
            {'data_root': str(root), 'on_error': 'skip'} | options,
        )
        return cfg, DATASETS.build(cfg.train_dataloader.dataset)

    plain = built()[1]
    assert not any(isinstance(step, GTSampling) for step in plain.pipeline)
    cfg, dataset = built(gt_sampling=True)
    kinds = [type(step).__name__ for step in dataset.pipeline]
    assert kinds[1:4] == ['CropToCameraView', 'GTSampling', 'RandomFlipPoints']
    more, fewer = (len(data[(0, 5)]['inputs']['points']) for data in (dataset, plain))
    assert more != fewer
    # features are taken from the sweep as it is
    assert 'GTSampling' not in SweepPipeline(cfg).names


def test_boxes_overlap_agrees_with_shapely():
    shapely = pytest.importorskip('shapely')
    affinity = pytest.importorskip('shapely.affinity')
    rng = np.random.default_rng(0)
    boxes = np.column_stack(
        [rng.uniform(-5, 5, (40, 3)), rng.uniform(0.5, 5, (40, 3)), rng.uniform(-4, 4, 40)]
    )

    def polygon(box):
        shape = shapely.box(-box[3] / 2, -box[4] / 2, box[3] / 2, box[4] / 2)
        turned = affinity.rotate(shape, box[6], origin=(0, 0), use_radians=True)
        return affinity.translate(turned, box[0], box[1])

    polygons = [polygon(box) for box in boxes]
    expected = [[a.intersection(b).area > 1e-9 for b in polygons] for a in polygons]
    assert 0.1 < np.mean(expected) < 0.9
    np.testing.assert_array_equal(boxes_overlap(boxes, boxes), expected)
