"""Writes generated clips as files with an index, resumably."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmjepa.evaluation.progress import Progress, silent

from .motions import MOTIONS
from .render import ClipSettings, labels_of, render_clips

DONE, PARTIAL = 'sim_video.json', 'sim_video.partial.json'
FOLDER = 'clips'
FPS = 8  # of mp4 files


def write_clips(
    out: str | Path,
    settings: ClipSettings,
    device: torch.device | str = 'cpu',
    overwrite: bool = False,
    batch_size: int = 64,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Renders clips into ``out/clips/<number>.npy`` ((T, S, S, 3) uint8) or ``.mp4``.

    ``train.csv`` and ``test.csv`` list ``<path> <label>``, paths below ``out``; ``classes.txt``
    names the classes; ``sim_video.json`` holds the settings and says what the classes are. Files
    are written under temporary names and renamed; while the run lasts there is
    ``sim_video.partial.json`` instead. Called again with the same settings, an interrupted run
    goes on where it stopped.

    Args:
        out: Folder to make.
        settings: What to write.
        device: Where clips are rendered.
        overwrite: Replace generated clips that are there. Anything else is never touched.
        batch_size: Clips rendered at a time.
        progress: Called with (what, done, total).

    Returns:
        dict: clips (written now), seconds, clips_per_second.

    Raises:
        FileExistsError: The folder isn't empty and can't be resumed.
        ImportError: mp4 without PyAV.
        ValueError: A batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}')
    write = _mp4_writer() if settings.mp4 else _write_npy
    out = Path(out)
    _prepare(out, settings, overwrite)
    names = _names(settings)
    missing = [i for i, name in enumerate(names) if not (out / name).is_file()]
    start = time.monotonic()
    for first in range(0, len(missing), batch_size):
        numbers = missing[first : first + batch_size]
        clips = render_clips(settings, torch.tensor(numbers), device)[0].cpu().numpy()
        for number, clip in zip(numbers, clips, strict=True):
            with _renamed(out / names[number]) as path:
                write(path, clip)
        progress('clips', first + len(numbers), len(missing))
    seconds = time.monotonic() - start
    _finish(out, settings, names)
    return {
        'clips': len(missing),
        'seconds': seconds,
        'clips_per_second': len(missing) / max(seconds, 1e-9),
    }


def _names(settings: ClipSettings) -> list[str]:
    suffix = 'mp4' if settings.mp4 else 'npy'
    return [f'{FOLDER}/{number:06d}.{suffix}' for number in range(settings.clips)]


def _prepare(out: Path, settings: ClipSettings, overwrite: bool) -> None:
    """Makes the folders, after checking that nothing foreign is in the way."""
    wanted = json.loads(json.dumps(asdict(settings)))
    if out.exists() and not out.is_dir():
        raise FileExistsError(f'{out} is a file; name a folder')
    if out.exists() and any(out.iterdir()):
        ours = [name for name in (DONE, PARTIAL) if (out / name).is_file()]
        if not ours:
            raise FileExistsError(
                f'{out} is not empty and holds no generated clips: choose another folder (it is '
                'not overwritten either, it might be real data)'
            )
        if overwrite:
            shutil.rmtree(out / FOLDER, ignore_errors=True)
            for name in (DONE, PARTIAL, 'train.csv', 'test.csv', 'classes.txt'):
                (out / name).unlink(missing_ok=True)
        elif DONE in ours:
            raise FileExistsError(f'{out} already holds generated clips: --overwrite replaces them')
        elif (there := json.loads((out / PARTIAL).read_text())) != wanted:
            raise FileExistsError(
                f'{out} holds an interrupted run with other settings ({there}): repeat those to '
                'go on, or --overwrite'
            )
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for leftover in (out / FOLDER).glob('*.tmp*'):
        leftover.unlink()
    _write_json(out / PARTIAL, wanted)


def _finish(out: Path, settings: ClipSettings, names: list[str]) -> None:
    """Writes the index and turns the partial marker into the final one."""
    labels = labels_of(settings, torch.arange(settings.clips)).tolist()
    for split, numbers in settings.splits().items():
        with _renamed(out / f'{split}.csv') as path:
            path.write_text(''.join(f'{names[i]} {labels[i]}\n' for i in numbers))
    with _renamed(out / 'classes.txt') as path:
        path.write_text(''.join(f'{name}\n' for name in settings.classes))
    classes = [{'name': name, 'about': MOTIONS[name].about} for name in settings.classes]
    _write_json(out / DONE, {**asdict(settings), 'classes': classes})
    (out / PARTIAL).unlink()


def _write_npy(path: Path, clip: NDArray[np.uint8]) -> None:
    with path.open('wb') as file:
        np.save(file, clip)


def _mp4_writer() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"mp4 files are written with PyAV ({error}): pip install 'mmjepa[video]', or leave out "
            '--mp4'
        ) from None

    def write(path: Path, clip: NDArray[np.uint8]) -> None:
        with av.open(str(path), 'w', format='mp4') as container:
            stream = container.add_stream('libx264', rate=FPS, options={'crf': '10'})
            stream.height, stream.width = clip.shape[1:3]
            stream.pix_fmt = 'yuv420p'
            stream.thread_count = 1
            for pixels in clip:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
            container.mux(stream.encode())

    return write


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends well."""
    temporary = path.with_name(f'{path.name}.tmp{os.getpid()}')
    yield temporary
    os.replace(temporary, path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _renamed(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n')
