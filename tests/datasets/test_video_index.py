"""Lists of videos and weighted draws from them."""

import json

import numpy as np
import pytest

from mmjepa.datasets.video_index import WeightedRows, read_index


def write(path, text):
    path.write_text(text)
    return path


def test_csv_splits_at_the_last_space(tmp_path):
    text = 'a.mp4 3\nmy videos/cat 2 dogs.mp4 0\n\n/abs/x y.avi 12\r\n"quoted, ""so"" it is.mp4" 1'
    index = read_index(write(tmp_path / 'train.csv', text))
    assert list(index.paths) == [
        'a.mp4', 'my videos/cat 2 dogs.mp4', '/abs/x y.avi', 'quoted, "so" it is.mp4',
    ]  # fmt: skip
    assert index.labels.tolist() == [3, 0, 12, 1]
    assert index.weights is None


def test_csv_in_bytes_that_are_no_utf8(tmp_path):
    (tmp_path / 'a.csv').write_bytes(b'caf\xe9.mp4 1\n')
    assert read_index('a.csv', tmp_path).paths[0].encode('utf-8', 'surrogateescape') == (
        b'caf\xe9.mp4'
    )


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('a.mp4 1\nno label.mp4\n', r"line 2: 'label.mp4' is no integer"),
        ('path label\na.mp4 1\n', r"line 1: 'label' is no integer.*without header"),
        ('a.mp4 1\n 5\n', 'line 2: no path before the label'),
    ],
)
def test_damaged_csv_names_the_line(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        read_index(write(tmp_path / 'train.csv', text))


def test_jsonl(tmp_path):
    rows = [{'path': 'a b.mp4', 'label': 2, 'weight': 0.5, 'caption': 'x'},
            {'path': 'c.mp4', 'label': 0, 'weight': 3}]  # fmt: skip
    path = write(tmp_path / 'v.jsonl', '\n'.join(map(json.dumps, rows)) + '\n\n')
    index = read_index('v.jsonl', tmp_path)
    assert list(index.paths) == ['a b.mp4', 'c.mp4']
    assert index.labels.tolist() == [2, 0]
    assert index.weights.tolist() == [0.5, 3]
    index = read_index(write(path, '{"path": "a.mp4"}'))
    assert index.labels is None and index.weights is None


@pytest.mark.parametrize(
    ('line', 'said'),
    [
        ('{"label": 1}', "line 2: KeyError: 'path'"),
        ('{"path": "a", "label": 1.5}', 'line 2: .*label is no integer'),
        ('{"path": "a", "label": 1, "weight": -1}', 'line 2: .*must not be negative'),
        ('["a"]', 'line 2: TypeError'),
        ('path', 'line 2: JSONDecodeError'),
        ('{"path": "b.mp4"}', '1 of 2 lines have no label'),
    ],
)
def test_damaged_jsonl_names_the_line(tmp_path, line, said):
    with pytest.raises(ValueError, match=said):
        read_index(write(tmp_path / 'v.jsonl', '{"path": "a.mp4", "label": 1}\n' + line))


def test_array_of_paths(tmp_path):
    np.save(tmp_path / 'v.npy', np.array(['a b.mp4', 'c.mp4']))
    index = read_index(tmp_path / 'v.npy')
    assert list(index.paths) == ['a b.mp4', 'c.mp4']
    assert index.labels.tolist() == [0, 0]
    np.save(tmp_path / 'v.npy', np.array(['a.mp4'], object))
    with pytest.raises(ValueError, match='would need pickle, which runs code'):
        read_index(tmp_path / 'v.npy')
    np.save(tmp_path / 'v.npy', np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r'an array \(2, 3\) of float64'):
        read_index(tmp_path / 'v.npy')


def test_folder_lists_videos_and_arrays(tmp_path):
    for name in ('b/2.MP4', 'a.mkv', 'b/1.npy', 'b/notes.txt'):
        (tmp_path / 'clips' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'clips' / name).touch()
    index = read_index('clips', tmp_path)
    assert list(index.paths) == ['clips/a.mkv', 'clips/b/1.npy', 'clips/b/2.MP4']
    assert index.labels is None
    assert list(read_index('.', tmp_path / 'clips').paths) == ['a.mkv', 'b/1.npy', 'b/2.MP4']


def test_absent_empty_and_unknown_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'x\.csv: no such list of videos'):
        read_index('x.csv', tmp_path)
    with pytest.raises(FileNotFoundError, match=r'e\.csv: no video in it'):
        read_index(write(tmp_path / 'e.csv', '\n'))
    with pytest.raises(ValueError, match=r'lists of videos are \.csv'):
        read_index(write(tmp_path / 'v.json', '[]'))


def test_draws_follow_sources_then_rows():
    """Shares of sources hold whatever their lengths; a row of weight 0 never comes."""
    rows = WeightedRows([10, 3], [1, 3], [None, np.array([1.0, 0.0, 3.0])])
    drawn = np.bincount([rows.draw(seed) for seed in range(4000)], minlength=13) / 4000
    expected = np.array([0.025] * 10 + [0.75 / 4, 0, 0.75 * 3 / 4])
    assert np.abs(drawn - expected).max() < 0.03
    assert drawn[11] == 0 and drawn[:10].min() > 0
    assert [rows.draw(s) for s in range(50)] == [rows.draw(s) for s in range(50)]


def test_bad_weights():
    with pytest.raises(ValueError, match='must be positive'):
        WeightedRows([1, 1], [1, 0], [None, None])
    with pytest.raises(ValueError, match='source 1 have weight 0'):
        WeightedRows([1, 2], [1, 1], [None, np.zeros(2)])
