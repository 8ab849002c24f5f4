"""Checkpoint files: read without running pickled code, written whole or not at all, loaded in full.

``torch.load`` is always called with ``weights_only=True``. A full MMEngine checkpoint also holds
``HistoryBuffer`` objects and numpy arrays, which MMEngine 0.10.7 alone cannot read back on
torch >= 2.6; exactly those types are allowed here and nothing else.
"""

from __future__ import annotations

import collections
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

# Names under which files keep their weights: MMEngine, OpenPCDet, plain training scripts.
NESTED_KEYS = ('state_dict', 'model_state', 'model')


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says which file or tensor and what to do."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint carries pickled objects outside the allow-list; nothing of it was executed."""


def _statistics_method(owner: Any, name: str) -> Any:
    """Stand-in for ``getattr``, with which a HistoryBuffer's pickle names its own statistics."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')


def _safe_globals() -> list[Any]:
    # The two functions that numpy itself writes into a pickle, under either version's module path:
    # numpy 1.x says numpy.core, numpy 2.x numpy._core, and each may read the other's file.
    pickled = {
        '_reconstruct': np.zeros(1).__reduce__()[0],
        'scalar': np.float64(0).__reduce__()[0],
    }
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype]
    allowed.append((_statistics_method, 'builtins.getattr'))
    for root in ('numpy.core', 'numpy._core'):
        allowed += [(func, f'{root}.multiarray.{name}') for name, func in pickled.items()]
    # Object and void dtypes are left out on purpose: they can hold anything.
    return allowed + sorted({type(np.dtype(code)) for code in '?bBhHiIlLqQefdUS'}, key=str)


def load_file(path: str | os.PathLike, map_location: Any = 'cpu') -> dict:
    """Read a checkpoint file (``.pth`` of any zip or legacy format, or ``.safetensors``).

    Args:
        path: The file.
        map_location: As in :func:`torch.load`.

    Returns:
        The dict in the file. A safetensors file gives ``dict(meta=..., state_dict=...)``.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafeCheckpointError: The file holds pickled objects other than weights and the few
            MMEngine types; they were not executed.
        CheckpointError: The file is empty, truncated, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob('*.pth'))[:5] if path.parent.is_dir() else []
        hint = f'; the folder holds {", ".join(near)}' if near else ''
        raise FileNotFoundError(f'no checkpoint file at {path}{hint}')
    if path.stat().st_size == 0:
        raise CheckpointError(f'{path} is empty: an interrupted copy or write; fetch it again')
    if path.suffix == '.safetensors':
        return _load_safetensors(path, map_location)
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r'(?:GLOBAL|getattr)[ (]([\w.<> \']+)', str(error)):
            raise UnsafeCheckpointError(
                f'{path} carries pickled objects besides weights ({found.group(1).split()[0]}); '
                'nothing was executed. Ask its author for a state_dict, or re-save it where you '
                'trust it'
            ) from error
        raise CheckpointError(_unreadable(path, error)) from error
    except (EOFError, RuntimeError, ValueError, KeyError, OSError, IndexError) as error:
        raise CheckpointError(_unreadable(path, error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, not a dict of weights; save '
            'model.state_dict() instead'
        )
    return content


def _unreadable(path: Path, error: Exception) -> str:
    # torch's first sentence; the next ones are about torch
    first = str(error).strip().partition('\n')[0].partition('. ')[0][:100]
    if isinstance(error, pickle.UnpicklingError | KeyError | IndexError):
        first = 'it was not written by torch.save'  # torch's own words are about trust
    return (
        f'{path} ({path.stat().st_size} bytes) is truncated, damaged or not a checkpoint: '
        f'{first or type(error).__name__}. Fetch or export it again'
    )


def _load_safetensors(path: Path, map_location: Any) -> dict:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(f"reading {path} needs safetensors: pip install 'safetensors'") from error
    try:
        with safe_open(path, framework='pt') as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_unreadable(path, error)) from error
    if map_location is not None:
        state = {key: value.to(map_location) for key, value in state.items()}
    return {'meta': meta, 'state_dict': state}


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: all or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.tmp{os.getpid()}.{path.name}')  # keeps the suffix
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == 'posix':  # the rename itself must reach the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _without_callables(value: Any) -> Any:
    """Drop functions and bound methods from nested dicts and lists of scheduler state."""
    if isinstance(value, dict):
        return {k: _without_callables(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, list):
        return [_without_callables(v) for v in value]
    return value


def atomic_save(obj: Any, path: str | os.PathLike) -> None:
    """``torch.save`` so that ``path`` holds either its old content or all of the new one.

    MMEngine's ``OneCycleLR`` and ``LambdaLR`` put a function into their state, which would make
    the file unreadable for :func:`load_file`. It is left out: the scheduler that resumes has its
    own from the constructor.
    """
    if isinstance(obj, dict) and 'param_schedulers' in obj:
        obj = {**obj, 'param_schedulers': _without_callables(obj['param_schedulers'])}
    atomic_write(path, lambda file: torch.save(obj, file))


def find_state_dict(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], str | None]:
    """Find the weights in a checkpoint: the dict itself, or below one of :data:`NESTED_KEYS`.

    Returns:
        The tensors by key without the ``module.`` of DistributedDataParallel (``_metadata`` is
        kept when the file has one), and the key they were found under (None: the dict itself).

    Raises:
        CheckpointError: No weights, several candidates, or values that aren't tensors.
    """
    nested = [k for k in NESTED_KEYS if isinstance(checkpoint.get(k), Mapping)]
    if len(nested) > 1:
        raise CheckpointError(f'weights under several keys ({", ".join(nested)}): pass one of them')
    source = checkpoint[nested[0]] if nested else checkpoint
    wrong = [k for k, v in source.items() if not isinstance(v, Tensor) and 'extra_state' not in k]
    if not source or wrong:
        what = f'{wrong[0]!r} is a {type(source[wrong[0]]).__name__}' if wrong else 'it is empty'
        raise CheckpointError(
            f'no weights found: looked for a dict of tensors below {", ".join(NESTED_KEYS)} and at '
            f'the top level, where {what}'
        )
    state = collections.OrderedDict(source)
    metadata = getattr(source, '_metadata', None)
    if all(key.startswith('module.') for key in state):
        state = collections.OrderedDict((key[7:], value) for key, value in state.items())
        metadata = metadata and {
            k.removeprefix('module').lstrip('.'): v for k, v in metadata.items()
        }
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
    return state, nested[0] if nested else None


