"""From one checkpoint file to another: read, check, translate, write, read back, compare."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import BinaryIO

import torch

from mmjepa.adapters.base import Encoder, EncoderAdapter
from mmjepa.adapters.config_text import method_of
from mmjepa.adapters.files import digest_of, load
from mmjepa.adapters.huggingface import HuggingFaceAdapter
from mmjepa.adapters.huggingface_video import HuggingFaceVideoAdapter
from mmjepa.adapters.ijepa import IJEPAAdapter
from mmjepa.adapters.jepa import MMJEPAAdapter
from mmjepa.adapters.mmdet3d import MMDet3DAdapter
from mmjepa.adapters.mmpretrain import MMPretrainAdapter
from mmjepa.adapters.mmseg import MMSegAdapter
from mmjepa.adapters.openpcdet import OpenPCDetAdapter
from mmjepa.adapters.safe_tensors import SafetensorsAdapter
from mmjepa.adapters.timm import TimmAdapter
from mmjepa.adapters.vitdet import ViTDetAdapter
from mmjepa.adapters.vjepa import VJEPA2Adapter, VJEPAAdapter
from mmjepa.engine.checkpoint import CheckpointError, atomic_write, find_state_dict
from mmjepa.version import __version__


def _by_name(*adapters: EncoderAdapter) -> dict[str, EncoderAdapter]:
    return {adapter.name: adapter for adapter in adapters}


_OWN = (MMJEPAAdapter(), SafetensorsAdapter())
# of sparse voxel encoders
FORMATS = _by_name(_OWN[0], MMDet3DAdapter(), OpenPCDetAdapter(), _OWN[1])
VIT_FORMATS = _by_name(
    *_OWN,
    IJEPAAdapter(),
    HuggingFaceAdapter(),
    TimmAdapter(),
    MMPretrainAdapter(),
    MMSegAdapter(),
    ViTDetAdapter(),
)
# of ViTs of clips
VIDEO_FORMATS = _by_name(*_OWN, VJEPAAdapter(), VJEPA2Adapter(), HuggingFaceVideoAdapter())
ALL_FORMATS = FORMATS | VIT_FORMATS | VIDEO_FORMATS


def detect_format(checkpoint: dict) -> str:
    """Name the format of a loaded file.

    Raises:
        CheckpointError: None or several fit.
    """
    try:
        keys = find_state_dict(checkpoint)[0]
    except CheckpointError:  # weights under names that only one format knows
        keys = {}
        if not any(adapter.recognises(checkpoint, keys) for adapter in ALL_FORMATS.values()):
            raise
    fits = [name for name, adapter in ALL_FORMATS.items() if adapter.recognises(checkpoint, keys)]
    if len(fits) != 1:
        raise CheckpointError(
            f'the format is not plain ({", ".join(fits) or "none"} fits; keys '
            f'such as {", ".join(list(keys or checkpoint)[:3])}); give --from'
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
        path: The file, or a Hugging Face folder.
        source_format: A key of :data:`ALL_FORMATS`, or ``auto`` where only one fits.
        prefix: Prefix of its keys; by default the one that the format knows.
        which: ``online`` or ``target``, for files that have both: mmjepa (default: online) and
            official I-JEPA and V-JEPA checkpoints (default: target, which the papers evaluate).
        layout: Kernel layout of the file.

    Raises:
        CheckpointError: See :meth:`EncoderAdapter.read`.
        ValueError: Options that exclude each other.
    """
    checkpoint = load(path)
    notes = []
    if source_format == 'auto':
        source_format = detect_format(checkpoint)
        notes.append(f'found format {source_format}')
    adapter = ALL_FORMATS[source_format]
    if which is not None:
        if not adapter.which or prefix is not None:
            raise ValueError(
                '--which goes with --from mmjepa or ijepa (of clips: vjepa, vjepa2) and without '
                '--from-prefix; elsewhere name the encoder with --from-prefix'
            )
        prefix = adapter.which[which]
    encoder = adapter.read(checkpoint, Path(path).name, prefix, layout)
    digest = digest_of(path)
    old = encoder.meta
    encoder.meta = {
        'source': Path(path).name,
        'source_sha256': digest,
        'source_format': source_format,
        'source_prefix': encoder.prefix,
        'mmjepa_version': __version__,
        'method': method_of(old) or 'unknown',
        **encoder.traits,
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
        out: The file to make; a folder for ``hf`` and ``hf_vjepa2``, unless it is named ``.pth``.
        target_format: A key of :data:`ALL_FORMATS` that holds its family.
        prefix: Prefix of the keys; the format's own by default.
        overwrite: Replace an existing file.

    Returns:
        Tensors that came back bit-equal, and tensors of the encoder as far as the format holds it.
        They are always equal.

    Raises:
        FileExistsError: ``out`` is there and ``overwrite`` is False.
        ValueError: The suffix of ``out`` doesn't suit the format, or the format is of another
            family of encoders or has no place for this one.
        CheckpointError: The file read back differs; no file is left.
    """
    out, adapter = Path(out), ALL_FORMATS[target_format]
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} exists; choose another name or give --overwrite')
    if (out.suffix == '.safetensors') != (target_format == 'safetensors'):
        raise ValueError(f'{out.name}: the suffix .safetensors belongs to --to safetensors')
    if encoder.family not in adapter.families:
        fits = [n for n, a in ALL_FORMATS.items() if encoder.family in a.families]
        raise ValueError(
            f'{target_format} files hold a {" or ".join(map(str, adapter.families))}, and this is '
            f'a {encoder.family}: choose --to {", ".join(fits)}'
        )
    encoder = adapter.adapt(encoder)
    prefix = adapter.prefixes[0] if prefix is None else prefix
    state = adapter.layout(encoder, prefix)
    meta = {'format': adapter.marker or target_format, **encoder.meta}
    main, sidecars = adapter.main_file(out), adapter.sidecars(encoder, out)
    equal = 0

    def write(file: BinaryIO) -> None:
        nonlocal equal
        if main.suffix == '.safetensors':
            from safetensors.torch import save

            file.write(save(state, meta))
        else:
            torch.save(adapter.pack(state, meta), file)
        file.flush()
        content = load(file.name)
        back, whole = adapter.read(content, out.name, prefix), adapter.tensors(content, out.name)
        equal = sum(torch.equal(back.state[k], v) for k, v in encoder.state.items())
        same = all(torch.equal(whole[k], v) for k, v in state.items())
        if equal != len(encoder.state) or not same or back.meta != meta:
            raise CheckpointError(f'{out}: only {equal}/{len(encoder.state)} tensors came back')

    atomic_write(main, write)
    for name, text in sidecars.items():
        atomic_write(main.with_name(name), functools.partial(_write_text, text))
    return equal, len(encoder.state)


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode())
