#!/usr/bin/env python
"""Says what is installed, what is missing and how to get it, and tries a sparse convolution.

    python tools/check_env.py          # what pre-training needs
    python tools/check_env.py --all    # everything, fine-tuning and tests included

Exit code 1 when something needed is missing, out of range or computes wrongly. Runs with nothing
but Python's standard library and whatever else happens to be there.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / 'requirements'
NEEDED = ('runtime', 'lidar')
EVERYTHING = (*NEEDED, 'mm3d', 'image', 'video', 'tests', 'dev')

# distributions that do a requirement's work under another name
STAND_INS = {
    'opencv-python': ('opencv-python-headless', 'opencv-contrib-python'),
    'opencv-python-headless': ('opencv-python', 'opencv-contrib-python'),
}
# what happens without these: they are worth a word, not a failure
REPLACEABLE = {
    'spconv': 'sparse convolution falls back to the slower torch rulebook',
    'open3d': 'the LiDAR simulator falls back to its slower torch ray caster',
    'pandas': 'nothing, unless open3d asks for it',
}
MODULES = {
    'torch': 'torch',
    'numpy': 'numpy',
    'mmengine': 'mmengine',
    'cv2': 'opencv-python',
    'spconv.pytorch': 'spconv',
    'open3d': 'open3d',
}
MM3D_MODULES = {
    'mmcv.ops': 'mmcv',
    'mmdet.models': 'mmdet',
    'mmseg.models': 'mmsegmentation',
    'mmdet3d.models': 'mmdet3d',
}
# Debian's names of the shared libraries that cv2 and open3d want
APT = {
    'libGL.so.1': 'libgl1',
    'libgthread-2.0.so.0': 'libglib2.0-0',
    'libX11.so.6': 'libx11-6',
    'libgomp.so.1': 'libgomp1',
    'libudev.so.1': 'libudev1',
}


@dataclass
class Report:
    """What was found: problems make the exit code 1, notes do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, package: str, text: str) -> None:
        """Files ``text`` under notes if ``package`` can be done without, else under problems."""
        for name, consequence in REPLACEABLE.items():
            if package.startswith(name):
                self.notes.append(f'{text} (without it, {consequence})')
                return
        self.problems.append(text)


def requirement_lines(name: str) -> list[str]:
    """Lines of ``requirements/<name>.txt`` without comments."""
    lines = (REQUIREMENTS / f'{name}.txt').read_text().splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith('#')]


def installed_version(name: str) -> str | None:
    """Version of a distribution or of one that stands in for it; None when there is none."""
    names = [name, *STAND_INS.get(name, ())]
    if name.startswith('spconv'):
        names += [d.name for d in importlib.metadata.distributions() if is_spconv(d.name)]
    for candidate in names:
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def is_spconv(name: str | None) -> bool:
    """Whether a distribution is spconv, for whatever CUDA."""
    return bool(name) and re.fullmatch(r'spconv(-cu\d+)?', str(name)) is not None


def remedy(extra: str) -> str:
    """The command that installs a set of requirements."""
    if extra == 'runtime':
        return 'pip install mmjepa'
    if extra == 'mm3d':
        return 'make install-all (mmcv has to be compiled)'
    return f"pip install 'mmjepa[{extra}]'"


def check_requirements(extras: tuple[str, ...], report: Report) -> Iterator[tuple[str, str]]:
    """Yields (name, version) of every requirement and reports the missing and the unfit."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        report.problems.append(f'packaging is missing: {remedy("runtime")}')
        return
    seen = set()
    for extra in extras:
        for line in requirement_lines(extra):
            wanted = Requirement(line)
            if wanted.name in seen or (wanted.marker and not wanted.marker.evaluate()):
                continue
            seen.add(wanted.name)
            version = installed_version(wanted.name)
            yield wanted.name, version or '-'
            if version is None:
                report.add(wanted.name, f'{wanted.name} is missing: {remedy(extra)}')
            elif not wanted.specifier.contains(version, prereleases=True):
                report.add(
                    wanted.name,
                    f'{wanted.name} {version} is outside {wanted.specifier}: {remedy(extra)}',
                )


def loadable(library: str) -> bool:
    """Whether the dynamic loader finds a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def explain_import_error(package: str, error: Exception) -> str:
    """One line: what does not import, why, and the command that mends it."""
    library = re.search(r'(lib[\w.+-]+\.so[\w.]*): cannot open shared object', str(error))
    if library is None:
        return f'{package} does not import: {type(error).__name__}: {error}'
    # the loader names the first one only
    absent = {apt for name, apt in APT.items() if not loadable(name)}
    if library[1] in APT:
        hint = f'apt-get install {" ".join(sorted(absent | {APT[library[1]]}))}'
    else:
        hint = f'install what provides {library[1]}'
    return f'{package} does not import, {library[1]} is missing; on Debian: {hint}'


def check_imports(modules: dict[str, str], report: Report) -> None:
    """Imports what is installed: broken system libraries show only then."""
    for module, package in modules.items():
        if installed_version(package) is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                importlib.import_module(module)
        except Exception as error:  # foreign packages fail in every way at import
            report.add(package, explain_import_error(package, error))


