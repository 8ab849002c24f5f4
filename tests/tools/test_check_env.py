"""tools/check_env.py: what it finds, what it says, its exit code."""

import importlib.util

import pytest


@pytest.fixture(scope='module')
def check_env(repo):
    spec = importlib.util.spec_from_file_location('check_env', repo / 'tools' / 'check_env.py')
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules['check_env'] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules['check_env']


def test_this_environment_passes(check_env, capsys):
    assert check_env.main([]) == 0
    out = capsys.readouterr().out
    assert 'sparse convolution on cpu' in out
    assert ', ok' in out
    assert 'PROBLEM' not in out


def test_wrong_sparse_convolution_is_a_problem(check_env):
    report = check_env.Report()
    (line, *_) = check_env.check_sparse_convolution(report, lambda device, submanifold: 0.5)
    assert 'WRONG' in line
    assert line in report.problems


@pytest.mark.parametrize('submanifold', [True, False])
def test_dense_reference_notices_a_changed_weight(check_env, monkeypatch, submanifold):
    from mmjepa.models.layers import sparse_ops

    assert check_env.sparse_convolution_error('cpu', submanifold) < 1e-5
    name = 'SubMConv3d' if submanifold else 'SparseConv3d'
    forward = getattr(sparse_ops, name).forward

    def shifted(self, x):
        out = forward(self, x)
        return out.replace_feature(out.features.roll(1, 0))

    monkeypatch.setattr(getattr(sparse_ops, name), 'forward', shifted)
    assert check_env.sparse_convolution_error('cpu', submanifold) > 1e-2


def test_missing_and_unfit_packages_are_named_with_the_remedy(check_env, monkeypatch, tmp_path):
    monkeypatch.setattr(check_env, 'REQUIREMENTS', tmp_path)
    (tmp_path / 'lidar.txt').write_text('# comment\nno-such-package>=1\nnumpy<0.1\n')
    (tmp_path / 'video.txt').write_text('skipped-here; python_version < "3"\n')
    report = check_env.Report()
    found = dict(check_env.check_requirements(('lidar', 'video'), report))
    assert found['no-such-package'] == '-'
    assert 'skipped-here' not in found
    assert report.problems[0] == "no-such-package is missing: pip install 'mmjepa[lidar]'"
    assert 'is outside <0.1' in report.problems[1]


def test_what_has_a_fallback_is_a_note(check_env):
    report = check_env.Report()
    report.add('open3d', 'open3d is missing')
    report.add('spconv-cu120', 'spconv-cu120 is missing')
    report.add('torch', 'torch is missing')
    assert report.problems == ['torch is missing']
    assert 'ray caster' in report.notes[0]
    assert 'rulebook' in report.notes[1]


def test_missing_system_libraries_name_their_debian_packages(check_env, monkeypatch):
    monkeypatch.setattr(check_env, 'loadable', lambda library: library != 'libX11.so.6')
    missing = '{}: cannot open shared object file: No such file or directory'
    text = check_env.explain_import_error('cv2', ImportError(missing.format('libGL.so.1')))
    assert text == (
        'cv2 does not import, libGL.so.1 is missing; on Debian: apt-get install libgl1 libx11-6'
    )
    text = check_env.explain_import_error('cv2', OSError(missing.format('libodd.so.3')))
    assert text.endswith('install what provides libodd.so.3')
    assert 'ValueError: odd' in check_env.explain_import_error('cv2', ValueError('odd'))


def test_spconv_of_any_cuda_is_recognised(check_env):
    names = ['spconv', 'spconv-cu118', 'spconv-cu126', 'cumm-cu126', 'spconv-tools', None]
    assert [check_env.is_spconv(name) for name in names] == [True, True, True, False, False, False]
