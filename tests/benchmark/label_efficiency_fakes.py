"""A plan without data, and tools/train.py and tools/test.py that take no time."""

import json
from dataclasses import replace
from pathlib import Path

from mmjepa.benchmark.label_efficiency import run
from mmjepa.benchmark.label_efficiency.choices import Arm, Choices
from mmjepa.benchmark.label_efficiency.examine import Found, Stage
from mmjepa.benchmark.label_efficiency.plan import make_plan

SCRATCH, JEPA = Arm('scratch'), Arm('adl_jepa', config=Path('adl_jepa.py'))

# what to do is in todo.json beside it, by the last two parts of the run's folder
TOOL = """
import json, pathlib, signal, sys, time
tool, words = pathlib.Path(sys.argv[0]), sys.argv[1:]
folder = pathlib.Path(words[words.index('--work-dir') + 1])
options = dict(word.split('=', 1) for word in words[words.index('--cfg-options') + 1 :])
run = folder.parent if tool.name == 'test.py' else folder
name = '/'.join(run.parts[-2:])
todo = json.loads((tool.parent / 'todo.json').read_text()).get(name)

def stop(*_):
    (folder / 'iter_1.pth').touch()
    sys.exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if todo == 'deaf' else stop)
with (tool.parent / 'started').open('a') as file:
    file.write(f'{tool.name} {name}\\n')
print('epoch 1\\n\\nthe last line', flush=True)
if todo == 'fail':
    sys.exit(3)
if todo in ('wait', 'deaf'):
    time.sleep(60)
if todo == 'stop':
    stop()
if tool.name == 'train.py':
    (folder / f'iter_{options["max_iters"]}.pth').touch()
if 'label_fraction' in options and (todo != 'unvalidated' or tool.name == 'test.py'):
    car = 40 + 30 * float(options['label_fraction']) + int(options['seed'])
    car += 5 * (options['jepa_checkpoint'] != 'None')
    aps = dict(Car=car, Pedestrian=car - 10, Cyclist=car - 20, mean=car - 10)
    row = {f'kitti/{name}_3d_ap40_moderate': ap for name, ap in aps.items()}
    row |= {'kitti/Car_num_gt_easy': 7, 'step': int(options['max_iters']), 'time': 0.25}
    log = 'vis_data/scalars.json' if tool.name == 'train.py' else '20260101_000000.json'
    path = folder / '20260101_000000' / log
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dict(iter=1, step=1, time=0.5)) + '\\n' + json.dumps(row) + '\\n')
"""


def found(notes=(), **finetuning):
    """What an examination would tell: 400 train frames, batch 4."""
    pretraining = Stage(dict(type='ADLJEPA'), {'train.txt': 'abc'}, 4, [400], [3000])
    resolved = dict(model=dict(type='VoxelNet', lr=0.003))
    cells = Stage(resolved, {'infos.pkl': 'def'}, 4, [20, 400], [1600, 8000], 200)
    return Found(dict(adl_jepa=pretraining), replace(cells, **finetuning), notes)


def choices(work_dir, **changes):
    given = dict(tools=Path('tools').absolute(), data=Path('data'), config=Path('second.py'))
    given |= dict(fractions=[0.05, 1.0], seeds=range(3), arms=[SCRATCH, JEPA])
    return Choices(**(given | dict(work_dir=Path(work_dir)) | changes))


def plan(work_dir, told=None, **changes):
    return make_plan(choices(work_dir, **changes), told or found())


def carry_out(a_plan, parallel=1, **todo):
    """Run a plan with tools that do what is asked for some folders; which tools were started."""
    tools = a_plan.choices.tools
    tools.mkdir(exist_ok=True)
    (tools / 'train.py').write_text(TOOL)
    (tools / 'test.py').write_text(TOOL)
    (tools / 'todo.json').write_text(json.dumps(todo))
    (tools / 'started').write_text('')
    runs = run.PlanRun(a_plan, parallel)
    runs.run()
    return runs, (tools / 'started').read_text().splitlines()


def name_of(job):
    return '/'.join(job.folder.parts[-2:])
