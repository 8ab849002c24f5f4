"""Images per second of the loader, beside a loader on PIL that reads the same crops."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mmjepa.datasets import ImageFolderDataset, jepa_collate
from mmjepa.datasets.image_files import read_bytes, read_header
from mmjepa.datasets.transforms.images import CropBox, random_crop_box, reducible

SCALE, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


class PILCrops(Dataset):
    """A plain PIL loader: ``draft`` to the least size that fills the output, crop, resize.

    Crop and resize as torchvision's ``RandomResizedCrop`` does them.

    Args:
        images: whose files, seeds and crops to take.
        size: side of the output in pixels.
        normalise: give normalised float32 as torchvision's ``ToTensor`` and ``Normalize`` do,
            rather than uint8.
    """

    def __init__(self, images: ImageFolderDataset, size: int, normalise: bool = False) -> None:
        self.images = images
        self.size = size
        self.normalise = normalise
        # drawn beforehand: PIL need not read the header twice
        self.boxes = [crop_of(images.get_path(i), i, size) for i in range(len(images))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """(3, size, size) uint8 or float32."""
        from PIL import Image

        box = self.boxes[index]
        with Image.open(self.images.get_path(index)) as image:
            full = image.size
            image.draft(
                'RGB',
                (full[0] * self.size // box.width or 1, full[1] * self.size // box.height or 1),
            )
            x, y = image.size[0] / full[0], image.size[1] / full[1]
            region = (
                round(box.left * x),
                round(box.top * y),
                round((box.left + box.width) * x),
                round((box.top + box.height) * y),
            )
            resized = (
                image.convert('RGB')
                .crop(region)
                .resize((self.size, self.size), Image.Resampling.BILINEAR)
            )
        pixels = np.asarray(resized)
        if self.normalise:
            pixels = (pixels.astype(np.float32) / 255 - MEAN) / STD
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def crop_of(path: str, seed: int, size: int) -> CropBox:
    """The crop that ``LoadCroppedImage`` takes for a seed."""
    image_size = read_header(read_bytes(path), path).size
    if image_size is None:
        raise ValueError(f'{path}: the benchmark takes JPEG and PNG files')
    drawn = random_crop_box(np.random.default_rng(seed), *image_size, SCALE, RATIO)
    return reducible(drawn, size)[1]


@dataclass
class LoaderTiming:
    """Images per second of one loader, one number a pass.

    Attributes:
        name: what it does.
        rates: images per second by the clock.
        cpu_ms: processor time in ms an image, which other work on the machine disturbs less; empty
            with workers, whose time this process doesn't see.
    """

    name: str
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Median images per second."""
        return statistics.median(self.rates)


@dataclass
class ImagesReport:
    """What :func:`benchmark_images` measured; the first timing is the loader's own."""

    source: str
    images: int
    size: int
    workers: int
    timings: list[LoaderTiming]

    def ratio(self, name: str) -> float:
        """Speed of our loader over that of another, median over passes that followed each other.

        By processor time where it is known, else by the clock.
        """
        ours, other = self.timings[0], next(t for t in self.timings if t.name == name)
        if ours.cpu_ms:
            pairs = zip(other.cpu_ms, ours.cpu_ms, strict=True)
        else:
            pairs = zip(ours.rates, other.rates, strict=True)
        return statistics.median(a / b for a, b in pairs)

    def text(self) -> str:
        """Table for the terminal."""
        lines = [
            f'{self.source}: {self.images} images a pass, crops to {self.size}x{self.size}, '
            f'{self.workers} workers, median of {len(self.timings[0].rates)}',
            f'{"loader":36s} {"images/s":>9s} {"CPU ms":>7s} {"ours is":>9s}',
        ]
        for timing in self.timings:
            cpu = f'{statistics.median(timing.cpu_ms):.2f}' if timing.cpu_ms else '-'
            faster = f'{self.ratio(timing.name):.2f} x'
            lines.append(f'{timing.name:36s} {timing.rate:9.0f} {cpu:>7s} {faster:>9s}')
        return '\n'.join(lines)


def benchmark_images(
    data: str | Path,
    workers: int = 0,
    size: int = 224,
    repeats: int = 5,
    images: int = 320,
    split: str | None = None,
) -> ImagesReport:
    """Times the loader, the loader without reduced decoding, and PIL on the same files and crops.

    The loaders take turns, so that a change in the machine's speed meets all of them; a first
    pass, which fills the page cache, isn't counted. One thread a process.

    Args:
        data: folder of JPEG or PNG images.
        workers: processes that load; 0 loads in this one.
        size: side of the output in pixels.
        repeats: passes measured.
        images: images a pass; the folder's are repeated to make as many.
        split: of :class:`ImageFolderDataset`; None reads every image.
    """
    torch.set_num_threads(1)

    def ours(reduced: bool) -> ImageFolderDataset:
        load = dict(type='LoadCroppedImage', size=size, scale=SCALE, ratio=RATIO, reduced=reduced)
        pack = dict(type='PackJEPAInputs', keys=['image'])
        return ImageFolderDataset(data, [load, pack], split)

    def stacked(batch: list[Any]) -> Any:
        return jepa_collate(batch, stack=['image'])

    folder = ours(True)
    loaders: dict[str, tuple[Dataset, Callable[[list[Any]], Any] | None]] = {
        'mmjepa': (folder, stacked),
        'mmjepa, decoded at full size': (ours(False), stacked),
        'PIL with draft': (PILCrops(folder, size), None),
        'PIL with draft, ToTensor, Normalize': (PILCrops(folder, size, normalise=True), None),
    }
    order = [i % len(folder) for i in range(images)]
    built = {
        name: DataLoader(
            dataset,
            batch_size=32,
            sampler=order,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            multiprocessing_context='fork' if workers else None,
        )
        for name, (dataset, collate) in loaders.items()
    }
    timings = [LoaderTiming(name) for name in built]
    for number in range(repeats + 1):
        for timing in timings:
            seconds, cpu = _one_pass(built[timing.name])
            if number:
                timing.rates.append(images / seconds)
                timing.cpu_ms += [1e3 * cpu / images] if not workers else []
    return ImagesReport(str(data), images, size, workers, timings)


def _one_pass(loader: DataLoader) -> tuple[float, float]:
    """Seconds by the clock, and of this process."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in loader:
        pass
    return time.perf_counter() - start, time.process_time() - cpu
