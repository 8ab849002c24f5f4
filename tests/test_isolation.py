"""Tests leave nothing behind in the user's folders."""

import pytest

from mmjepa.datasets.file_index import cache_dir


@pytest.fixture(scope='module')
def cache_of_the_module():
    return cache_dir()


def test_caches_are_the_tests_own(cache_of_the_module, tmp_path_factory):
    for folder in (cache_of_the_module, cache_dir()):
        assert folder.is_relative_to(tmp_path_factory.getbasetemp())
    assert cache_of_the_module != cache_dir()
