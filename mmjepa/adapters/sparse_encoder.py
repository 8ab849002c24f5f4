"""The common form of a sparse voxel encoder: mmdet3d ``SparseEncoder`` keys, KRSC kernels.

Every format is translated to this form and from it, so that N formats need N adapters.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmjepa.adapters.family import Family
from mmjepa.engine.checkpoint import CheckpointError, non_finite

# Kernel axes: K = out channels, R S = the three kernel axes, C = in channels. The value permutes
# to KRSC. spconv 2.2+ writes KRSC, spconv 1.x and mmcv.ops RSCK, spconv 2.1 (native) RSKC.
KERNEL_LAYOUTS = {'KRSC': (0, 1, 2, 3, 4), 'RSCK': (4, 0, 1, 2, 3), 'RSKC': (3, 0, 1, 2, 4)}
_BN = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_BLOCK = (('{}.conv1', '{}.bn1'), ('{}.conv2', '{}.bn2'))  # residual block
_UNIT = (('{}.0', '{}.1'),)  # convolution, BatchNorm, ReLU


def conv_bn_pairs(block_type: str) -> list[tuple[str, str]]:
    """Names of every convolution and its BatchNorm, in the order the data passes them.

    Args:
        block_type: ``conv_module`` (12 convolutions, 72 tensors; OpenPCDet ``VoxelBackBone8x``) or
            ``basicblock`` (21 convolutions, 126 tensors; ``VoxelResBackBone8x``).
    """
    stages: list[list[tuple[tuple[str, str], ...]]]
    if block_type == 'conv_module':
        stages = [[_UNIT], [_UNIT] * 3, [_UNIT] * 3, [_UNIT] * 3]
    else:  # the strided convolution comes last in a stage
        stages = [[_BLOCK, _BLOCK, _UNIT]] * 3 + [[_BLOCK, _BLOCK]]
    names: list[tuple[str, tuple[tuple[str, str], ...]]] = [('conv_input', _UNIT)]
    for k, blocks in enumerate(stages, 1):
        names += [(f'encoder_layers.encoder_layer{k}.{j}', b) for j, b in enumerate(blocks)]
    names.append(('conv_out', _UNIT))
    return [(c.format(name), b.format(name)) for name, block in names for c, b in block]


def encoder_keys(block_type: str) -> list[str]:
    """All state-dict keys of the encoder."""
    keys = []
    for conv, bn in conv_bn_pairs(block_type):
        keys += [f'{conv}.weight'] + [f'{bn}.{name}' for name in _BN]
    return keys


def block_type_of(state: Mapping[str, Tensor]) -> str:
    """``basicblock`` if the first stage is made of residual blocks."""
    residual = any(key.startswith('encoder_layers.encoder_layer1.0.conv') for key in state)
    return 'basicblock' if residual else 'conv_module'


def _shape_error(state: Mapping[str, Tensor], layout: str) -> str | None:
    """First tensor whose shape doesn't fit its neighbours: in = out of the layer before."""
    channels_in = None
    for conv, bn in conv_bn_pairs(block_type_of(state)):
        out = state[f'{bn}.weight'].numel()
        for name in _BN:
            wanted: tuple[int, ...] = () if name == 'num_batches_tracked' else (out,)
            if tuple(state[f'{bn}.{name}'].shape) != wanted:
                return f'{bn}.{name} is {tuple(state[f"{bn}.{name}"].shape)}, expected {wanted}'
        shape = tuple(state[f'{conv}.weight'].shape)
        got = tuple(shape[i] for i in KERNEL_LAYOUTS[layout]) if len(shape) == 5 else shape
        kernel = (3, 1, 1) if conv.startswith('conv_out') else (3, 3, 3)
        wanted = (out, *kernel, channels_in if channels_in is not None else got[-1])
        if got != wanted:
            return f'{conv}.weight is {shape}, {got} as KRSC; expected {wanted}'
        channels_in = out
    return None


def check_encoder(state: Mapping[str, Tensor], source: str, layout: str = 'KRSC') -> None:
    """Raise unless the keys are exactly an encoder's, the shapes chain and all values are finite.

    Args:
        state: Weights in the common form, kernels in ``layout``.
        source: Name of their origin in messages.
        layout: A key of :data:`KERNEL_LAYOUTS`.

    Raises:
        CheckpointError: Names the first tensors that are wrong. Where another kernel layout fits
            the message says which; a file whose in and out channels are equal everywhere would
            fit several, which is why the layout is never guessed.
    """
    wanted = encoder_keys(block_type_of(state))
    missing = [k for k in wanted if k not in state]
    unexpected = sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise CheckpointError(
            f'{source} is no complete sparse voxel encoder ({block_type_of(state)}): '
            f'{len(missing)} of {len(wanted)} tensors missing {missing[:4]}, '
            f'{len(unexpected)} unexpected {unexpected[:4]}'
        )
    if error := _shape_error(state, layout):
        fits = [name for name in KERNEL_LAYOUTS if _shape_error(state, name) is None]
        hint = f'; kernel layout {" or ".join(fits)} fits (--kernel-layout)' if fits else ''
        raise CheckpointError(f'{source}: wrong shape: {error}{hint}')
    if bad := non_finite(state):
        raise CheckpointError(
            f'{source}: NaN or Inf in {len(bad)} tensors, first {bad[0]}; use a '
            'checkpoint from before the run diverged'
        )


def to_krsc(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Copy the weights with every kernel permuted from ``layout`` to KRSC."""
    return {
        key: (value.permute(KERNEL_LAYOUTS[layout]) if value.ndim == 5 else value)
        .detach()
        .cpu()
        .contiguous()
        .clone()
        for key, value in state.items()
    }


_ROOTS = ('conv_input.', 'encoder_layers.', 'conv_out.')
SPARSE = Family(
    name='sparse voxel encoder',
    data='LiDAR',
    anchor='conv_input.0.weight',  # every format calls the first convolution so
    roots=_ROOTS,
    signature=_ROOTS,
    owns_file=False,
    companions=False,
    facts=lambda meta: {},
    check=lambda state, source, layout, facts: check_encoder(state, source, layout),
    traits=lambda state, facts: ({'block_type': block_type_of(state)}, []),
    own=to_krsc,
    label=lambda meta: meta['block_type'],
)