def describe_cuda(report: Report) -> list[str]:
    """Lines on the CUDA of torch, spconv and mmcv."""
    try:
        import torch
    except Exception:  # reported by check_imports
        return []
    built = torch.version.cuda
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines = [f'torch built for {"CUDA " + built if built else "CPU"}; devices: {devices or "CPU"}']
    spconv = next((d.name for d in importlib.metadata.distributions() if is_spconv(d.name)), None)
    if spconv:
        cuda = re.search(r'cu(\d+)(\d)$', spconv)
        lines.append(f'spconv built for {f"CUDA {cuda[1]}.{cuda[2]}" if cuda else "CPU"}')
        if devices and not cuda:
            report.notes.append(
                'spconv is the CPU build beside a CUDA device: install spconv-cu126 or spconv-cu120'
            )
    ops = sys.modules.get('mmcv.ops')
    if ops is not None:
        compiled = ops.get_compiling_cuda_version()
        lines.append(f'mmcv ops compiled for {compiled if "not" not in compiled else "CPU"}')
        if devices and built and compiled != built:
            report.notes.append(
                f'mmcv has no ops for CUDA {built}: with nvcc installed, FORCE_CUDA=1 make test '
                'builds them'
            )
    return lines


def sparse_convolution_error(device: str, submanifold: bool) -> float:
    """Largest relative error of output and weight gradient against dense conv3d x occupancy."""
    import torch
    import torch.nn.functional as F

    from mmjepa.models.layers.sparse_ops import SparseConv3d, SparseTensor, SubMConv3d

    shape, generator = (6, 10, 12), torch.Generator().manual_seed(0)
    cells = torch.randperm(2 * 6 * 10 * 12, generator=generator)[:150]
    b, cells = cells // 720, cells % 720
    coors = torch.stack([b, cells // 120, cells // 12 % 10, cells % 12], 1)
    feats = torch.randn(150, 4, generator=generator)
    stride = 1 if submanifold else 2
    torch.manual_seed(0)
    if submanifold:
        conv = SubMConv3d(4, 8, 3, indice_key='check', bias=False)
    else:
        conv = SparseConv3d(4, 8, 3, stride=2, padding=1, indice_key='check', bias=False)
    conv = conv.to(device)
    x = SparseTensor(feats.to(device), coors.to(device), shape, 2)
    result = conv(x).dense()
    gain = torch.randn(result.shape, generator=generator).to(device)
    (found,) = torch.autograd.grad((result * gain).sum(), conv.weight)

    # float64 on the CPU is the reference whatever the device
    weight = conv.weight.detach().cpu().double().requires_grad_()
    dense = x.dense().cpu().double()
    occupied = (dense != 0).any(1, keepdim=True).double()
    if not submanifold:
        occupied = F.max_pool3d(occupied, 3, 2, 1)
    kernel = weight.permute(0, 4, 1, 2, 3)
    expected = F.conv3d(dense, kernel, stride=stride, padding=1) * occupied
    (wanted,) = torch.autograd.grad((expected * gain.cpu().double()).sum(), weight)

    def relative(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.detach().cpu().double() - b.detach()).abs().max() / b.detach().abs().max())

    return max(relative(result, expected), relative(found, wanted))


def check_sparse_convolution(
    report: Report, error_of: Callable[[str, bool], float] = sparse_convolution_error
) -> list[str]:
    """Runs both kinds of sparse convolution on every kind of device there is."""
    try:
        import torch

        from mmjepa.models.layers.sparse_ops import backend_name
    except Exception as error:
        report.problems.append(f'sparse convolution not tried: {type(error).__name__}: {error}')
        return []
    lines = []
    for device in ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',):
        # TF32 keeps 10 bits of mantissa
        limit = 1e-5 if device == 'cpu' else 5e-3
        try:
            error = max(error_of(device, True), error_of(device, False))
        except Exception as failure:
            report.problems.append(f'sparse convolution on {device}: {failure}')
            continue
        verdict = 'ok' if error < limit else 'WRONG'
        lines.append(
            f'sparse convolution on {device} ({backend_name(device)}) against dense conv3d: '
            f'relative error {error:.1e}, {verdict}'
        )
        if error >= limit:
            report.problems.append(lines[-1])
    return lines


def main(argv: list[str] | None = None) -> int:
    """Prints the report; 0 when all that is needed is there and computes rightly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--all', action='store_true', help='fine-tuning, tests and lint as well')
    args = parser.parse_args(argv)
    report = Report()
    print(f'Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores')
    for name, version in check_requirements(EVERYTHING if args.all else NEEDED, report):
        print(f'  {name:<24}{version}')
    check_imports(MODULES, report)
    if args.all:
        check_imports(MM3D_MODULES, report)
    for line in (*describe_cuda(report), *check_sparse_convolution(report)):
        print(line)
    for note in report.notes:
        print(f'note: {note}')
    for problem in report.problems:
        print(f'PROBLEM: {problem}')
    print(f'{len(report.problems)} problems' if report.problems else 'all that is needed is here')
    return 1 if report.problems else 0


if __name__ == '__main__':
    sys.exit(main())
