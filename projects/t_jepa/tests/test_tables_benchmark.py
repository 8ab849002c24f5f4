"""The comparison: plan, cells, restart, report; in one process but for the slow test."""

import copy
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_tables import write_toy

pytest.importorskip('pandas')

from mmjepa.benchmark.label_efficiency.results import check_folders, claim
from mmjepa.engine.checkpoint import find_state_dict, load_file
from mmjepa.engine.config import ConfigError, load_config
from mmjepa.engine.hooks import LossGuardHook
from projects.t_jepa.t_jepa.benchmark.choices import Asked
from projects.t_jepa.t_jepa.benchmark.collapse import measure, state_of, verdict
from projects.t_jepa.t_jepa.benchmark.data import (
    dataset_of,
    encode,
    encoder_of,
    load_table,
    standardised,
)
from projects.t_jepa.t_jepa.benchmark.estimate import estimate_text
from projects.t_jepa.t_jepa.benchmark.evaluate import run_group, table_rows
from projects.t_jepa.t_jepa.benchmark.plan import GROUP, STATE, Source, make_plan
from projects.t_jepa.t_jepa.benchmark.report import difference, figure, write_report
from projects.t_jepa.t_jepa.training import Budget
from projects.t_jepa.t_jepa.trees import TreeBudget

TINY = ('channels=8', 'depth=1', 'predictor_depth=1', 'batch_size=16', 'log_interval=1')
CONFIG = """
_base_ = ['BASE']
data_root = 'ROOT'
model = dict(encoder=dict(num_numeric=3, cardinalities=[5, 4]))
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        table='toy.csv',
        numeric=['age', 'pay', 'size'],
        categorical=dict(job=4, town=3),
        split=dict(test=0.25, val=0.2, seed=0),
        LABEL
    )
)
"""
LABELS = {
    'kinds': "target='label', task='binclass', drop=['rate']",
    'numbers': "target='rate', task='regression', drop=['label']",
}


@pytest.fixture
def toy(repo, tmp_path):
    """Configs of a table: a class of two, and a number."""
    root = write_toy(tmp_path / 'data', 120)
    text = CONFIG.replace('BASE', str(repo / 'projects/t_jepa/configs/_base_/t_jepa.py'))
    paths = {name: tmp_path / f'{name}.py' for name in LABELS}
    for name, label in LABELS.items():
        paths[name].write_text(text.replace('ROOT', str(root)).replace('LABEL', label))
    return paths


def asked_of(toy, repo, folder, **changes):
    settings = dict(
        configs=toy,
        arms=('raw', 'random', 'tjepa'),
        models=('dcnv2',),
        seeds=range(2),
        folder=folder,
        tools=repo / 'tools',
        script=repo / 'projects/t_jepa/tools/benchmark.py',
        options=TINY,
        epochs=1,
        budget=Budget(32, 3, 3),
        trees=TreeBudget(10),
    )
    return Asked(**settings | changes)


def plan_of(asked):
    plan = make_plan([Source(name, path, asked) for name, path in asked.configs.items()], asked)
    check_folders([*plan.jobs, *(cell.job for cell in plan.cells)])
    plan.write_groups()
    return plan


