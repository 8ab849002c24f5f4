"""What T-JEPA's steps take: masks and tokeniser against a loop over rows, then whole steps.

python projects/t_jepa/tools/speed.py                                 # CPU, one thread
python projects/t_jepa/tools/speed.py --device cuda --steps 100       # Jannis: 512 rows x 54
python projects/t_jepa/tools/speed.py --device cuda --config jannis --options compile=True

The loops draw the masks, and make the tokens, of one row after the other by the same code; equal
outputs are checked first. Whole steps go from rows in memory to moved targets: batch, copy to the
device, masks, three networks, backward pass, optimizer, moving average. Rows are random: the time
doesn't depend on them. On a CPU it is the process's own, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from mmengine.registry import init_default_scope

from mmjepa.engine.compile import compile_blocks
from mmjepa.engine.config import OptionAction, load_config
from mmjepa.engine.errors import one_line_errors
from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.engine.sampler import sample_seed
from mmjepa.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from projects.t_jepa.t_jepa import FeatureSubsetMaskGenerator, FeatureTokenizer
from projects.t_jepa.t_jepa.rows import Rows

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
TABLE_ROWS = 20_000


def timed(call: Callable[[], Any], repeats: int, device: str) -> float:
    """Median milliseconds of a call."""
    taken = []
    for _ in range(repeats):
        start = now(device)
        call()
        taken.append(1000 * (now(device) - start))
    return float(np.median(taken))


def now(device: str) -> float:
    """Seconds: of this process on a CPU, which others may share; else when the device is done."""
    if device == 'cpu':
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def random_rows(cfg: Any, count: int) -> Tensor:
    """(count, D) numbers in [0, 1), then codes."""
    encoder = cfg.model.encoder
    codes = [torch.randint(0, n, (count, 1)).float() for n in encoder.cardinalities]
    return torch.cat([torch.rand(count, encoder.num_numeric), *codes], 1)


def against_loops(args: argparse.Namespace) -> None:
    """Masks and tokens of a batch at once, and row by row."""
    size, device = args.batch_size, args.device
    for name in ('jannis', 'adult'):
        cfg = load_config(CONFIGS / f'{name}.py')
        encoder, masks = cfg.model.encoder, dict(cfg.model.mask_generator)
        features = encoder.num_numeric + len(encoder.cardinalities)
        masks.pop('type')
        draw = FeatureSubsetMaskGenerator(features, **masks)
        tokenise = FeatureTokenizer(encoder.num_numeric, encoder.cardinalities, encoder.channels)
        tokenise, x = tokenise.to(device), random_rows(cfg, size).to(device)
        seeds = torch.tensor([sample_seed(0, 0, p) for p in range(size)]).to(device)

        def whole_masks(draw: Any = draw, seeds: Tensor = seeds) -> list[Tensor]:
            drawn = draw(seeds, 0)
            return [drawn.context, drawn.targets]

        def loop_masks(draw: Any = draw, seeds: Tensor = seeds) -> list[Tensor]:
            drawn = [draw(seeds[i : i + 1], 0) for i in range(len(seeds))]
            return [torch.cat([getattr(d, k) for d in drawn]) for k in ('context', 'targets')]

        def loop_tokens(tokenise: Any = tokenise, x: Tensor = x) -> list[Tensor]:
            return [torch.cat([tokenise(x[i : i + 1]) for i in range(len(x))])]

        def whole_tokens(tokenise: Any = tokenise, x: Tensor = x) -> list[Tensor]:
            return [tokenise(x)]

        for what, whole, loop in (
            ('masks', whole_masks, loop_masks),
            ('tokeniser', whole_tokens, loop_tokens),
        ):
            with torch.no_grad():
                pairs = zip(whole(), loop(), strict=True)
                if not all(torch.equal(a, b) for a, b in pairs):
                    raise RuntimeError(f'{what}, {name}: the loop gives something else')
                timed(whole, 10, device)  # memory that was never used is slow
                fast, slow = timed(whole, 50, device), timed(loop, 3, device)
            print(
                f'{what:10} {size} x {features:3}: {fast:8.2f} ms, loop {slow:8.1f} ms, '
                f'ratio {slow / fast:6.1f}'
            )


class Training:
    """A config's model and optimizer on random rows."""

    def __init__(self, name: str, args: argparse.Namespace):
        cfg = load_config(CONFIGS / f'{name}.py', args.options)
        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model).to(args.device).train()
        if cfg.compile:
            compile_blocks(self.model)
        wrapper = cfg.optim_wrapper
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(wrapper.pop('constructor'))
        self.optimizer = constructor(wrapper, wrapper.pop('paramwise_cfg'))(self.model)
        self.hook = TargetUpdateHook()
        self.hook.attach(self.model, self.optimizer.optimizer)
        self.table = Rows()
        self.table.rows = random_rows(cfg, TABLE_ROWS)
        self.table.row_numbers, self.table.table = np.arange(TABLE_ROWS), 'random'
        self.size, self.done = args.batch_size, 0
        self.features = self.table.rows.shape[1]

    def batch(self) -> dict:
        """The next one, on the device."""
        numbers = np.random.default_rng(self.done).integers(0, TABLE_ROWS, self.size).tolist()
        self.done += 1
        indices = [(n, sample_seed(0, self.done, p)) for p, n in enumerate(numbers)]
        data = self.table.__getitems__(indices)
        return self.model.data_preprocessor(data, True)['inputs']

    def step(self) -> None:
        """As the runner's, without hooks that only watch."""
        inputs = self.batch()
        loss = self.model.loss(inputs)['loss_prediction']
        self.optimizer.update_params(loss)
        self.hook.update(0.999)

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Calls by name; each waits for the one before."""
        kept: dict[str, Any] = {}
        model = self.model

        def load() -> None:
            kept['inputs'] = self.batch()

        def masks() -> None:
            kept['masks'] = model._draw(kept['inputs'])

        def target() -> None:
            kept['target'] = model._target_tokens(kept['inputs']['rows'])

        def context() -> None:
            rows, ids = kept['inputs']['rows'], kept['masks'].context
            kept['context'] = model.encoder(rows, ids)[:, model.encoder.num_reg :]

        def predictor() -> None:
            drawn = kept['masks']
            kept['prediction'] = model.predictor(kept['context'], drawn.context, drawn.targets)

        def backward() -> None:
            kept['prediction'].square().mean().backward()

        def update() -> None:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.hook.update(0.999)

        names = 'batch and copy, masks, target encoder, context encoder, predictor, backward pass'
        calls = (load, masks, target, context, predictor, backward, update)
        return dict(zip([*names.split(', '), 'optimizer and EMA'], calls, strict=True))


def whole_steps(name: str, args: argparse.Namespace) -> None:
    """Time of a step, and where it goes."""
    training = Training(name, args)
    count = args.steps
    for _ in range(max(3, count // 10)):
        training.step()
    # sizes of masks differ between steps: the mean counts
    taken = [timed(training.step, 1, args.device) for _ in range(count)]
    print(
        f'\nstep of {name}, {args.batch_size} x {training.features} on {args.device}: mean '
        f'{np.mean(taken):.1f} ms, median {np.median(taken):.1f}, 90 % below '
        f'{np.percentile(taken, 90):.1f} ({count} steps)'
    )
    sums = dict.fromkeys(parts := training.parts(), 0.0)
    for _ in range(count):
        for part, call in parts.items():
            sums[part] += timed(call, 1, args.device)
    total = sum(sums.values())
    for part, spent in sums.items():
        print(f'  {part:18} {spent / count:8.2f} ms  {100 * spent / total:4.1f} %')
    print(f'  {"one by one":18} {total / count:8.2f} ms')


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--batch-size', type=int, default=512)
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument(
        '--config', nargs='+', help='default: adult and california; on cuda: jannis'
    )
    options = 'KEY=VALUE of the config'
    parser.add_argument('--options', nargs='+', action=OptionAction, default={}, help=options)
    args = parser.parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        print('error: no CUDA device here', file=sys.stderr)
        return 1
    init_default_scope('mmjepa')
    torch.set_num_threads(1)
    default = ['adult', 'california'] if args.device == 'cpu' else ['jannis']
    with one_line_errors():
        against_loops(args)
        for name in args.config or default:
            whole_steps(name, args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
