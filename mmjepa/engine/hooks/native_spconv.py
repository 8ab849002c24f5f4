"""mmdet3d's sparse encoders on CPU."""

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmjepa.registry import HOOKS


def use_native_kernels(model: nn.Module) -> int:
    """Switch spconv's layers to the kernels that work on CPU tensors; returns their number.

    Raises:
        ValueError: convolutions of mmcv, which have no CPU kernels at all.
    """
    mmcv = [m for m in model.modules() if type(m).__module__.startswith('mmcv.ops.sparse_conv')]
    if mmcv:
        raise ValueError(
            'sparse convolutions of mmcv do not run on CPU: install spconv '
            "(pip install 'mmjepa[lidar]'), or use encoder_type='mmjepa.SparseVoxelEncoder'"
        )
    layers = [
        m
        for m in model.modules()
        if type(m).__module__.startswith('spconv.') and hasattr(m, 'algo')
    ]
    from mmjepa.models.layers.sparse_ops import native_algorithm  # models need the engine

    for layer in layers:
        layer.algo = native_algorithm()
    return len(layers)


@HOOKS.register_module()
class NativeSpconvHook(Hook):
    """On CPU, gives mmdet3d's own sparse encoder the only kernels that spconv has there."""

    def before_run(self, runner: Any) -> None:
        """Before training or testing."""
        if next(runner.bare_model.parameters()).device.type == 'cpu':
            use_native_kernels(runner.bare_model)
