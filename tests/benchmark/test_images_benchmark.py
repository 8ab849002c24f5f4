"""The benchmark of the image loader."""

import runpy

import numpy as np
import pytest
from image_scenes import write_folder
from PIL import JpegImagePlugin

from mmjepa.benchmark.images import (
    ImagesReport,
    LoaderTiming,
    PILCrops,
    benchmark_images,
    crop_of,
)
from mmjepa.datasets import BadSampleError, ImageFolderDataset


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / 'photos', each=2, height=200, width=300, quality=95)


def test_pil_reads_the_same_crops(folder):
    ours = ImageFolderDataset(folder, [{'type': 'LoadCroppedImage', 'size': 120}])
    theirs = PILCrops(ours, 120)  # too large for draft to reduce anything
    for i in range(len(ours)):
        sample = ours[i]
        assert crop_of(sample['path'], i, 120) == sample['crop']
        assert np.abs(theirs[i].astype(int) - sample['image']).mean() < 0.5
    normalised = PILCrops(ours, 120, normalise=True)[0]
    assert normalised.dtype == np.float32
    assert abs(normalised[0].mean() - (theirs[0][0].mean() / 255 - 0.485) / 0.229) < 1e-4


def test_draft_is_used(folder, monkeypatch):
    sizes = []
    reduce = JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile,
        'draft',
        lambda image, *a: (reduce(image, *a), sizes.append(image.size)),
    )
    PILCrops(ImageFolderDataset(folder), 24)[0]
    assert sizes == [(75, 50)]


def test_command_prints_speeds_and_ratios(folder, repo, capsys):
    main = runpy.run_path(str(repo / 'tools' / 'benchmark.py'))['main']
    main(['images', '--data', str(folder), '--size', '32', '--repeats', '1', '--images', '8'])
    out = capsys.readouterr().out
    assert '8 images a pass, crops to 32x32, 0 workers, median of 1' in out
    rows = [line.split() for line in out.splitlines() if line.endswith(' x')]
    assert [row[0] for row in rows] == ['mmjepa', 'mmjepa,', 'PIL', 'PIL']
    assert rows[0][-2] == '1.00'


def test_workers(folder):
    report = benchmark_images(folder, workers=1, size=32, repeats=1, images=8)
    assert all(timing.rate > 0 and not timing.cpu_ms for timing in report.timings)


def test_ratio_is_of_neighbouring_passes():
    timings = [
        LoaderTiming('mmjepa', [100.0, 50.0, 100.0], [10.0, 10.0, 10.0]),
        LoaderTiming('PIL', [50.0, 20.0, 40.0], [15.0, 20.0, 90.0]),
    ]
    report = ImagesReport('folder', 8, 32, 0, timings)
    assert report.ratio('PIL') == 2.0
    for timing in timings:
        timing.cpu_ms = []
    assert report.ratio('PIL') == 2.5
    assert '2.50 x' in report.text()


def test_files_without_a_known_size_are_named(tmp_path):
    write_folder(tmp_path / 'w', kind='WEBP')
    with pytest.raises(ValueError, match=r'00\.JPEG: the benchmark takes JPEG and PNG'):
        benchmark_images(tmp_path / 'w')
    (tmp_path / 'w/ants/00.JPEG').write_bytes(b'')
    with pytest.raises(BadSampleError, match='empty'):
        benchmark_images(tmp_path / 'w')
