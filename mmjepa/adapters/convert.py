"""From one checkpoint file to another: read, check, translate, write, read back, compare."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import torch

from mmjepa.adapters.base import Encoder, EncoderAdapter, method_of
from mmjepa.adapters.jepa import MMJEPAAdapter
from mmjepa.adapters.mmdet3d import MMDet3DAdapter
from mmjepa.adapters.openpcdet import OpenPCDetAdapter
from mmjepa.adapters.safe_tensors import SafetensorsAdapter
from mmjepa.adapters.sparse_encoder import block_type_of
from mmjepa.engine.checkpoint import CheckpointError, atomic_write, find_state_dict, load_file
from mmjepa.version import __version__

FORMATS: dict[str, EncoderAdapter] = {
    adapter.name: adapter
    for adapter in (MMJEPAAdapter(), MMDet3DAdapter(), OpenPCDetAdapter(), SafetensorsAdapter())
}


def detect_format(checkpoint: dict) -> str:
    """Name the format of a loaded file.

    Raises:
        CheckpointError: None or several fit.
    """
    keys, _ = find_state_dict(checkpoint)
    fits = [name for name, adapter in FORMATS.items() if adapter.recognises(checkpoint, keys)]
    if len(fits) != 1:
        raise CheckpointError(
            f'the format is not plain ({", ".join(fits) or "none"} fits; keys '
            f'such as {", ".join(list(keys)[:3])}); give --from'
        )
    return fits[0]


def read_encoder(
    path: str | os.PathLike,
    source_format: str,
    *,
    prefix: str | None = None,
    which: str | None = None,
    layout: str = 'KRSC',
) -> Encoder:
    """Read the encoder of a checkpoint file in the common form.

    Args:
        path: The file.
        source_format: A key of :data:`FORMATS`, or ``auto`` where only one fits.
        prefix: Prefix of its keys; by default the one that the format knows.
        which: ``online`` or ``target``, for mmjepa checkpoints only.
        layout: Kernel layout of the file.

    Raises:
        CheckpointError: See :meth:`EncoderAdapter.read`.
        ValueError: Options that exclude each other.
    """
    checkpoint = load_file(path)
    notes = []
    if source_format == 'auto':
        source_format = detect_format(checkpoint)
        notes.append(f'found format {source_format}')
    adapter = FORMATS[source_format]
    if which is not None:
        if not isinstance(adapter, MMJEPAAdapter) or prefix is not None:
            raise ValueError(
                '--which goes with --from mmjepa and without --from-prefix; elsewhere '
                'name the encoder with --from-prefix'
            )
        prefix = adapter.which[which]
    encoder = adapter.read(checkpoint, Path(path).name, prefix, layout)
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    old = encoder.meta
    encoder.meta = {
        'source': Path(path).name,
        'source_sha256': digest,
        'source_format': source_format,
        'source_prefix': encoder.prefix,
        'mmjepa_version': __version__,
        'method': method_of(old) or 'unknown',
        'block_type': block_type_of(encoder.state),
        # An encoder that was converted before keeps the name of its first file.
        'origin': str(old.get('origin') or f'{Path(path).name} sha256:{digest}'),
    }
    if isinstance(old.get('cfg'), str):
        encoder.meta['cfg'] = old['cfg']
    encoder.notes = notes + encoder.notes
    return encoder


def write_encoder(
    encoder: Encoder,
    out: str | os.PathLike,
    target_format: str,
    *,
    prefix: str | None = None,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Write the encoder, read the file back and compare it before it gets its name.

    Args:
        encoder: From :func:`read_encoder`.
        out: The file to make.
        target_format: A key of :data:`FORMATS`.
        prefix: Prefix of the keys; the format's own by default.
        overwrite: Replace an existing file.

    Returns:
        Tensors that came back bit-equal, and tensors of the encoder. They are always equal.

    Raises:
        FileExistsError: ``out`` is there and ``overwrite`` is False.
        ValueError: The suffix of ``out`` doesn't suit the format.
        CheckpointError: The file read back differs; no file is left.
    """
    out, adapter = Path(out), FORMATS[target_format]
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} exists; choose another name or give --overwrite')
    if (out.suffix == '.safetensors') != (target_format == 'safetensors'):
        raise ValueError(f'{out.name}: the suffix .safetensors belongs to --to safetensors')
    prefix = adapter.prefixes[0] if prefix is None else prefix
    state = {prefix + k: v for k, v in adapter.encode(encoder.state).items()}
    meta = {'format': target_format, **encoder.meta}
    equal = 0

    def write(file: BinaryIO) -> None:
        nonlocal equal
        if target_format == 'safetensors':
            from safetensors.torch import save

            file.write(save(state, meta))
        else:
            torch.save(adapter.pack(state, meta), file)
        file.flush()
        back = adapter.read(load_file(file.name), out.name, prefix)
        equal = sum(torch.equal(back.state[k], v) for k, v in encoder.state.items())
        if equal != len(encoder.state) or back.meta != meta:
            raise CheckpointError(f'{out}: only {equal}/{len(encoder.state)} tensors came back')

    atomic_write(out, write)
    return equal, len(encoder.state)
