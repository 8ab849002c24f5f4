import pickle
import time

import numpy as np
import pytest

from mmjepa.datasets.point_files import (
    BadSampleError,
    guess_load_dim,
    keep_valid,
    lzf_decompress,
    read_points,
    select_columns,
    sweep_suffix,
)


def pcd_header(fields, sizes, kinds, points, data, counts=None):
    counts = counts or ['1'] * len(fields)
    return (
        '# .PCD v.7 - Point Cloud Data file format\nVERSION .7\n'
        f'FIELDS {" ".join(fields)}\nSIZE {" ".join(sizes)}\nTYPE {" ".join(kinds)}\n'
        f'COUNT {" ".join(counts)}\nWIDTH {points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n'
        f'POINTS {points}\nDATA {data}\n'
    ).encode()


@pytest.mark.parametrize(
    ('name', 'suffix'),
    [('a.bin', '.bin'), ('a.pcd.bin', '.pcd.bin'), ('A.BIN', '.bin'), ('a.pcd', '.pcd'),
     ('a.npy', '.npy'), ('a.txt', None)],
)  # fmt: skip
def test_sweep_suffix(name, suffix):
    assert sweep_suffix(name) == suffix


def test_bin_dims_by_suffix_and_use_dim(tmp_path, make_sweep):
    kitti = make_sweep(tmp_path / 'a.bin', dim=4)
    nuscenes = make_sweep(tmp_path / 'a.pcd.bin', dim=5)
    waymo = make_sweep(tmp_path / 'w.bin', dim=6)
    np.testing.assert_array_equal(read_points(tmp_path / 'a.bin'), kitti)
    np.testing.assert_array_equal(read_points(tmp_path / 'a.pcd.bin'), nuscenes)
    np.testing.assert_array_equal(read_points(tmp_path / 'w.bin', 6, use_dim=5), waymo[:, :5])
    picked = read_points(tmp_path / 'w.bin', 6, use_dim=[0, 1, 2, 4])
    np.testing.assert_array_equal(picked, waymo[:, [0, 1, 2, 4]])
    assert picked.flags.c_contiguous


def test_real_sweeps(shared_dir):
    kitti = read_points(shared_dir / 'data/kitti/training/velodyne/000001.bin')
    assert kitti.shape == (120268, 4)
    assert kitti.dtype == np.float32
    nuscenes = read_points(next((shared_dir / 'data/nuscenes').glob('*.pcd.bin')))
    assert nuscenes.shape == (34688, 5)
    assert nuscenes[:, 4].max() == 31  # rings


def test_guess_load_dim_on_real_sweeps(shared_dir):
    kitti = sorted((shared_dir / 'data/kitti/training/velodyne').glob('*.bin'))
    nuscenes = next((shared_dir / 'data/nuscenes').glob('*.pcd.bin'))
    for file in kitti:
        values = np.fromfile(file, np.float32)
        assert guess_load_dim(values) == 4, file
        shuffled = values.reshape(-1, 4)[np.random.default_rng(0).permutation(len(values) // 4)]
        count = len(shuffled) // 840 * 840  # a length that every candidate divides
        wide = np.pad(shuffled[:count], ((0, 0), (0, 2)))
        assert guess_load_dim(shuffled[:count].ravel()) == 4, file
        assert guess_load_dim(shuffled[:count, :3].ravel()) == 3, file
        assert guess_load_dim(wide.ravel()) == 6, file
    assert guess_load_dim(np.fromfile(nuscenes, np.float32)) == 5


def test_guess_load_dim_abstains_on_noise():
    values = np.random.default_rng(0).random(8400).astype(np.float32)
    assert guess_load_dim(values) is None
    assert guess_load_dim(values[:40]) is None
    assert guess_load_dim(values[:0]) is None


def test_wrong_dimension_is_told_from_the_numbers(tmp_path, make_sweep):
    array = make_sweep(tmp_path / 'w.bin', points=840, dim=6)  # 4 divides the size, too
    with pytest.raises(
        BadSampleError, match=r'w\.bin.*look like 6 values per point, load_dim is 4'
    ):
        read_points(tmp_path / 'w.bin')
    assert read_points(tmp_path / 'w.bin', check_dim=False).shape == (1260, 4)
    np.testing.assert_array_equal(read_points(tmp_path / 'w.bin', load_dim=6), array)


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'', 'the file is empty'), (b'1234' * 9, 'not a whole number of points')],
)
def test_empty_and_truncated_bin(tmp_path, content, message):
    (tmp_path / 'a.bin').write_bytes(content)
    with pytest.raises(BadSampleError, match=rf'a\.bin.*{message}') as caught:
        read_points(tmp_path / 'a.bin')
    assert caught.value.path.endswith('a.bin')


