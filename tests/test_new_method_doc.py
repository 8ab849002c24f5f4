"""The files in docs/new_method.md are extracted, trained with and put under the contract."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {'near_jepa.py', 'near_jepa_kitti.py', 'test_near_jepa.py'}


@pytest.fixture(scope='module')
def template(repo, tmp_path_factory) -> Path:
    """Folder with the files of the page."""
    text = (repo / 'docs' / 'new_method.md').read_text()
    blocks = dict(re.findall(r'```python title="([\w.]+)"\n(.*?)```', text, re.DOTALL))
    assert set(blocks) == FILES
    folder = tmp_path_factory.mktemp('new_method')
    for name, code in blocks.items():
        (folder / name).write_text(code)
    return folder


def run(folder: Path, repo: Path, *command: str) -> str:
    """Output of a Python command in the folder; both streams are in the assertion."""
    path = os.pathsep.join(map(str, (folder, repo, repo / 'tests' / 'contract')))
    env = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_template_trains(template, repo):
    code = (
        'from toy_lidar import write_toy_sweeps; from pathlib import Path; '
        "write_toy_sweeps(Path('toy'), 4, extent=12.8, ground=400, boxes=3)"
    )
    run(template, repo, '-c', code)
    run(
        template, repo, str(repo / 'tools' / 'train.py'), 'near_jepa_kitti.py',
        '--work-dir', 'work', '--cfg-options', 'data_root=toy', 'batch_size=2', 'num_workers=0',
        'max_iters=2', 'voxel_size=[0.2,0.2,0.1]', 'point_cloud_range=[0,-6.4,-3,12.8,6.4,1]',
    )  # fmt: skip
    log = '\n'.join(path.read_text() for path in (template / 'work').rglob('*.log'))
    assert 'loss_near' in log
    assert list((template / 'work').glob('*.pth'))


def test_template_keeps_the_contract(template, repo):
    out = run(
        template, repo, '-m', 'pytest', 'test_near_jepa.py', '-k', 'NearJEPA', '-rs',
        '-p', 'no:cacheprovider', '-p', 'no:dash', '-c', os.devnull, '--rootdir', str(template),
    )  # fmt: skip
    passed = re.search(r'(\d+) passed', out)
    assert passed, out
    assert int(passed[1]) >= 8
    assert 'failed' not in out


def test_template_is_lint_free(template, repo):
    run(
        template, repo, '-m', 'ruff', 'check', '--ignore', 'I',
        '--config', str(repo / 'pyproject.toml'), 'near_jepa.py', 'test_near_jepa.py',
    )  # fmt: skip
