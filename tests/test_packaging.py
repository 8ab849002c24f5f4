"""What is installed, shipped and promised: setup.py, the wheel, METHODS.md, links in the docs."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.fileio import load

EXTRAS = {'lidar', 'mm3d', 'image', 'video', 'docs', 'tests', 'dev'}
SHIPPED = ('mmjepa', 'configs', 'tools', 'requirements', 'setup.py', 'pyproject.toml',
           'README.md', 'LICENSE', 'MANIFEST.in', 'model-index.yml')  # fmt: skip
# importing any part of the package must not need these
OPTIONAL = ('open3d', 'spconv', 'cumm', 'mmcv', 'mmdet', 'mmdet3d', 'mmseg', 'nuscenes', 'numba',
            'scipy', 'sklearn', 'shapely', 'safetensors', 'decord', 'av',
            'torchcodec', 'torchvision')  # fmt: skip

# `$` rather than the format method's braces, so that the code reads as code
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in $names:
            raise ModuleNotFoundError(f'{name} is blocked', name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, cwd: Path, **env: str) -> str:
    """Standard output of a fresh interpreter; its standard error is in the assertion."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=cwd, env={'PATH': '/usr/bin:/bin', 'HOME': str(cwd), **env},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_setup_never_imports_torch_and_extras_are_the_requirement_files(repo):
    code = BLOCKER.replace('$names', "('torch', 'numpy', 'mmengine')")
    code += "import json, runpy; print(json.dumps(runpy.run_path('setup.py')['EXTRAS']))"
    assert set(json.loads(run_python(code, repo))) == EXTRAS
    files = {path.stem for path in (repo / 'requirements').glob('*.txt')}
    assert files == EXTRAS | {'runtime'}


def test_every_requirement_line_parses(repo):
    from packaging.requirements import Requirement

    read = runpy.run_path(str(repo / 'setup.py'))['read_requirements']
    for name in (*EXTRAS, 'runtime'):
        lines = read(name)
        assert lines, f'requirements/{name}.txt is empty'
        for line in lines:
            Requirement(line)


def test_spconv_follows_the_python_version(repo):
    from packaging.requirements import Requirement

    lines = (repo / 'requirements' / 'lidar.txt').read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line.startswith('spconv')]

    def chosen(python):
        environment = {'python_version': python, 'platform_system': 'Linux'}
        return [r.name for r in wanted if r.marker.evaluate(environment)]

    assert chosen('3.11') == ['spconv-cu120']
    assert chosen('3.12') == ['spconv-cu126']


def test_import_needs_torch_mmengine_and_numpy_only(tmp_path, repo):
    code = BLOCKER.replace('$names', repr((*OPTIONAL, 'matplotlib', 'tensorboard', 'cv2')))
    run_python(code + 'import mmjepa; assert mmjepa.__version__', tmp_path, PYTHONPATH=str(repo))


def test_no_module_needs_an_optional_package_at_import(tmp_path, repo):
    code = (
        BLOCKER.replace('$names', repr(OPTIONAL))
        + """
import importlib, pkgutil, mmjepa
modules = pkgutil.walk_packages(mmjepa.__path__, 'mmjepa.', onerror=lambda name: None)
for module in modules:
    if not module.name.startswith('mmjepa.downstream.lidar'):  # extends mmdet3d
        importlib.import_module(module.name)
        print(module.name)
"""
    )
    assert 'mmjepa.models' in run_python(code, tmp_path, PYTHONPATH=str(repo)).split()


def test_every_folder_with_code_is_a_package(repo):
    folders = {path.parent for path in (repo / 'mmjepa').rglob('*.py')}
    missing = [
        str(f) for f in folders if '.mim' not in f.parts and not (f / '__init__.py').exists()
    ]
    assert not missing, f'these folders would not be in the wheel: {missing}'


RESOLVE = """
import sys, mmjepa
from mmengine.config import Config
names = sys.stdin.read().split() if not $names else $names
for name in names:
    path, scope = Config._get_cfg_path(f'mmjepa::{name}', '')
    print(mmjepa.__file__, scope, path)
    Config.fromfile(path)
"""


def config_names(repo: Path) -> list[str]:
    """Pre-training configs relative to configs/."""
    root = repo / 'configs'
    return [
        path.relative_to(root).as_posix()
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name not in ('_base_', 'downstream')
        for path in sorted(folder.glob('*.py'))
    ]


def resolve(names: list[str], site: Path, cwd: Path) -> list[str]:
    """Lines of `package file, scope, config path` in an interpreter that sees ``site``."""
    code = RESOLVE.replace('$names', repr(names))
    return run_python(code, cwd, PYTHONPATH=str(site)).splitlines()


