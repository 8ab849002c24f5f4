"""Where a conversion happens: beside its target, so that the result appears whole or not at all."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import mmjepa

_PACKAGE = 'mmjepa.datasets.mmdet3d_infos'


class Workspace:
    """A hidden folder with links to the raw data, in which converters write.

    :meth:`publish` gives the result its final name in one rename; whatever ends the conversion
    before that leaves nothing there.

    Attributes:
        root: the raw data.
        target: where the result belongs; ``root`` itself in place.
        in_place: whether it is.
        result: the folder to convert in: ``data/<name>`` below ``base``.
        base: working folder for converters that want ``./data/<name>``.

    Args:
        root: the raw data; never written to unless ``in_place``.
        out: the target; None or ``root`` itself for in place.
        name: of the data set.

    Raises:
        FileExistsError: ``out`` holds something.
        ValueError: ``out`` lies inside ``root``.
    """

    def __init__(self, root: Path, out: str | Path | None, name: str) -> None:
        self.root = root
        self.target = root if out is None else Path(out)
        self.in_place = self.target.resolve() == root.resolve()
        if not self.in_place:
            _check_target(root, self.target)
        self.name = name

    def __enter__(self) -> 'Workspace':
        parent = self.target if self.in_place else self.target.absolute().parent
        prefix = '.create_data-' if self.in_place else f'.{self.target.name}.create_data-'
        try:
            parent.mkdir(parents=True, exist_ok=True)
            left = sorted(map(str, parent.glob(f'{prefix}*')))
            self.base = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:
            raise OSError(
                f'{parent} cannot be written to ({error.strerror}): choose a folder with --out'
            ) from None
        if left:
            print(f'note: left of interrupted conversions, or still running: {", ".join(left)}')
        self.base.chmod(0o755)  # mkdtemp's folders are private
        self.result = self.base / 'data' / self.name
        self.result.mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.base, ignore_errors=True)  # links are removed, not what they name

    def link(self, paths: Iterable[str]) -> None:
        """Links files or folders of ``root`` to the same place in ``result``."""
        for path in paths:
            link = self.result / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((self.root / path).resolve())

    def publish(self, made: Sequence[str]) -> None:
        """Moves the result to the target.

        Args:
            made: in place, the files and folders that are new, info files last; what was there
                under these names goes. Elsewhere the whole folder is moved.
        """
        if not self.in_place:
            os.replace(self.result, self.target)
            return
        old = self.base / 'old'
        # the info files go first and come last: between the two nothing looks complete
        for path in reversed(made):
            if (self.target / path).exists():
                _move(self.target / path, old / path)
        for path in made:
            _move(self.result / path, self.target / path)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)  # e.g. training/ is a link to another disk


def run_mmdet3d(space: Workspace, *arguments: str) -> None:
    """Runs mmdet3d's converter for ``space.name`` in a process of its own.

    Args:
        space: where.
        arguments: for :mod:`.drive_mmdet3d`.

    Raises:
        ImportError: mmdet3d isn't installed.
        RuntimeError: the converter failed.
    """
    tools = converter_folder()
    paths = [str(tools.parent), str(Path(mmjepa.__file__).parents[1])]
    paths += filter(None, [os.environ.get('PYTHONPATH')])
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    command = [sys.executable, '-m', f'{_PACKAGE}.drive_mmdet3d', space.name, *arguments]
    print(f"running mmdet3d's converter for {space.name} in {space.base}", flush=True)
    done = subprocess.run(
        command, cwd=space.base, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"mmdet3d's converter failed on {space.root} (exit {done.returncode}):\n"
            f'{done.stderr[-2000:].strip()}'
        )


def converter_folder() -> Path:
    """The folder ``tools`` in mmdet3d's wheel.

    Raises:
        ImportError: mmdet3d isn't installed, or not from its wheel.
    """
    spec = find_spec('mmdet3d')
    if spec is None or spec.origin is None:
        raise ImportError(
            "the converter comes with mmdet3d 1.4: pip install 'mmjepa[mm3d]' (make test installs "
            'it too). Pre-training needs no info files'
        )
    tools = Path(spec.origin).parent / '.mim' / 'tools'
    if not (tools / 'dataset_converters').is_dir():
        raise ImportError(f"{tools} is missing: install mmdet3d from its wheel, 'mmdet3d==1.4.0'")
    return tools


def _check_target(root: Path, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f'{target} is not empty: choose another folder for --out')
    if root.resolve() in target.resolve().parents:
        raise ValueError(
            f'--out {target} lies inside --root {root}, which is not written to: choose a folder '
            'beside it, or leave --out away to convert in place'
        )
