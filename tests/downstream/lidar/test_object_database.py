"""Objects to paste: a function of the seed, and never one twice in a frame."""

import numpy as np
import pytest
from mm3d_scenes import write_kitti

pytest.importorskip('mmdet3d.models', exc_type=ImportError)

from mmdet3d.datasets.transforms import DataBaseSampler

from mmjepa.datasets.seeded import global_seed
from mmjepa.downstream.lidar.object_database import SeededDataBaseSampler


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
    """Arguments for a data base of 12 cars and as many pedestrians."""
    root = tmp_path_factory.mktemp('objects') / 'kitti'
    write_kitti(root, frames=6)
    return dict(
        data_root=str(root),
        info_path=str(root / 'kitti_dbinfos_train.pkl'),
        rate=1.0,
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict(Car=5, Pedestrian=5)),
        classes=['Car', 'Pedestrian'],
        sample_groups=dict(Car=4, Pedestrian=3),
        points_loader=dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
    )


@pytest.fixture
def make(settings):
    from mmengine.registry import DefaultScope

    DefaultScope.get_instance('objects', scope_name='mmdet3d')

    def build(cls=SeededDataBaseSampler, **changes):
        return cls(**{**settings, **changes})

    return build


def paths(objects):
    return [entry['path'] for entry in objects]


def draw(sampler, seed, count=4, name='Car'):
    with global_seed(seed):
        return paths(sampler.sampler_dict[name].sample(count))


def test_the_seed_alone_decides(make):
    first, other = make(), make()
    drawn = {seed: draw(first, seed) for seed in range(20)}
    assert {seed: draw(other, seed) for seed in reversed(range(20))} == drawn
    assert len({tuple(names) for names in drawn.values()}) == 20
    assert len({name for names in drawn.values() for name in names}) == 12, 'some never come'


def test_mmdet3ds_own_sampler_remembers(make):
    """Why ours exists: there the same seed draws other objects at another time."""
    sampler = make(DataBaseSampler)
    assert draw(sampler, 0) != draw(sampler, 0)


@pytest.mark.parametrize(('count', 'drawn'), [(0, 0), (1, 1), (12, 12), (13, 12), (100, 12)])
def test_no_object_twice_and_all_where_there_are_fewer(make, count, drawn):
    sampler = make()
    for seed in range(4):
        names = draw(sampler, seed, count)
        assert len(names) == len(set(names)) == drawn


def test_a_frame_gets_the_same_objects_again(make):
    """The whole way: numbers by class, collisions, points."""
    boxes, labels = np.zeros((1, 7)), np.zeros(1, dtype=np.int64)
    boxes[:, 3:6] = 0.1

    def frame(seed):
        with global_seed(seed):
            return sampler.sample_all(boxes, labels)

    sampler = make()
    first, second, again = frame(1), frame(2), frame(1)
    assert (first['gt_labels_3d'] == 0).sum() <= 3, 'one car is there already'
    assert set(first['gt_labels_3d']) == {0, 1}
    np.testing.assert_array_equal(first['gt_bboxes_3d'], again['gt_bboxes_3d'])
    np.testing.assert_array_equal(first['points'].numpy(), again['points'].numpy())
    assert first['gt_bboxes_3d'].shape != second['gt_bboxes_3d'].shape or not np.array_equal(
        first['gt_bboxes_3d'], second['gt_bboxes_3d']
    )
    assert len(first['points']) >= 5 * len(first['gt_bboxes_3d'])


def test_objects_of_the_data_base_are_not_changed(make):
    """Pasted points are moved to their place: on copies, or the next frame gets them elsewhere."""
    sampler = make()
    before = [entry['box3d_lidar'].copy() for entry in sampler.db_infos['Car']]
    with global_seed(3):
        sampler.sample_all(np.zeros((0, 7)), np.zeros(0, dtype=np.int64))
    after = [entry['box3d_lidar'] for entry in sampler.db_infos['Car']]
    np.testing.assert_array_equal(before, after)
