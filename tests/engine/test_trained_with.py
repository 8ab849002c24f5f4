"""A detector is evaluated with the classes and the grid that it was trained with."""

import pytest

from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.engine.trained_with import check_detector, other_grid

CFG = {
    'voxel_size': [0.1, 0.1, 0.1],
    'point_cloud_range': [0, -8, -3, 16, 8, 1],
    'test_dataloader': {'dataset': {'metainfo': {'classes': ['Car', 'Cyclist']}}},
}


def checkpoint(classes=('Car', 'Cyclist'), voxel=0.1, side=8):
    text = f'voxel_size = [0.1, 0.1, {voxel}]\npoint_cloud_range = [0, -8, -3, 16, {side}, 1]\n'
    return {'meta': {'cfg': text, 'dataset_meta': {'classes': classes}}, 'state_dict': {}}


def test_the_same_passes_and_files_that_do_not_tell_pass():
    check_detector(checkpoint(), CFG, 'a.pth')
    check_detector({'state_dict': {}}, CFG, 'a.pth')
    for dataset in ({}, [1, 2]):
        check_detector(checkpoint(), {'test_dataloader': {'dataset': dataset}}, 'a.pth')


def test_other_order_of_classes():
    with pytest.raises(
        CheckpointError, match=r'a\.pth was trained on the classes Cyclist, Car, the'
    ):
        check_detector(checkpoint(('Cyclist', 'Car')), CFG, 'a.pth')


@pytest.mark.parametrize(
    ('change', 'name'), [(dict(voxel=0.2), 'voxel_size'), (dict(side=16), 'point_cloud_range')]
)
def test_other_grid(change, name):
    assert len(other_grid(checkpoint(**change), CFG)) == 1
    with pytest.raises(CheckpointError, match=rf'a\.pth: trained with {name}=.*--cfg-options'):
        check_detector(checkpoint(**change), CFG, 'a.pth')
