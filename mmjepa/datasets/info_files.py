"""mmdet3d's info files: read without running pickled code, written whole or not at all.

An info file is a pickle of dicts, lists, numbers, strings and numpy arrays. The unpickler here
makes those and nothing else, so a file from elsewhere cannot run code while it is looked at.
"""

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PathLike = str | os.PathLike[str]
_DATA_SETS = ('kitti', 'nuscenes', 'waymo', 'once')


class InfoFileError(ValueError):
    """An info file cannot be used; the message names the file and the remedy."""


def _latin1(text: str, encoding: str) -> bytes:
    """Stand-in for ``_codecs.encode``, with which old protocols write bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'encoding {encoding!r} is not allowed')
    return text.encode('latin1')


def _allowed() -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy', 'dtype'): np.dtype,
        ('collections', 'OrderedDict'): dict,
        ('_codecs', 'encode'): _latin1,
    }
    # what numpy itself writes into a pickle; numpy 1.x says numpy.core, numpy 2.x numpy._core
    written = {
        '_reconstruct': ('multiarray', np.zeros(1).__reduce__()[0]),
        'scalar': ('multiarray', np.float64(0).__reduce__()[0]),
        '_frombuffer': ('numeric', np.zeros(1).__reduce_ex__(5)[0]),
    }
    for name, (module, function) in written.items():
        for package in ('numpy.core', 'numpy._core'):
            found[f'{package}.{module}', name] = function
    return found


_ALLOWED = _allowed()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f'{module}.{name}')


def load_plain(path: PathLike) -> Any:
    """Reads a pickle that holds only dicts, lists, numbers, strings and numpy arrays.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        InfoFileError: it is truncated, no pickle, or names other classes; nothing was run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; tools/create_data.py makes info files')
    try:
        with path.open('rb') as file:
            return _PlainUnpickler(file).load()
    except pickle.UnpicklingError as error:
        if path.stat().st_size and '.' in str(error) and ' ' not in str(error):
            raise InfoFileError(
                f'{path} carries pickled objects besides plain data ({error}); nothing was run. '
                'Make the file anew with tools/create_data.py'
            ) from None
        raise InfoFileError(_unreadable(path, error)) from None
    except (
        *(EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError),
        *(OverflowError, MemoryError),
    ) as error:
        raise InfoFileError(_unreadable(path, error)) from None


def read_infos(path: PathLike) -> dict[str, Any]:
    """Reads an info file of mmdet3d 1.x.

    Args:
        path: e.g. ``kitti_infos_train.pkl``.

    Returns:
        dict of ``metainfo`` (a dict) and ``data_list`` (a list of dicts, one per frame).

    Raises:
        FileNotFoundError: there is no such file.
        InfoFileError: it is damaged, of mmdet3d 0.x, or no info file.
    """
    path = Path(path)
    content = load_plain(path)
    # 0.x: a list of frames (KITTI, Waymo) or dict(infos, metadata) (nuScenes)
    if isinstance(content, list) or (isinstance(content, dict) and 'infos' in content):
        raise InfoFileError(
            f'{path} is an info file of mmdet3d 0.x, which mmdet3d 1.x cannot read; make a new '
            f'one: {_command(path)}'
        )
    if not isinstance(content, dict):
        raise InfoFileError(f'{path} holds a {type(content).__name__}, not an info dict')
    for key, kind in (('metainfo', dict), ('data_list', list)):
        if not isinstance(content.get(key), kind):
            found = ', '.join(map(str, list(content)[:6])) or 'nothing'
            raise InfoFileError(
                f'{path} has no {kind.__name__} {key!r} (its keys: {found}), so it is no info file '
                f'of mmdet3d 1.x; make one: {_command(path)}'
            )
    return content


def write_plain(content: Any, path: PathLike) -> None:
    """Pickles ``content``, all or nothing.

    Args:
        content: plain data, see :func:`load_plain`.
        path: the file; its folder is made.
    """
    write_whole(pickle.dumps(content, protocol=4), path)


def write_whole(data: bytes, path: PathLike) -> None:
    """Writes a file beside ``path``, then renames it: nobody sees a part of it.

    Args:
        data: the content.
        path: the file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _command(path: Path) -> str:
    name = path.name.partition('_')[0]
    name = name if name in _DATA_SETS else 'kitti|nuscenes|waymo|once'
    return f'python tools/create_data.py {name} --root {path.parent} --out ANOTHER_FOLDER'


def _unreadable(path: Path, error: Exception) -> str:
    size = path.stat().st_size
    return (
        f'{path} ({size} bytes) is truncated, damaged or no pickle '
        f'({str(error)[:80] or type(error).__name__}); make it anew with tools/create_data.py'
    )
