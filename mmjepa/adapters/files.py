"""Reading checkpoint files and the folders that Hugging Face writes."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from mmjepa.engine.checkpoint import CheckpointError, load_file


def weight_files(path: str | os.PathLike) -> list[Path]:
    """The file itself, or all weight files of a Hugging Face folder.

    Raises:
        FileNotFoundError: A folder without them.
        CheckpointError: Its index can't be read.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    index = path / 'model.safetensors.index.json'
    names = ['model.safetensors']
    if index.is_file():
        names = sorted(set(_json(index).get('weight_map', {}).values()))
    missing = [n for n in ('config.json', *names) if not (path / n).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{path} is a folder without {" and ".join(missing)}: name a checkpoint file, or a '
            'folder that save_pretrained of transformers wrote'
        )
    return [path / name for name in names]


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    A zip file's tensors stay on disk until they are used, so that optimizer states cost nothing.

    Args:
        path: A file as in :func:`mmjepa.engine.checkpoint.load_file`, or a Hugging Face folder,
            which gives ``dict(meta=..., state_dict=..., config=...)``.

    Raises:
        FileNotFoundError: There is no such file, or not all files of a folder.
        CheckpointError: See :func:`mmjepa.engine.checkpoint.load_file`.
    """
    path = Path(path)
    if path.is_dir():
        content: dict[str, Any] = {'meta': {}, 'state_dict': {}}
        for file in weight_files(path):
            part = load_file(file)
            content['meta'] |= part['meta']
            content['state_dict'] |= part['state_dict']
        return {**content, 'config': _json(path / 'config.json')}
    if path.is_file() and zipfile.is_zipfile(path):
        try:
            content = torch.load(path, map_location='cpu', mmap=True, weights_only=True)
        except Exception:  # load_file knows more types, and says what is wrong
            content = {}
        if isinstance(content, dict) and content:
            return content
    return load_file(path)


def digest_of(path: str | os.PathLike) -> str:
    """SHA-256 of the weight files, one after the other."""
    digest = hashlib.sha256()
    for name in weight_files(path):
        with open(name, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f'{path} is no JSON: {error}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, expected an object')
    return content
