"""The label-efficiency experiment: arms, plan, what configs and data say; no training."""

import json
from collections import Counter
from pathlib import Path

import pytest
from label_efficiency_fakes import (
    SCRATCH,
    TOOLS,
    choices,
    found,
    plan,
)

from mmjepa.benchmark.label_efficiency.arms import Arm, check_checkpoints, parse_arms
from mmjepa.benchmark.label_efficiency.choices import check_choices
from mmjepa.benchmark.label_efficiency.files import PlanError, write_json

# --------------------------------------------------------------------------------------------- arms


def test_arms_by_name_config_and_checkpoint(repo, tmp_path):
    config = tmp_path / 'mine.py'
    config.touch()
    words = ['scratch', 'adl_jepa', 'bev_mae', f'mine={config}', 'theirs=runs/{seed}/last.pth']
    scratch, jepa, bev, mine, theirs = parse_arms(words, repo)
    assert scratch == SCRATCH
    assert jepa.config == repo / 'configs/adl_jepa/kitti.py'
    assert bev.config.is_file() and 'lidar_baselines' in str(bev.config)
    assert mine == Arm('mine', config=config)
    assert theirs.config is None
    assert theirs.checkpoint_of(7) == tmp_path / 'runs/7/last.pth'  # tests run in tmp_path
    assert scratch.checkpoint_of(7) is None


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['adljepa'], "unknown arm 'adljepa'; nearest: adl_jepa"),
        (['scratch', 'scratch'], 'scratch given twice'),
        (['scratch=a.pth'], 'take another name'),
        (['a/b=c.pth'], 'letters, digits'),
        (['mine='], 'NAME=config.py or'),
        (['mine=configs/nothing.py'], 'no config file configs/nothing.py'),
    ],
)
def test_wrong_arms(words, message, repo):
    with pytest.raises(PlanError, match=message):
        parse_arms(words, repo)


def test_missing_checkpoint_names_its_seed(tmp_path):
    (tmp_path / 'a0.pth').write_bytes(b'x')
    arms = (SCRATCH, Arm('mine', checkpoint=str(tmp_path / 'a{seed}.pth')))
    assert list(check_checkpoints(arms, [0])) == [str(tmp_path / 'a0.pth')]
    with pytest.raises(PlanError, match='for seed 1'):
        check_checkpoints(arms, [0, 1])


# --------------------------------------------------------------------------------------------- plan


def test_plan_has_every_cell_with_equal_iterations(tmp_path):
    a_plan = plan(tmp_path)
    check_choices(a_plan.choices)
    assert Counter(job.stage for job in a_plan.jobs) == {'pretrain': 3, 'finetune': 18}
    by_cell = {}
    for job in a_plan.cells:
        by_cell.setdefault((job.fraction, job.multiple), set()).add((job.iterations, job.frames))
    assert by_cell == {
        (0.05, 1.0): {(1600, 20)},
        (0.05, 2.0): {(3200, 20)},  # the long cells: at the smallest fraction only
        (1.0, 1.0): {(8000, 400)},
    }
    assert len({job.folder for job in a_plan.jobs}) == len({job.hash for job in a_plan.jobs}) == 21
    # seed after seed, pre-training before what needs it
    seeds = [job.seed for job in a_plan.jobs]
    assert seeds == sorted(seeds)
    seen = set()
    for job in a_plan.jobs:
        assert job.needs is None or job.needs in seen
        assert (job.needs is None) == (job.arm == 'scratch' or job.stage == 'pretrain')
        seen.add(job.folder)


def test_plan_follows_the_numbers_given(tmp_path):
    a_plan = plan(tmp_path, finetune_iters=(100, 400), pretrain_iters=50, long=None, seeds=(4,))
    assert [(j.fraction, j.iterations) for j in a_plan.cells] == [(0.05, 100)] * 2 + [(1, 400)] * 2
    assert a_plan.jobs[0].iterations == 50
    assert {job.seed for job in a_plan.jobs} == {4}
    assert {j.iterations for j in plan(tmp_path, finetune_iters=(9,), long=None).cells} == {9}


