"""Without open3d's system libraries the simulator takes its other ray caster."""

import sys

import pytest

from mmjepa.datasets.lidar_sim import raycast


def test_auto_falls_back_when_open3d_does_not_import(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == 'open3d':
                raise OSError('libX11.so.6: cannot open shared object file')

    for name in [n for n in sys.modules if n.split('.')[0] == 'open3d']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(raycast.importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(sys, 'meta_path', [Broken(), *sys.meta_path])
    with pytest.warns(UserWarning, match='libX11.so.6'):
        assert raycast.make_caster('auto', 'cpu').name == 'torch'
    with pytest.raises(OSError, match='libX11.so.6'):
        raycast.make_caster('open3d', 'cpu')