def test_missing_unreadable_and_unknown(tmp_path):
    with pytest.raises(BadSampleError, match='no such file'):
        read_points(tmp_path / 'none.bin')
    (tmp_path / 'dir.bin').mkdir()
    with pytest.raises(BadSampleError, match=r'cannot be read|empty|whole number'):
        read_points(tmp_path / 'dir.bin')
    with pytest.raises(BadSampleError, match='unknown suffix'):
        read_points(tmp_path / 'a.las')


def test_permission_error_is_a_bad_sample(tmp_path, make_sweep, monkeypatch):
    make_sweep(tmp_path / 'a.bin')

    def refuse(*_, **__):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(np, 'fromfile', refuse)  # as root, chmod refuses nothing
    with pytest.raises(BadSampleError, match=r'a\.bin: cannot be read \(Permission denied\)'):
        read_points(tmp_path / 'a.bin')


def test_npy(tmp_path):
    array = np.random.default_rng(0).random((7, 5))
    np.save(tmp_path / 'a.npy', array)
    read = read_points(tmp_path / 'a.npy')
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.astype(np.float32))
    with pytest.raises(BadSampleError, match='5 values per point, load_dim is 4'):
        read_points(tmp_path / 'a.npy', load_dim=4)
    np.save(tmp_path / 'flat.npy', np.zeros(8))
    with pytest.raises(BadSampleError, match=r'shape \(8,\)'):
        read_points(tmp_path / 'flat.npy')
    np.save(tmp_path / 'evil.npy', np.array([{'a': 1}], dtype=object))
    with pytest.raises(BadSampleError, match='not a readable'):
        read_points(tmp_path / 'evil.npy')
    np.save(tmp_path / 'none.npy', np.zeros((0, 4)))
    with pytest.raises(BadSampleError, match='no points'):
        read_points(tmp_path / 'none.npy')
    np.savez(tmp_path / 'archive.npz', array)
    (tmp_path / 'archive.npz').rename(tmp_path / 'archive.npy')
    with pytest.raises(BadSampleError, match=r'a \.npz archive'):
        read_points(tmp_path / 'archive.npy')
    good = (tmp_path / 'a.npy').read_bytes()
    (tmp_path / 'b.npy').write_bytes(good[:30] + b'(' + good[31:])  # numpy: TokenError
    with pytest.raises(BadSampleError, match=r'b\.npy: not a readable'):
        read_points(tmp_path / 'b.npy')


def test_pcd_ascii_orders_columns_and_skips_padding(tmp_path):
    header = pcd_header(
        ['ring', 'x', 'y', 'z', '_', 'intensity'], ['2', '4', '4', '4', '1', '4'],
        ['U', 'F', 'F', 'F', 'U', 'F'], 2, 'ascii', ['1', '1', '1', '1', '3', '1'],
    )  # fmt: skip
    body = b'7 1.5 2 3 0 0 0 0.25\n8 -1 nan 3 0 0 0 0.5\n'
    (tmp_path / 'a.pcd').write_bytes(header + body)
    expected = [[1.5, 2, 3, 0.25, 7], [-1, np.nan, 3, 0.5, 8]]
    np.testing.assert_array_equal(read_points(tmp_path / 'a.pcd'), np.array(expected, np.float32))


def test_pcd_binary(tmp_path):
    record = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('intensity', 'u1'), ('t', '<f8')])
    table = np.zeros(3, record)
    table['x'], table['intensity'], table['t'] = [1, 2, 3], [4, 5, 255], [0.5, 1.5, 2.5]
    header = pcd_header(record.names, ['4', '4', '4', '1', '8'], 'FFFUF', 3, 'binary')
    (tmp_path / 'a.pcd').write_bytes(header + table.tobytes())
    expected = np.stack([table[name].astype(np.float32) for name in record.names], 1)
    np.testing.assert_array_equal(read_points(tmp_path / 'a.pcd'), expected)
    (tmp_path / 'b.pcd').write_bytes(header + table.tobytes()[:-1])
    with pytest.raises(BadSampleError, match='truncated or damaged'):
        read_points(tmp_path / 'b.pcd')


@pytest.mark.parametrize('mode', ['ascii', 'binary', 'compressed'])
def test_pcd_files_of_open3d(tmp_path, mode):
    o3d = pytest.importorskip('open3d')
    rng = np.random.default_rng(0)
    array = np.column_stack([rng.integers(0, 50, (2000, 3)), rng.random(2000)]).astype(np.float32)
    cloud = o3d.t.geometry.PointCloud(array[:, :3])
    cloud.point.intensity = o3d.core.Tensor(array[:, 3:])
    path = tmp_path / 'a.pcd'
    assert o3d.t.io.write_point_cloud(
        str(path), cloud, write_ascii=mode == 'ascii', compressed=mode == 'compressed'
    )
    wanted = {'ascii': b'DATA ascii', 'binary': b'DATA binary\n'}
    assert wanted.get(mode, b'DATA binary_compressed') in path.read_bytes()
    np.testing.assert_allclose(read_points(path), array, rtol=1e-6)