def test_commands_carry_shared_options_and_the_checkpoint(tmp_path):
    a_plan = plan(
        tmp_path,
        grid=('voxel_size=[0.1,0.1,0.1]',),
        batch_size=2,
        num_workers=1,
        pretrain_options=('mask_ratio=0.75',),
        finetune_options=('encoder_lr_mult=0.5', 'log_interval=5'),
    )
    pretraining, scratch, jepa = (a_plan.jobs[0], *a_plan.cells[:2])
    for job in (pretraining, scratch, jepa):
        words = job.command(TOOLS)
        assert words[:4] == ['tools/train.py', str(job.config), '--work-dir', str(job.folder)]
        assert words[4:6] == ['--resume', '--cfg-options']
        expected = {'data_root=data', 'voxel_size=[0.1,0.1,0.1]', 'batch_size=2', 'num_workers=1'}
        assert expected < set(words)
        assert f'seed={job.seed}' in words and f'max_iters={job.iterations}' in words
    assert 'mask_ratio=0.75' in pretraining.options
    assert 'mask_ratio=0.75' not in jepa.options
    assert {'encoder_lr_mult=0.5', 'log_interval=5', 'label_fraction=0.05'} < set(jepa.options)
    assert f'val_interval={jepa.iterations}' in jepa.options  # one validation, at the end
    assert 'jepa_checkpoint=None' in scratch.options
    assert f'jepa_checkpoint={pretraining.folder / "iter_3000.pth"}' in jepa.options
    own = plan(tmp_path, finetune_options=('val_interval=3',)).cells[0]
    assert [o for o in own.options if o.startswith('val_interval')] == ['val_interval=3']


def test_hash_tells_what_matters(tmp_path):
    def hashes(**changes):
        jobs = plan(tmp_path, seeds=(0,), **changes).jobs
        return {job.title: job.hash for job in jobs}

    usual = hashes()
    assert hashes(num_workers=1, finetune_options=('log_interval=1',)) == usual
    other = hashes(pretrain_iters=10)
    same = {title for title in usual if other[title] == usual[title]}
    assert same == {t for t in usual if t.startswith('scratch')}
    told = found(resolved=dict(model=dict(type='VoxelNet', lr=0.001)))
    changed = {title for title, value in hashes(told=told).items() if value != usual[title]}
    assert changed == {title for title in usual if not title.startswith('pre-train')}


def test_arm_with_a_checkpoint_of_its_own(tmp_path):
    path = tmp_path / 'a.pth'
    arm = Arm('mine', checkpoint=str(path))
    jobs = plan(tmp_path, arms=(SCRATCH, arm), fingerprints={str(path): 'f1'}).jobs
    assert all(job.stage == 'finetune' and job.needs is None for job in jobs)
    other = plan(tmp_path, arms=(SCRATCH, arm), fingerprints={str(path): 'f2'}).jobs
    assert [a.arm for a, b in zip(jobs, other, strict=True) if a.hash != b.hash] == ['mine'] * 9


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(fractions=(0.0, 1.0)), r'--fractions: each must lie in \(0, 1\]'),
        (dict(fractions=(0.5, 0.5)), 'given twice'),
        (dict(seeds=()), '--seeds must be at least 1'),
        (dict(long=1.0), '--long must be above 1'),
        (dict(pretrain_iters=0), 'at least 1'),
        (dict(finetune_iters=(1, 2, 3)), 'one for each of the 2 fractions'),
        (dict(finetune_options=('max_iters=4',)), '--finetune-iters says it already'),
        (dict(pretrain_options=('seed=4',)), '--seeds says it already'),
        (dict(grid=('voxel_size=1',), pretrain_options=('voxel_size=2',)), '--grid says it'),
        (dict(batch_size=2, finetune_options=('batch_size=4',)), '--batch-size says it'),
        (dict(grid=('voxel_size',)), 'give KEY=VALUE'),
    ],
)
def test_impossible_choices(changes, message, tmp_path):
    with pytest.raises(PlanError, match=message):
        check_choices(choices(tmp_path, **changes))


# ------------------------------------------------------------------------------------------ examine

