"""Which frames of a KITTI folder are converted, and how they are split."""

import shutil

import pytest
from mm3d_scenes import add_images, write_kitti_raw

from mmjepa.datasets.mmdet3d_infos.kitti_plan import plan_kitti


@pytest.fixture
def raw(tmp_path):
    """A KITTI folder without images and info files."""
    write_kitti_raw(tmp_path / 'raw')
    return tmp_path / 'raw'


def test_plan_takes_the_lists_that_are_there(raw):
    plan = plan_kitti(raw, in_place=False, val_fraction=None)
    assert (plan.train, plan.val) == (['000000', '000001'], ['000002', '000003'])
    notes = ' '.join(plan.notes)
    assert '4 of 4 training frames have no image (000000, ...)' in notes
    assert '375 x 1242' in notes
    assert 'no test frames' in notes
    assert 'labels: Pedestrian 8, Cyclist 8, Car 8; DontCare 0' in notes
    add_images(raw)
    assert 'image' not in ' '.join(plan_kitti(raw, True, None).notes)


@pytest.mark.parametrize(('fraction', 'val'), [(None, 1), (0.5, 2), (0.99, 3), (0.01, 1)])
def test_plan_splits_in_order_where_there_are_no_lists(raw, fraction, val):
    shutil.rmtree(raw / 'ImageSets')
    plan = plan_kitti(raw, in_place=False, val_fraction=fraction)
    frames = [f'{i:06d}' for i in range(4)]
    assert (plan.train, plan.val) == (frames[:-val], frames[-val:])
    assert any(f'the last {val} are val' in note for note in plan.notes)


def test_val_fraction_wins_over_lists(raw):
    assert plan_kitti(raw, in_place=False, val_fraction=0.25).val == ['000003']
    with pytest.raises(ValueError, match='add --out'):
        plan_kitti(raw, in_place=True, val_fraction=0.25)
    with pytest.raises(ValueError, match='between 0 and 1, got 1'):
        plan_kitti(raw, in_place=False, val_fraction=1.0)


def test_incomplete_frames_are_left_out_and_counted(raw):
    (raw / 'training/label_2/000001.txt').unlink()
    (raw / 'training/calib/000002.txt').unlink()
    plan = plan_kitti(raw, in_place=False, val_fraction=None)
    assert (plan.train, plan.val) == (['000000'], ['000003'])
    assert any('1 of 2 frames in ImageSets/train.txt lack files (000001: label_2)' in note
               for note in plan.notes)  # fmt: skip
    shutil.rmtree(raw / 'ImageSets')
    plan = plan_kitti(raw, in_place=False, val_fraction=None)
    assert (plan.train, plan.val) == (['000000'], ['000003'])
    assert any('2 frames without sweep, calibration or label' in note for note in plan.notes)


def test_in_place_nothing_may_be_missing(raw):
    with pytest.raises(FileNotFoundError, match=r'training/image_2; .*--out') as caught:
        plan_kitti(raw, in_place=True, val_fraction=None)
    assert f'create_data.py kitti --root {raw} --out' in str(caught.value)
    add_images(raw, frames=3)
    with pytest.raises(FileNotFoundError, match=r'1 of 4 .* have no image \(000003.*--out'):
        plan_kitti(raw, in_place=True, val_fraction=None)
    add_images(raw)
    (raw / 'training/velodyne/000002.bin').unlink()
    with pytest.raises(FileNotFoundError, match=r'000002: velodyne\); .*--out'):
        plan_kitti(raw, in_place=True, val_fraction=None)
    shutil.rmtree(raw / 'ImageSets')
    with pytest.raises(FileNotFoundError, match=r'ImageSets/train\.txt, ImageSets/val\.txt.*--out'):
        plan_kitti(raw, in_place=True, val_fraction=None)


def test_empty_validation_split(raw):
    (raw / 'ImageSets/val.txt').write_text('\n')
    with pytest.raises(ValueError, match=r'val\.txt is empty .*--val-fraction 0\.2'):
        plan_kitti(raw, in_place=False, val_fraction=None)
    assert plan_kitti(raw, in_place=False, val_fraction=0.2).val == ['000003']
    for i in range(1, 4):
        (raw / f'training/label_2/{i:06d}.txt').unlink()
    with pytest.raises(ValueError, match='1 frames with sweep.*two are needed'):
        plan_kitti(raw, in_place=False, val_fraction=0.2)


def test_labels_of_unknown_classes(raw):
    path = raw / 'training/label_2/000002.txt'
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(lines[1].split()[0], 'Dog')
    path.write_text('\n'.join(lines))
    with pytest.raises(ValueError, match=r"000002\.txt, line 2: class 'Dog' .*or DontCare"):
        plan_kitti(raw, in_place=False, val_fraction=None)
    lines[1] = lines[1].replace('Dog', 'DontCare')
    path.write_text('\n'.join(lines))
    with pytest.raises(ValueError, match='DontCare stands before other objects'):
        plan_kitti(raw, in_place=False, val_fraction=None)
    lines.append(lines.pop(1))
    lines[0] = lines[0].replace(lines[0].split()[0], 'Tram')
    path.write_text('\n'.join(lines))
    note = plan_kitti(raw, in_place=False, val_fraction=None).notes[-1]
    assert 'Tram 1; DontCare 1 ' in note


def test_frame_numbers_need_six_digits(raw):
    (raw / 'training/velodyne/000001.bin').rename(raw / 'training/velodyne/1.bin')
    with pytest.raises(ValueError, match=r'velodyne/1\.bin: KITTI numbers .* six digits'):
        plan_kitti(raw, in_place=False, val_fraction=None)


def test_frames_in_both_sets_are_told(raw):
    (raw / 'ImageSets/val.txt').write_text('000001\n000002\n')
    notes = plan_kitti(raw, in_place=False, val_fraction=None).notes
    assert any('1 frames stand in both train and val' in note for note in notes)
