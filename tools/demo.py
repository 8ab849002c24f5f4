"""From nothing to a probed encoder: simulate LiDAR, pre-train AD-L-JEPA, probe it, draw it.

python tools/demo.py [--out work_dirs/demo] [--frames 240] [--iters 300] [--seed 0]

Every step is a command that works on your own data too; it is printed before it runs.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mmjepa.evaluation.probes.report import headline

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/adl_jepa/kitti.py'
# 64 x 64 BEV cells of 0.8 m in front of the car, instead of 200 x 176 of 0.4 m
GRID = ('point_cloud_range=[0,-25.6,-3,51.2,25.6,1]', 'voxel_size=[0.1,0.1,0.1]')


def run(title: str, *command: str) -> float:
    """Print and run a tool; its output goes to the terminal as it comes."""
    print(f'\n=== {title}\n$ python {shlex.join(command)}', flush=True)
    start = time.time()
    code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(f'{command[0]} ended with exit code {code}')
    return time.time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', default='work_dirs/demo', help='folder (default: %(default)s)')
    parser.add_argument('--frames', type=int, default=240, help='simulated (default: %(default)s)')
    parser.add_argument('--iters', type=int, default=300, help='of training (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    out = Path(args.out).resolve()
    data, run_dir = out / 'kitti_sim', out / 'adl_jepa'
    options = [f'data_root={data}', *GRID, f'seed={args.seed}']

    start = time.time()
    run(
        f'1/4 simulate {args.frames} LiDAR frames in KITTI format',
        'tools/create_data.py', 'sim-kitti', '--out', str(data), '--frames', str(args.frames),
        '--seed', str(args.seed), '--frustum-only', '--overwrite',
    )  # fmt: skip
    run(
        '2/4 pre-train AD-L-JEPA without labels',
        'tools/train.py', CONFIG, '--work-dir', str(run_dir), '--overwrite',
        '--cfg-options', *options,
        f'max_iters={args.iters}', 'batch_size=2', 'num_workers=1', 'log_interval=10',
    )  # fmt: skip
    checkpoint = run_dir / f'iter_{args.iters}.pth'
    run(
        '3/4 probe frozen BEV features: untrained, hand-made, pre-trained',
        'tools/probe.py', CONFIG, str(checkpoint), '--protocol', 'both', '--seeds', str(args.seed),
        '--arms', 'untrained', 'handmade', 'checkpoint', '--cfg-options', *options,
    )  # fmt: skip
    sweep = sorted((data / 'training/velodyne').glob('*.bin'))[-1]
    run(
        '4/4 draw what the encoder sees',
        'tools/visualize.py', CONFIG, str(checkpoint), '--input', str(sweep),
        '--out', str(out / 'sweep.png'), '--curves', str(run_dir), '--cfg-options', *options,
    )  # fmt: skip

    results = json.loads((run_dir / 'probe_bev_cells.json').read_text())
    print(f'\n=== done in {time.time() - start:.0f} s')
    for protocol in ('linear', 'knn'):
        handmade = results['protocols'][protocol]['handmade']['mean']
        print(f'{headline(results, protocol)}  (hand-made statistics {100 * handmade:.1f} %)')
    print(f'checkpoint   {checkpoint}  (its config: {run_dir / "kitti.py"})')
    print(f'pictures     {out / "sweep.png"}  {run_dir / "curves.png"}')
    print(f'logs         {run_dir}  (tensorboard --logdir {run_dir})')
    print(f'probe table  {run_dir / "probe_bev_cells.csv"}')


if __name__ == '__main__':
    main()
