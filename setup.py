"""Package description. Never imports torch, so it runs before torch is installed.

Versions: ``requirements/*.txt``. Each file but ``runtime.txt`` is an extra of the same name.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# OpenMMLab looks for a package's configs below <package>/.mim
MIM_ITEMS = ('configs', 'tools', 'requirements', 'model-index.yml')


def read_requirements(name: str) -> list[str]:
    """Requirement lines of ``requirements/<name>.txt`` without comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def read_version() -> str:
    text = (ROOT / 'mmjepa' / 'version.py').read_text()
    match = re.search(r"__version__\s*=\s*'([^']+)'", text)
    if match is None:
        raise RuntimeError("mmjepa/version.py does not contain `__version__ = '...'`")
    return match.group(1)


class BuildWithConfigs(build_py):
    """Puts configs and tools into ``mmjepa/.mim``: copies in a wheel, links when editable."""

    def run(self):
        super().run()
        if self.editable_mode:
            self._fill(ROOT / 'mmjepa' / '.mim', link=True)
        else:
            self._fill(Path(self.build_lib) / 'mmjepa' / '.mim', link=False)

    @staticmethod
    def _fill(target: Path, link: bool):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for item in MIM_ITEMS:
            source = ROOT / item
            if not source.exists():
                raise FileNotFoundError(f'{source} is missing: the package would lack its {item}')
            if link:
                (target / item).symlink_to(Path('..') / '..' / item)
            elif source.is_dir():
                shutil.copytree(
                    source, target / item, ignore=shutil.ignore_patterns('__pycache__', '*.pyc')
                )
            else:
                shutil.copy2(source, target / item)


EXTRAS = sorted(p.stem for p in (ROOT / 'requirements').glob('*.txt') if p.stem != 'runtime')

if __name__ == '__main__':
    setup(
        name='mmjepa',
        version=read_version(),
        description='Joint-embedding predictive architectures (JEPA) for OpenMMLab users',
        long_description=(ROOT / 'README.md').read_text(),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        license_files=['LICENSE'],
        python_requires='>=3.11',
        packages=find_packages(include=['mmjepa', 'mmjepa.*']),
        package_data={'mmjepa': ['py.typed']},
        install_requires=read_requirements('runtime'),
        extras_require={name: read_requirements(name) for name in EXTRAS},
        cmdclass={'build_py': BuildWithConfigs},
        keywords='self-supervised learning, JEPA, LiDAR, OpenMMLab',
        classifiers=[
            'Development Status :: 3 - Alpha',
            'Intended Audience :: Science/Research',
            'Programming Language :: Python :: 3',
            'Programming Language :: Python :: 3.11',
            'Programming Language :: Python :: 3.12',
            'Topic :: Scientific/Engineering :: Artificial Intelligence',
        ],
        zip_safe=False,
    )