GRID = ['point_cloud_range=[0,-25.6,-3,51.2,25.6,1]', 'voxel_size=[0.2,0.2,0.1]']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    from mm3d_scenes import write_kitti

    root = tmp_path_factory.mktemp('kitti') / 'data'
    write_kitti(root, frames=4)
    return root


def request_for(repo, data, *pretrain, fractions=(0.5, 1.0), grid=GRID, config=None):
    config = config or repo / 'configs/downstream/mmdet3d/second_kitti_paper.py'
    shared = [f'data_root={data}', 'batch_size=2']
    return dict(
        data=str(data),
        fractions=fractions,
        pretraining=dict(
            jepa=dict(
                config=str(repo / 'configs/adl_jepa/kitti.py'), options=[*shared, *grid, *pretrain]
            )
        ),
        finetuning=dict(config=str(config), options=[*shared, *GRID]),
    )


def test_examination_reads_configs_and_data(repo, data):
    pytest.importorskip('mmdet3d.models', exc_type=ImportError)
    from mmjepa.benchmark.label_efficiency.examine import examine
    from mmjepa.engine.config import ConfigError, load_config
    from mmjepa.engine.finetune import apply_label_fraction

    request = json.loads(json.dumps(request_for(repo, data, fractions=(0.25, 0.5, 1.0))))
    told = json.loads(json.dumps(examine(request)))
    finetuning, pretraining = told['finetuning'], told['pretraining']['jepa']
    assert finetuning['frames'] == [1, 2, 4] and finetuning['train_frames'] == 4
    assert finetuning['iterations'] == [320, 160, 160]  # epochs x frames / batch
    assert pretraining['frames'] == 4 and pretraining['iterations'] == 60
    assert str(data) not in json.dumps(told) and '<data>' in json.dumps(finetuning['resolved'])
    assert all('cannot exceed' in note for note in told['notes']) and len(told['notes']) == 3
    # the same number of epochs as a run by epochs would have
    config = load_config(request['finetuning']['config'], dict(data_root=str(data)))
    config.label_fraction, config.work_dir = 0.25, '.'
    apply_label_fraction(config)
    assert config.train_cfg.max_epochs == finetuning['iterations'][0]

    asked = request_for(repo, data, 'split=trainval', 'gt_sampling=True')
    notes = ' '.join(examine(asked)['notes'])
    assert "pre-trains on the split 'trainval'" in notes and 'reads all train labels' in notes
    with pytest.raises(ConfigError, match=r'voxel_size is \[0.1, .* --grid voxel_size'):
        examine(request_for(repo, data, grid=[GRID[0], 'voxel_size=[0.1,0.1,0.1]']))
    with pytest.raises(ConfigError, match='mmjepa.KittiAPMetric'):
        examine(request_for(repo, data, config=_other_metric(repo)))
    with pytest.raises(ValueError, match='leaves none of 4 frames'):
        examine(request_for(repo, data, fractions=(0.1,)))


def _other_metric(repo):
    path = Path('other.py')
    base = repo / 'configs/downstream/mmdet3d/second_kitti_paper.py'
    path.write_text(f"_base_ = ['{base}']\nval_evaluator = dict(recall=(11,))\n")
    return path


def test_notes_on_the_validation_set(data, monkeypatch):
    from mmjepa.benchmark.label_efficiency import examine

    path = data / 'kitti_infos_val.pkl'
    notes = examine.object_notes(path, ['Car', 'Cyclist'], [0, -40, -3, 70, 40, 1])
    assert len(notes) == 2 and notes[0].startswith('Car: only ')
    assert 'R40 cannot exceed' in notes[0]
    monkeypatch.setattr(examine, 'ENOUGH', 1)
    assert examine.object_notes(path, ['Car'], [0, -40, -3, 70, 40, 1]) == []
    (note,) = examine.object_notes(path, ['Car'], [0, -40, -3, 20, 40, 1])
    assert 'lie outside the grid' in note


def test_atomic_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match='JSON'):
        write_json(tmp_path / 'a.json', dict(a=float('nan')))
    assert list(tmp_path.iterdir()) == []