def load_tool(path):
    spec = importlib.util.spec_from_file_location(f'tools_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def carry_out(plan, repo):
    """The jobs, here and one after the other."""
    train = load_tool(repo / 'tools/train.py')
    for job in plan.jobs:
        claim(job)
        if job.folder in plan.groups:
            run_group(job.folder / GROUP)
        else:
            train.main(list(job.words[1:]))
        assert job.product.is_file()


def test_from_plan_to_table_and_again(toy, repo, tmp_path):
    asked = asked_of(toy, repo, tmp_path / 'work', seeds=range(1))
    plan = plan_of(asked)
    assert len(plan.cells) == 2 * 3
    assert [job.kind.split()[0] for job in plan.jobs] == ['heads', 'heads', 'train', 'heads'] * 2
    carry_out(plan, repo)

    table, results, *_ = write_report(asked, plan, {})
    text = table.read_text()
    assert 'Rows: 72 train, 18 val, 30 test. Pre-training: 1 epochs, 4 steps of 16 of 72' in text
    assert text.count('| dcnv2 | linear_flatten | accuracy (%) | 1/1/1 |') == 1
    assert text.count("| dcnv2 | linear_flatten | RMSE, target's unit | 1/1/1 |") == 1
    assert text.count('Collapsed: less than') == 2
    rows = list(csv.DictReader(results.open()))
    assert [(r['dataset'], r['arm']) for r in rows] == [
        (name, arm) for name in toy for arm in ('raw', 'random', 'tjepa')
    ]
    for row in rows[3:]:  # the target's standard deviation links both errors
        ratio = float(row['rmse_unit']) / float(row['rmse'])
        assert ratio == pytest.approx(float(rows[3]['rmse_unit']) / float(rows[3]['rmse']))
    assert {p.name for p in asked.folder.glob('*.*')} >= {'results.json', 'spread.png'}
    state = json.loads((asked.folder / 'kinds/tjepa/seed_0' / STATE).read_text())
    assert len(state['trajectory']) == 4
    assert 0 < state['lowest'] <= min(state['start']['spread'], state['end']['spread'])

    # again: nothing is left; a lost cell comes back alone, another model is added
    assert plan_of(asked).jobs == ()
    lost = asked.folder / 'kinds/random/seed_0/dcnv2_linear_flatten/result.json'
    before = json.loads(lost.read_text())
    lost.unlink()
    left = plan_of(asked)
    assert [job.product for job in left.jobs] == [lost]
    carry_out(left, repo)
    again = json.loads(lost.read_text())
    assert again['metrics'] == before['metrics']
    more = asked_of(toy, repo, asked.folder, seeds=range(1), models=('dcnv2', 'autoint'))
    assert [len(group['cells']) for group in plan_of(more).groups.values()] == [1] * 6

    # other settings are refused
    other = asked_of(toy, repo, asked.folder, seeds=range(1), budget=Budget(32, 4, 3))
    with pytest.raises(ValueError, match='run of other settings: budget.max_epochs: 3 -> 4'):
        plan_of(other)
    longer = asked_of(toy, repo, asked.folder, seeds=range(1), epochs=2)
    with pytest.raises(ValueError, match='run of other settings'):
        plan_of(longer)


def test_random_arm_has_the_weights_from_which_the_training_starts(
    toy, repo, tmp_path, monkeypatch
):
    seen = {}

    def before_train(self, runner):
        seen.update({k: v.clone() for k, v in runner.bare_model.state_dict().items()})

    monkeypatch.setattr(LossGuardHook, 'before_train', before_train, raising=False)
    asked = asked_of(toy, repo, tmp_path / 'work', arms=('tjepa',), seeds=[3])
    source = Source('kinds', toy['kinds'], asked)
    job = source.pretraining(3)
    load_tool(repo / 'tools/train.py').main(list(job.words[1:]))
    untrained = encoder_of(source.config, None, 3).state_dict()
    assert seen.keys() == untrained.keys()
    assert all(torch.equal(seen[key], untrained[key]) for key in seen)
    other = encoder_of(source.config, None, 4).state_dict()
    assert not torch.equal(other['encoder.tokenizer.weight'], seen['encoder.tokenizer.weight'])

    # it can stand for the pre-training of another comparison
    given = {'kinds': str(job.product).replace('seed_3', 'seed_{seed}')}
    other = asked_of(toy, repo, tmp_path / 'other', arms=('tjepa',), seeds=[3], checkpoints=given)
    kinds, numbers = other.configs
    plan = plan_of(replace(other, configs={kinds: toy[kinds]}))
    (group,) = plan.groups.values()
    assert group['checkpoint'] == str(job.product)
    assert len(plan.jobs) == 1
    with pytest.raises(FileNotFoundError, match='seed_4'):
        plan_of(replace(other, seeds=[4]))
    with pytest.raises(ConfigError, match='not among --datasets'):
        replace(other, configs={numbers: toy[numbers]})

    # rows must be those of the training
    assert load_table(dataset_of(source.config), checkpoint=job.product).counts()['train'] == 72
    scaled = copy.deepcopy(source.config)
    scaled.train_dataloader.dataset.num_scaler = 'minmax'
    with pytest.raises(ConfigError, match=r'prepared otherwise \(num_scaler, scale of'):
        load_table(dataset_of(scaled), checkpoint=job.product)

    # which encoder, and with or without [REG]
    state, _ = find_state_dict(load_file(job.product))
    model = encoder_of(source.config, job.product, 3, keep_reg=True)
    assert torch.equal(model.encoder.tokenizer.weight, state['encoder.tokenizer.weight'])
    rows = dataset_of(source.config).rows
    context = encode(model, rows)
    target = encode(encoder_of(source.config, job.product, 3, features='target'), rows)
    assert (context.shape[1], target.shape[1]) == (6, 5)
    assert not torch.allclose(context[:, 1:], target)


def test_only_the_training_part_is_looked_at(toy):
    table = load_table(dataset_of(load_config(toy['numbers'])))
    assert table.counts() == dict(train=72, val=18, test=30)
    assert table.names == ('age', 'pay', 'size', 'job', 'town')
    train = table.targets['train'].double()
    assert train.mean() == pytest.approx(0, abs=1e-6)
    assert train.std(unbiased=False) == pytest.approx(1, abs=1e-6)
    tokens = {part: torch.randn(len(rows), 4, 2) * 5 + 3 for part, rows in table.rows.items()}
    scaled = standardised(tokens)
    moved = standardised(tokens | dict(test=tokens['test'] * 100))
    assert torch.equal(moved['train'], scaled['train'])
    flat = scaled['train'].flatten(1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(0, unbiased=False), torch.ones(8))


def test_what_tables_models_see(toy, repo, tmp_path):
    asked = asked_of(toy, repo, tmp_path, models=('linear',), arms=('raw', 'random'), flat='mean')
    cells = plan_of(asked).cells
    table = load_table(dataset_of(load_config(toy['kinds'])))
    tokens = {part: torch.randn(len(rows), 5, 8) for part, rows in table.rows.items()}
    raw, encoded = cells[0], cells[1]
    assert (raw.projection, encoded.projection) == ('', 'mean')
    assert table_rows(raw, table, None)[0]['test'].shape == (30, 3 + 4 + 3)  # one-hot
    torch.testing.assert_close(
        table_rows(encoded, table, tokens)[0]['test'], tokens['test'].mean(1)
    )


def test_estimate_names_what_is_left(toy, repo, tmp_path):
    asked = asked_of(toy, repo, tmp_path, models=('dcnv2', 'autoint'), arms=('raw', 'random'))
    plan = plan_of(asked)
    sources = [Source(name, path, asked) for name, path in toy.items()]
    *lines, total, parallel = estimate_text(asked, plan, sources, 2).splitlines()
    left = {line[:50].strip(): int(line[50:56]) for line in lines[1:]}
    assert left['kinds raw dcnv2'] == left['numbers encoded autoint linear_flatten'] == 2
    assert left['starting and encoding'] == 8
    assert sum(left.values()) == 2 * 2 * 2 * 2 + 8
    assert total.startswith('total: 0:0')
    assert 'with 3 epochs of networks (at most 3)' in total
    assert parallel.startswith('with --jobs 2: 0:0')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(models=('mpl',)), "--models: no 'mpl'; there are mlp, resnet"),
        (dict(arms=('untrained',)), "--arms: no 'untrained'"),
        (dict(options=('seed=1',)), 'give --seeds instead'),
        (dict(options=('batch_size',)), 'give KEY=VALUE instead'),
        (dict(epochs=0), 'at least 1'),
    ],
)
def test_bad_choices_are_refused(toy, repo, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        asked_of(toy, repo, tmp_path, **changes)


def test_missing_packages_are_refused_before_anything_starts(toy, repo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'catboost', None)
    with pytest.raises(ConfigError, match='--models catboost: .* pip install catboost'):
        asked_of(toy, repo, tmp_path, models=('catboost',))


def test_tables_without_a_part_or_label_are_refused(toy):
    config = load_config(toy['kinds'])
    config.train_dataloader.dataset.split = dict(test=0.2)
    with pytest.raises(ConfigError, match=r"needs parts \['val'\] of its split"):
        dataset_of(config)
    config = load_config(toy['kinds'])
    config.train_dataloader.dataset.update(target=None, task=None, drop=['label', 'rate'])
    with pytest.raises(ConfigError, match='needs target and task'):
        dataset_of(config)


def test_collapse_states():
    rows = torch.randn(300, 1, 8).expand(-1, 4, -1)
    found = measure(rows)
    assert found['spread'] == pytest.approx(1, abs=0.05)
    assert found['rank'] == pytest.approx(8, abs=0.5)  # tokens are copies
    flat = measure(rows * 1e-3 + 1)
    assert flat['spread'] == pytest.approx(1e-3, rel=0.05)
    assert found['uniformity'] < -1 < -1e-3 < flat['uniformity'] < 0
    assert [verdict(r) for r in (0.05, 0.5, 3)] == ['collapsed', 'below its start', 'escaped']
    state = state_of(found, flat, [(50, 0.5), (100, 1e-4), (150, 1e-3)])
    assert (state['lowest'], state['lowest_step'], state['verdict']) == (1e-4, 100, 'collapsed')


def test_figures_and_differences():
    assert figure([85.123, 85.323], 2) == '85.22 +- 0.14'
    assert figure([50_500.4, 50_600.4], 4) == '50,550 +- 71'
    assert figure([0.45678], 4) == '0.4568'
    assert figure([], 2) == '-'
    assert difference([86.0, 86.2], [85.0, 85.4], 2) == '+0.90 (+3.2)'
    assert difference([86.0], [85.0], 2) == '+1.00'


@pytest.mark.slow
def test_command_runs_estimates_and_goes_on(toy, repo, tmp_path):
    """Both kinds of job as processes, two at a time, stopped once."""
    words = [sys.executable, str(repo / 'projects/t_jepa/tools/benchmark.py'), '--datasets']
    words += [f'kinds={toy["kinds"]}', '--models', 'dcnv2', '--seeds', '1', '--jobs', '2']
    words += ['--epochs', '1', '--head-epochs', '2', '--work-dir', str(tmp_path / 'work')]
    words += ['--cfg-options', *TINY]
    options = dict(capture_output=True, text=True, check=False, env=dict(os.environ))
    budget = subprocess.run([*words, '--budget'], **options)
    assert budget.returncode == 0, budget.stderr
    assert 'train T-JEPA on kinds' in budget.stdout
    assert 'with --jobs 2:' in budget.stdout
    assert not list((tmp_path / 'work').glob('kinds/*'))

    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if ' done ' in line:
            process.send_signal(signal.SIGINT)
            break
    assert process.wait(60) == 1
    again = subprocess.run(words, **options)
    assert again.returncode == 0, again.stderr
    assert '3/3 cells' in again.stderr
    assert '| dcnv2 | linear_flatten | accuracy (%) | 1/1/1 |' in again.stdout
    assert len(list(Path(tmp_path / 'work').glob('kinds/*/seed_*/dcnv2*/result.json'))) == 3