def test_base_configs_resolve_from_a_wheel(tmp_path, repo):
    names = config_names(repo)
    assert names, 'there is no pre-training config'
    source, site = tmp_path / 'source', tmp_path / 'site'
    source.mkdir()
    for item in SHIPPED:
        origin = repo / item
        if origin.is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '.mim')
            shutil.copytree(origin, source / item, ignore=ignore)
        else:
            shutil.copy(origin, source / item)
    subprocess.run(
        [sys.executable, '-W', 'ignore', 'setup.py', '-q', 'bdist_wheel', '-d', str(tmp_path)],
        cwd=source, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob('mmjepa-*.whl')
    shutil.unpack_archive(wheel, site, 'zip')
    for line in resolve(names, site, tmp_path):
        package, scope, path = line.split()
        assert Path(package).is_relative_to(site)
        assert scope == 'mmjepa'
        assert Path(path).is_relative_to(site / 'mmjepa' / '.mim' / 'configs')
    assert (site / 'mmjepa' / 'py.typed').exists()
    assert (site / 'mmjepa' / '.mim' / 'tools' / 'train.py').exists()


def test_base_configs_resolve_from_an_editable_install(tmp_path, repo):
    if not (repo / 'mmjepa' / '.mim').exists():
        pytest.skip('not an editable install: mmjepa/.mim is made by `make install`')
    for line in resolve(config_names(repo), repo, tmp_path):
        assert Path(line.split()[2]).resolve().is_relative_to(repo / 'configs')


def test_metafiles_list_every_config_and_the_index_every_metafile(repo):
    listed = set(load(repo / 'model-index.yml')['Import'])
    found = {p.relative_to(repo).as_posix() for p in (repo / 'configs').rglob('metafile.yml')}
    assert listed == found
    configs = [model['Config'] for name in found for model in load(repo / name)['Models']]
    assert sorted(configs) == sorted(f'configs/{name}' for name in config_names(repo))


def registered_methods() -> list[type]:
    """Classes in the registry that are methods of this repository."""
    import mmjepa.models  # noqa: F401
    from mmjepa.models.jepa.base import BaseJEPA
    from mmjepa.registry import MODELS

    found = [c for c in MODELS.module_dict.values() if isinstance(c, type)]
    return [c for c in found if issubclass(c, BaseJEPA) and c.__module__.startswith('mmjepa.')]


def method_rows(text: str) -> dict[str, list[str]]:
    """Cells of METHODS.md by class name; the class stands in backticks in the second column."""
    rows = [
        [cell.strip() for cell in line.strip().strip('|').split('|')]
        for line in text.splitlines()
        if line.startswith('|')
    ]
    return {row[1].strip('`'): row for row in rows if re.fullmatch(r'`\w+`', row[1])}


def what_is_missing(cls: type, rows: dict[str, list[str]], repo: Path) -> list[str]:
    """What a registered method still owes: row, README, config, contract test."""
    row = rows.get(cls.__name__)
    if row is None:
        return [f'{cls.__name__} has no row in METHODS.md']
    missing = []
    config = re.search(r'\((configs/[\w/]+\.py)\)', row[3])
    if config is None or not (repo / config.group(1)).is_file():
        missing.append(f'the row of {cls.__name__} links to no config: {row[3]}')
    elif not (repo / config.group(1)).with_name('README.md').is_file():
        missing.append(f'{Path(config.group(1)).parent} has no README.md')
    cases = ''.join(path.read_text() for path in (repo / 'tests' / 'contract').glob('*.py'))
    if not re.search(rf'\b{cls.__name__}\b', cases):
        missing.append(f'no case of tests/contract names {cls.__name__}')
    return missing


def test_every_registered_method_is_documented_and_under_contract(repo):
    rows = method_rows((repo / 'METHODS.md').read_text())
    methods = registered_methods()
    assert methods
    missing = [line for cls in methods for line in what_is_missing(cls, rows, repo)]
    assert not missing, '\n'.join(missing)
    # and no row promises a class that is not there
    assert set(rows) == {cls.__name__ for cls in methods}


def test_a_method_without_row_config_or_contract_is_found(tmp_path):
    class Unheard:
        pass

    assert what_is_missing(Unheard, {}, tmp_path) == ['Unheard has no row in METHODS.md']
    row = ['u', '`Unheard`', 'paper', '[u](configs/u/u.py)', 'ready', '']
    assert len(what_is_missing(Unheard, {'Unheard': row}, tmp_path)) == 2
    (tmp_path / 'configs' / 'u').mkdir(parents=True)
    (tmp_path / 'configs' / 'u' / 'u.py').touch()
    assert 'README.md' in what_is_missing(Unheard, {'Unheard': row}, tmp_path)[0]


def test_relative_links_of_the_documentation_exist(repo):
    pages = [*repo.glob('*.md'), *(repo / 'docs').glob('*.md'), *(repo / 'configs').rglob('*.md')]
    broken = []
    for page in pages:
        text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
        for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', text):
            if '://' not in target and not (page.parent / target).exists():
                broken.append(f'{page.relative_to(repo)}: {target}')
    assert len(pages) > 5
    assert not broken, '\n'.join(broken)


def test_documented_make_targets_exist(repo):
    targets = set(re.findall(r'^([a-z-]+):', (repo / 'Makefile').read_text(), re.MULTILINE))
    pages = [*repo.glob('*.md'), *(repo / 'docs').glob('*.md')]
    named = {t for page in pages for t in re.findall(r'[`\n]make ([a-z-]+)', page.read_text())}
    assert 'demo' in named
    assert named <= targets
