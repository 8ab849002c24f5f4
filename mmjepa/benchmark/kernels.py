"""Where the time of a step goes, by kernel."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

PRODUCTS = 'matrix product and attention'
# first match wins; names of CUDA kernels and of CPU operators
CATEGORIES = (
    # of torch.compile, in whose names the operators stand that they replace
    ('fused elementwise', ('triton_', 'cpp_fused')),
    # before 'cudnn' and 'xmma', which name convolutions, too
    (PRODUCTS, ('xmma_gemm', 'flash', 'fmha', 'sdpa', 'attention')),
    ('optimizer and EMA', ('multi_tensor', 'foreach', 'fused_adam', 'AdamW', 'lerp')),
    (
        'copies and casts',
        (
            'Memcpy',
            'Memset',
            'copy_',
            'direct_copy',
            'bfloat16_copy',
            '_to_copy',
            'contiguous',
            'aten::cat',
            'CatArray',
            'nchwToNhwc',
            'nhwcToNchw',
            'zero_',
            'fill_',
            'FillFunctor',
        ),
    ),
    (
        'sort and search',
        (
            'sort',
            'Sort',
            'radix',
            'Radix',
            'searchsorted',
            'unique',
            'nonzero',
            'scan',
            'bincount',
            'histc',
        ),
    ),
    ('gather and scatter', ('index', 'gather', 'scatter', 'Index')),
    (
        'sparse convolution',
        (
            'spconv',
            'tv::',
            'cumm',
            'implicit_gemm',
            'Simt_',
            'Turing_',
            'Ampere_',
            'Rulebook',
            'indice_conv',
        ),
    ),
    ('dense convolution', ('conv', 'Conv', 'implicit_convolve', 'xmma', 'cudnn', 'mkldnn')),
    (
        PRODUCTS,
        ('gemm', 'cutlass', 'nvjet', 'aten::mm', 'aten::addmm', 'aten::bmm', 'cublas'),
    ),
    ('normalisation', ('batch_norm', 'bn_', 'Norm', 'norm')),
    ('reductions', ('reduce', 'Reduce', 'aten::sum', 'aten::mean')),
)


def category(name: str) -> str:
    """Category of a kernel or operator."""
    for label, keys in CATEGORIES:
        if any(key in name for key in keys):
            return label
    return 'elementwise and others'


def profile_steps(
    step: Callable[[Any], None], batches: Iterator[Any], count: int, device: str, rows: int
) -> tuple[dict[str, float], list[tuple[str, float, int]]]:
    """Time of the device by kernel.

    Args:
        step: what is measured.
        batches: its arguments.
        count: steps.
        device: ``'cpu'`` or ``'cuda'``.
        rows: kernels listed.

    Returns:
        ms a step by category, and (name, ms a step, calls a step) of the costliest kernels.
    """
    kinds = [ProfilerActivity.CUDA] if device == 'cuda' else [ProfilerActivity.CPU]
    with profile(activities=kinds) as recorded:
        for _ in range(count):
            step(next(batches))
        if device == 'cuda':
            torch.cuda.synchronize()
    attribute = 'self_device_time_total' if device == 'cuda' else 'self_cpu_time_total'
    events = [
        (e.key, getattr(e, attribute) / 1000 / count, e.count // count)
        for e in recorded.key_averages()
        if getattr(e, attribute) > 0
    ]
    parts: dict[str, float] = {}
    for name, ms, _ in events:
        parts[category(name)] = parts.get(category(name), 0.0) + ms
    return parts, sorted(events, key=lambda e: -e[1])[:rows]
