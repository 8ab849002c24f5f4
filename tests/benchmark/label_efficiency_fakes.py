"""A plan without data, and jobs that take no time."""

import json
from pathlib import Path

from mmjepa.benchmark.label_efficiency.arms import Arm
from mmjepa.benchmark.label_efficiency.choices import Choices
from mmjepa.benchmark.label_efficiency.plan import make_plan
from mmjepa.benchmark.label_efficiency.run import PlanRun

TOOLS = Path('tools')
SCRATCH, JEPA = Arm('scratch'), Arm('adl_jepa', config=Path('adl_jepa.py'))


def found(fractions=(0.05, 1.0), **finetuning):
    """What an examination would tell: 400 train frames, batch 4."""
    frames = [int(400 * f) for f in fractions]
    return dict(
        pretraining=dict(
            adl_jepa=dict(
                resolved=dict(model=dict(type='ADLJEPA')),
                data={'ImageSets/train.txt': 'abc'},
                iterations=3000,
                frames=400,
                batch_size=4,
            )
        ),
        finetuning=dict(
            dict(
                resolved=dict(model=dict(type='VoxelNet', lr=0.003)),
                data={'kitti_infos_train.pkl': 'def'},
                batch_size=4,
                train_frames=400,
                val_frames=200,
                frames=frames,
                iterations=[320 * 5, 80 * 100][-len(fractions) :],
            ),
            **finetuning,
        ),
        notes=[],
    )


def choices(work_dir, **changes):
    return Choices(
        **dict(
            dict(
                data=Path('data'),
                fractions=(0.05, 1.0),
                seeds=(0, 1, 2),
                arms=(SCRATCH, JEPA),
                config=Path('second.py'),
                work_dir=Path(work_dir),
            ),
            **changes,
        )
    )


def plan(work_dir, told=None, fingerprints=None, **changes):
    asked = choices(work_dir, **changes)
    return make_plan(asked, told or found(asked.fractions), fingerprints)


def metrics_of(job):
    """Made-up figures: more labels, pre-training and other seeds change them."""
    car = 40 + 30 * job.fraction + 5 * (job.arm != 'scratch') + job.seed
    by_class = {'Car': car, 'Pedestrian': car - 10, 'Cyclist': car - 20}
    figures = {f'kitti/{name}_3d_ap40_moderate': value for name, value in by_class.items()}
    return {**figures, 'kitti/mean_3d_ap40_moderate': car - 10.0, 'kitti/Car_num_gt_easy': 7}


def write_scalars(folder, *rows, stamp='20260101_000000'):
    path = folder / stamp / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


class FakeLaunch:
    """Carries out commands at once; a job's folder decides what else can happen.

    Args:
        jobs: of the plan.
        fail: titles of jobs that end with exit code 3.
        unvalidated: titles of jobs that end after their last iteration.
        stopped: titles of jobs that save and leave before.
        polls: looks at a process before it has ended.
    """

    def __init__(self, jobs, fail=(), unvalidated=(), stopped=(), polls=1):
        self.jobs = {job.folder: job for job in jobs}
        self.fail, self.unvalidated, self.stopped = set(fail), set(unvalidated), set(stopped)
        self.polls = polls
        self.started, self.commands, self.alive, self.most = [], [], 0, 0
        self.told_to_stop, self.killed, self.interrupt_at = [], [], None

    def __call__(self, command, folder):
        job = self.jobs[folder]
        self.started.append(job.title)
        self.commands.append(list(command))
        self.alive += 1
        self.most = max(self.most, self.alive)
        return _FakeProcess(self, job, Path(command[0]).name)

    def work(self, job, tool):
        (job.folder / 'output.log').write_text(f'epoch 1\n\n{job.title}: the last line\n')
        if job.title in self.fail:
            return 3
        if job.title in self.stopped:
            (job.folder / 'iter_1.pth').touch()
            return 0
        job.last_checkpoint.touch()
        if tool == 'test.py':
            path = job.folder / 'evaluation/20260101_000000/20260101_000000.json'
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(metrics_of(job)))
        elif job.stage == 'finetune' and job.title not in self.unvalidated:
            row = dict(metrics_of(job), step=job.iterations)
            write_scalars(job.folder, dict(loss=1.0, iter=50, step=50), row)
        return 0


class _FakeProcess:
    def __init__(self, launch, job, tool):
        self.launch, self.job, self.tool = launch, job, tool
        self.left, self.code = launch.polls, None

    def poll(self):
        if self.code is None:
            if self.launch.interrupt_at == self.job.title:
                self.launch.interrupt_at = None
                raise KeyboardInterrupt
            self.left -= 1
            if self.left < 0:
                self.code = self.launch.work(self.job, self.tool)
                self.launch.alive -= 1
        return self.code

    def stop(self):
        self.launch.told_to_stop.append(self.job.title)
        self.left = 0

    def kill(self):
        self.launch.killed.append(self.job.title)


def carry_out(a_plan, launch=None, **settings):
    launch = launch or FakeLaunch(a_plan.jobs)
    lines = []
    run = PlanRun(a_plan.jobs, TOOLS, launch, say=lines.append, pause=0, **settings)
    outcome = run.run()
    return outcome, launch, lines
