"""torch.compile where it pays: on transformer blocks."""

from torch import nn

from mmjepa.models.layers.transformer import Block

from .config import ConfigError


def compile_blocks(model: nn.Module, backend: str = 'inductor') -> int:
    """Fuse what stands between the matrix products of every transformer block, in place.

    Two dynamic graphs, of the first and of the other blocks, serve a network whatever the number
    of visible patches, so the first step alone is slow. Parameters and state-dict keys stay as
    they are, and copies of a compiled block are eager.

    Args:
        model: a method; blocks of encoder, target and predictor alike.
        backend: of ``torch.compile``.

    Returns:
        How many blocks.

    Raises:
        ConfigError: the model has no such blocks.
    """
    import torch._dynamo  # takes seconds

    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise ConfigError(
            f'compile=True: {type(model).__name__} has no transformer blocks to compile; leave it '
            'False'
        )
    # graphs of all networks, with and without gradient and autocast, count against one limit of 8,
    # beyond which torch goes on without compiling
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
    return len(blocks)