def non_finite(state: Mapping[str, Any]) -> list[str]:
    """Keys of the floating-point tensors that hold a NaN or Inf."""
    return [
        key
        for key, value in state.items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and not bool(torch.isfinite(value).all())
    ]


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_verified` did; ``total`` counts the module's tensors."""

    loaded: int
    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def problems(self, limit: int = 5) -> str:
        """The keys that didn't match, in words, at most ``limit`` of each kind."""
        parts = []
        for name in ('missing', 'unexpected', 'mismatched'):
            keys = getattr(self, name)
            if keys:
                more = f', ... ({len(keys) - limit} more)' if len(keys) > limit else ''
                parts.append(f'{len(keys)} {name}: {", ".join(keys[:limit])}{more}')
        return '; '.join(parts)


def _mismatch(key: str, given: Any, own: Any) -> str | None:
    if not isinstance(given, Tensor) or not isinstance(own, Tensor):
        return None if isinstance(given, Tensor) == isinstance(own, Tensor) else f'{key} (kind)'
    if given.shape != own.shape:
        return f'{key} (file {tuple(given.shape)}, model {tuple(own.shape)})'
    if given.is_floating_point() != own.is_floating_point():
        return f'{key} (file {given.dtype}, model {own.dtype})'
    return None


def load_verified(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    what: str,
    floor: float | int | None = None,
    logger: Any = None,
) -> LoadReport:
    """Load weights completely, or raise before the module is touched.

    Args:
        module: The receiver; a DDP wrapper is looked through.
        state_dict: Weights, or a checkpoint that holds them (:func:`find_state_dict`).
        what: Name of the receiver in messages.
        floor: None asks for an exact match of keys and shapes. A number allows a partial load of
            at least so many tensors (int) or that share of the module's tensors (float).
        logger: As in :func:`mmengine.logging.print_log`; the current logger by default.

    Returns:
        The counts and the keys that didn't match.

    Raises:
        CheckpointError: Keys or shapes differ, too few match, or a weight is NaN or Inf.
    """
    if is_model_wrapper(module):
        module = cast(nn.Module, module.module)
    given, _ = find_state_dict(state_dict)
    own = module.state_dict()
    wrong = {
        key: text
        for key in given.keys() & own.keys()
        if (text := _mismatch(key, given[key], own[key]))
    }
    report = LoadReport(
        loaded=len(given.keys() & own.keys()) - len(wrong),
        total=len(own),
        missing=tuple(k for k in own if k not in given),
        unexpected=tuple(k for k in given if k not in own),
        mismatched=tuple(wrong[k] for k in given if k in wrong),
    )
    bad = non_finite(given)
    if bad:
        raise CheckpointError(
            f'cannot load {what}: NaN or Inf in {len(bad)} tensors, first '
            f'{bad[0]}; use a checkpoint from before the run diverged'
        )
    needed = report.total if floor is None else floor
    if isinstance(needed, float):
        needed = needed * report.total
    if report.loaded < needed or (floor is None and report.problems()):
        raise CheckpointError(
            f'cannot load {what}: {report.loaded}/{report.total} tensors match'
            f'{"" if floor is None else f", at least {needed:g} asked for"}; {report.problems()}'
            f'{_prefix_hint(own, given)}{_method_hint(module, state_dict)}'
        )
    chosen = collections.OrderedDict(
        (k, v) for k, v in given.items() if k in own and k not in wrong
    )
    # With the module's own versions no patched loader (mmdet3d's for spconv) re-orders kernels.
    chosen._metadata = getattr(own, '_metadata', None)  # type: ignore[attr-defined]
    # not strict: what is missing was counted and allowed above, and the rest is compared below
    module.load_state_dict(chosen, strict=False)
    _check_arrived(module, chosen, what)
    note = f' ({report.problems()})' if report.problems() else ''
    print_log(
        f'loaded {report.loaded}/{report.total} tensors into {what}{note}',
        logger='current' if logger is None else logger,
    )
    return report


def _check_arrived(module: nn.Module, chosen: Mapping[str, Any], what: str) -> None:
    after = module.state_dict()
    for key, value in chosen.items():
        if isinstance(value, Tensor) and not torch.equal(after[key], value.to(after[key])):
            raise CheckpointError(
                f'{what}: {key} differs from the file after loading; a load hook '
                'of the module changed it'
            )


def _prefix_hint(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Say so when the keys would match with a prefix taken off or put on."""
    for longer, shorter, words in ((given, own, 'take it off'), (own, given, 'put it on')):
        first = next(iter(shorter), '')
        for key in longer:
            prefix = key[: -len(first)] if first and key.endswith('.' + first) else ''
            if prefix and all(prefix + k in longer for k in shorter):
                return f'. The keys match apart from the prefix {prefix!r}: {words}'
    return ''


def _method_hint(module: nn.Module, checkpoint: Mapping[str, Any]) -> str:
    """Say so when the file's meta names another method than the model's class."""
    meta = checkpoint.get('meta')
    method = meta.get('method') if isinstance(meta, Mapping) else None
    name = type(module).__name__
    if method in (None, name):
        return ''
    return (
        f'. The file is of {method}, the model is {name}: use the config in its work dir, or a '
        f'file of {name}'
    )


def prune_checkpoints(
    work_dir: str | os.PathLike, keep_last: int, keep: Iterable[str | os.PathLike] = ()
) -> list[Path]:
    """Delete old ``epoch_N.pth`` / ``iter_N.pth`` of a work dir.

    The ``keep_last`` newest by number stay, and so do those named in ``keep`` and the one in
    MMEngine's ``last_checkpoint``. Files with other names (``best_*.pth``) are never touched.

    Returns:
        The files deleted, oldest first.

    Raises:
        ValueError: ``keep_last`` is below 1.
    """
    if keep_last < 1:
        raise ValueError(f'keep_last must be at least 1, got {keep_last}')
    work_dir = Path(work_dir)
    last = work_dir / 'last_checkpoint'
    names = {Path(k).name for k in keep}
    if last.is_file():
        names.add(Path(last.read_text().strip()).name)
    numbered = sorted(
        (int(m.group(1)), p)
        for p in work_dir.glob('*.pth')
        if (m := re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', p.name))
    )
    deleted = [p for _, p in numbered[:-keep_last] if p.name not in names]
    for path in deleted:
        path.unlink()
    return deleted
