"""Fixtures and settings that all tests share."""

import os
from pathlib import Path

# before torch and cv2 start their thread pools: tests run beside each other on few cores
for _name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(_name, '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

REPO = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """One thread per process: steady timings, and sums in the same order on every machine."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a CUDA device')
    for item in items:
        if 'cuda' in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope='session', autouse=True)
def _no_user_cache(tmp_path_factory):
    """Fixtures of modules are made before those of tests and stay out of the user's cache, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMJEPA_CACHE', str(tmp_path_factory.mktemp('session_cache')))
        yield


@pytest.fixture(autouse=True)
def _isolated(tmp_path, tmp_path_factory, monkeypatch):
    """Relative writes and caches land in the test's own folders; seeds and defaults do not leak."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMJEPA_CACHE', str(tmp_path_factory.mktemp('cache')))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party code draws from the global state)
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    yield
    DefaultScope._instance_dict.clear()  # a runner leaves its scope behind
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope='session')
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """Folder with small real data beside the checkout; tests read it and never write to it."""
    path = Path(os.environ.get('MMJEPA_SHARED', REPO.parent / 'shared')).resolve()
    if not (path / 'data').is_dir():
        pytest.skip(f'no real data: {path / "data"} is absent (MMJEPA_SHARED names another place)')
    return path
