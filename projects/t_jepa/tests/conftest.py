"""The core's fixtures and settings: isolated caches and seeds, skipped CUDA tests."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    'core_conftest', Path(__file__).parents[3] / 'tests' / 'conftest.py'
)
_core = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_core)

_isolated = _core._isolated
_no_user_cache = _core._no_user_cache
pytest_collection_modifyitems = _core.pytest_collection_modifyitems
pytest_configure = _core.pytest_configure
repo = _core.repo
shared_dir = _core.shared_dir