def test_pcd_without_coordinates_or_header(tmp_path):
    (tmp_path / 'a.pcd').write_bytes(pcd_header(['x', 'y'], '44', 'FF', 1, 'ascii') + b'1 2\n')
    with pytest.raises(BadSampleError, match='no x, y, z'):
        read_points(tmp_path / 'a.pcd')
    (tmp_path / 'b.pcd').write_bytes(b'nonsense')
    with pytest.raises(BadSampleError, match='no PCD header'):
        read_points(tmp_path / 'b.pcd')


@pytest.mark.parametrize('data', ['ascii', 'binary', 'binary_compressed'])
@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('TYPE F F F', 'TYPE F Q F'),
        ('TYPE F F F', 'TYPE F F'),
        ('SIZE 4 4 4', 'SIZE 4 4'),
        ('SIZE 4 4 4', 'SIZE 4 four 4'),
        ('SIZE 4 4 4', 'SIZE 4 3 4'),
        ('COUNT 1 1 1', 'COUNT 1 1'),
        ('COUNT 1 1 1', 'COUNT 1 -1 1'),
        ('POINTS 2', 'POINTS many'),
        ('POINTS 2', 'POINTS -1'),
        ('POINTS 2', 'POINTS 99999999999999999999'),
    ],
)
def test_pcd_header_that_is_damaged(tmp_path, old, new, data):
    header = pcd_header('xyz', '444', 'FFF', 2, data).decode()
    assert old in header
    body = b'1 2 3\n4 5 6\n' if data == 'ascii' else np.arange(6, dtype='<f4').tobytes()
    (tmp_path / 'a.pcd').write_bytes(header.replace(old, new).encode() + body)
    with pytest.raises(BadSampleError, match=r'a\.pcd: .*damaged'):
        read_points(tmp_path / 'a.pcd')


def test_pcd_with_unknown_encoding(tmp_path):
    (tmp_path / 'a.pcd').write_bytes(pcd_header('xyz', '444', 'FFF', 1, 'hex') + b'1 2 3\n')
    with pytest.raises(BadSampleError, match='DATA hex'):
        read_points(tmp_path / 'a.pcd')


@pytest.mark.parametrize('suffix', ['.npy', '.pcd'])
def test_no_damage_raises_anything_else(tmp_path, suffix):
    """What on_error='skip' leaves out is a BadSampleError, and nothing else."""
    rng = np.random.default_rng(0)
    path, points = tmp_path / f'a{suffix}', rng.random((9, 3)).astype(np.float32)
    if suffix == '.npy':
        np.save(path, points)
    else:
        path.write_bytes(pcd_header('xyz', '444', 'FFF', 9, 'binary') + points.tobytes())
    good, bad = path.read_bytes(), 0
    assert read_points(path).shape == (9, 3)
    for _ in range(400):
        damaged, at = bytearray(good), int(rng.integers(len(good)))
        if rng.random() < 0.5:
            damaged[at] = rng.integers(256)
        else:
            del damaged[at : at + int(rng.integers(1, 9))]
        path.write_bytes(damaged)
        try:
            read_points(path)
        except BadSampleError:
            bad += 1
    assert bad > 100


def test_lzf_overlapping_reference_and_damage():
    # literal 'ab', then 6 bytes from 2 back (length code 4)
    packed = bytes([1, 97, 98, 4 << 5, 1])
    assert lzf_decompress(packed, 8) == b'abababab'
    with pytest.raises(ValueError, match='header says 9'):
        lzf_decompress(packed, 9)
    with pytest.raises(ValueError, match='before the start'):
        lzf_decompress(bytes([0, 97, 1 << 5, 5]), 4)


def test_keep_valid_drops_and_refuses():
    points = np.zeros((10, 4), np.float32)
    assert keep_valid(points, 'a') is points
    points[0, 0], points[1, 3], points[2, 1], points[3, 2] = np.nan, np.inf, 301, -1e30
    assert len(keep_valid(points, 'a')) == 6
    points[4:6, 0] = np.nan
    with pytest.raises(BadSampleError, match='only 4 of 10 points are finite and within 300 m'):
        keep_valid(points, 'a.bin')
    with pytest.raises(BadSampleError, match='0 of 0'):
        keep_valid(points[:0], 'a.bin')


def test_select_columns_beyond_the_last():
    with pytest.raises(BadSampleError, match='asks for column 4, a point has 4'):
        select_columns(np.zeros((2, 4), np.float32), 5)


def test_bad_sample_error_survives_a_worker():
    error = BadSampleError('a.bin', 'is bad', 'Fetch it')
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path) == (str(error), 'a.bin')
    assert str(BadSampleError('what a DataLoader re-raises')) == 'what a DataLoader re-raises'
    assert isinstance(error, ValueError)


def test_reading_a_real_sweep_is_fast(shared_dir):
    file = shared_dir / 'data/kitti/training/velodyne/000001.bin'
    times = []
    for _ in range(5):
        start = time.perf_counter()
        keep_valid(read_points(file), file)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.015
