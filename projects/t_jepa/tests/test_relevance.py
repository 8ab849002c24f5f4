"""Feature relevance: closed forms with a made-up model, and the tool on a toy table."""

import csv
import importlib.util
from types import SimpleNamespace

import pytest
import torch
from tjepa_cases import build
from toy_tables import CATEGORICAL, NUMERIC, write_toy

from projects.t_jepa.t_jepa.masks import FeatureSubsetMaskGenerator
from projects.t_jepa.t_jepa.relevance import MEASURES, relevance

COUNT = 6


class Oracle:
    """Latents are the row's numbers; without feature 0 in the context each prediction is 0."""

    semantics = 'paper'
    encoder = SimpleNamespace(tokenizer=SimpleNamespace(num_numeric=COUNT))

    def __init__(self):
        self.masks = FeatureSubsetMaskGenerator(COUNT, (0.34, 0.5), (0.2, 0.4), 2)

    def eval(self):
        return self

    def require_masks(self):
        return self.masks

    def extract_feat(self, inputs):
        return inputs['rows'][..., None].expand(-1, -1, 4)

    def target(self, encoder, rows):
        return self.extract_feat(dict(rows=rows))

    def inspect(self, inputs, masks):
        tokens = self.extract_feat(inputs)
        places = masks.targets.flatten(1)[..., None].expand(-1, -1, 4)
        target = tokens.gather(1, places).unflatten(1, masks.targets.shape[1:])
        knows = (masks.context == 0).any(1)[:, None, None, None]
        return dict(prediction=target * knows, target=target)


@pytest.fixture
def rows():
    x = torch.randn(400, COUNT, generator=torch.Generator().manual_seed(0))
    return (x - x.mean(0)) / x.std(0, unbiased=True) * torch.arange(1.0, COUNT + 1)


def test_closed_forms(rows):
    found = relevance(Oracle(), rows, draws=4, batch_size=128)
    assert list(found) == list(MEASURES)
    expected = torch.arange(1.0, COUNT + 1).double() ** 2
    torch.testing.assert_close(found['variance'], expected, rtol=1e-5, atol=0)
    # only feature 0 is missed: without it the error is the variance, with it nothing
    assert found['rise'][0] == pytest.approx(1, abs=0.1)
    assert found['rise'][1:].abs().max() == 0
    # feature 0 is the one thing that is never told by others
    assert found['error_from_all'][0] == pytest.approx(1, abs=0.01)
    assert found['error_from_all'][1:].abs().max() == 0
    assert found['lost'].max() < 1e-3  # the latents hold the numbers
    # in the share of contexts that lack feature 0
    assert found['error'][0] == pytest.approx(1, abs=0.1)
    assert (found['error'][1:] < 0.8).all() and (found['error'][1:] > 0.2).all()


def test_what_the_embedding_lost(rows):
    oracle = Oracle()
    noise = torch.randn(400, generator=torch.Generator().manual_seed(1))
    seen = rows.clone()
    seen[:, 2] = noise  # nothing of feature 2 is left
    seen[:, 4] = rows[:, 4] + rows[:, 4].std() * noise
    oracle.extract_feat = lambda inputs: seen[: len(inputs['rows']), :, None].expand(-1, -1, 4)
    lost = relevance(oracle, rows, draws=1, batch_size=400)['lost']
    assert lost[[0, 1, 3, 5]].max() < 1e-2
    # the noise on feature 4 can be told from the place of feature 2
    assert lost[2] == pytest.approx(1, abs=0.1) and lost[4] < 1e-2


def test_with_the_model_and_what_it_refuses(rows):
    model = build(COUNT)
    found = relevance(model, rows[:64], draws=2, batch_size=32)
    assert found['lost'].isnan().all()  # 32 rows, more numbers
    assert all(value.shape == (COUNT,) for value in found.values())
    assert all(value.isfinite().all() for name, value in found.items() if name != 'lost')
    again = relevance(model, rows[:64], draws=2, batch_size=32)
    assert all(torch.equal(found[name].nan_to_num(), again[name].nan_to_num()) for name in found)
    with pytest.raises(ValueError, match='never show the last feature'):
        relevance(build(COUNT, semantics='released'), rows)
    with pytest.raises(ValueError, match='at least two rows'):
        relevance(model, rows[:1])


def test_tool_writes_table_and_picture(repo, tmp_path, capsys):
    for package in ('pandas', 'xgboost', 'scipy', 'matplotlib'):
        pytest.importorskip(package)
    root, config = write_toy(tmp_path / 'data', 120), tmp_path / 'toy.py'
    config.write_text(
        f"_base_ = ['{repo}/projects/t_jepa/configs/_base_/t_jepa.py']\n"
        'channels = 8\n'
        'model = dict(encoder=dict(num_numeric=4, cardinalities=[5, 4]))\n'
        f"train_dataloader = dict(dataset=dict(data_root='{root}', table='toy.csv', "
        f"target='label', numeric={NUMERIC}, categorical={CATEGORICAL}, "
        'split=dict(test=0.25, val=0.2)))\n'
    )
    model = build(4, (5, 4), encoder=dict(channels=16, depth=4, ffn_channels=64),
                  predictor=dict(channels=16, depth=4, num_heads=4, ffn_channels=256))  # fmt: skip
    checkpoint = tmp_path / 'run' / 'iter_1.pth'
    checkpoint.parent.mkdir()
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    spec = importlib.util.spec_from_file_location(
        'tools_relevance', repo / 'projects/t_jepa/tools/relevance.py'
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main([str(config), str(checkpoint), '--reference', 'xgboost', '--draws', '1'])
    out = checkpoint.parent / 'relevance'
    table = list(csv.DictReader((out / 'relevance.csv').open()))
    assert {row['feature'] for row in table} == {*NUMERIC, *CATEGORICAL}
    assert list(table[0]) == ['feature', *MEASURES, 'xgboost']
    variances = [float(row['variance']) for row in table]
    assert variances == sorted(variances, reverse=True)
    assert sum(float(row['xgboost']) for row in table) == pytest.approx(1, abs=1e-4)
    assert (out / 'relevance.png').read_bytes().startswith(b'\x89PNG')
    assert 'variance: Kendall tau' in capsys.readouterr().out
