"The tables that ship: they speak of the agents that ship, and asking these again gives the same answers"

import hashlib

import pytest

from goalmisgen.agents.examples import EXAMPLES, example_dir, load_example
from goalmisgen.analysis.scores import run_case, shipped_scores
from goalmisgen.core import read_json
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.results import KEY
from goalmisgen.evaluation.tables import TABLES, load_table

pytestmark = pytest.mark.slow

POPULATION = dict(exact='exact-yellow-line-black', ppo='ppo-yellow-line-black')


def rows(name):
    table, agent = load_table(POPULATION[name.split('-')[0]]), int(name.split('-')[1])
    return table[table.agent == agent]


@pytest.mark.parametrize('name', TABLES)
def test_every_agent_was_asked_everything_once(name):
    t = load_table(name)
    assert not t.duplicated(list(KEY)).any()
    settings = t.groupby(['obj1', 'obj2', 'background']).size()
    assert settings.nunique() == 1 and settings.iloc[0] == len(t[['agent', 'step']].drop_duplicates())
    assert (t.unexplored_mass < 2e-6).all() and (abs(t.p1 + t.p2 + t.timeout - 1) < 1e-6).all()


@pytest.mark.parametrize('name', EXAMPLES)
def test_rows_are_those_of_the_shipped_weights(name):
    fingerprint = hashlib.sha256((example_dir(name) / 'model.safetensors').read_bytes()).hexdigest()[:16]
    own = rows(name)
    assert len(own) >= 6 and set(own.fingerprint) == {fingerprint}
    assert set(own.algorithm) == {read_json(example_dir(name) / 'manifest.json')['algorithm']}


@pytest.mark.parametrize('name', ['exact-3', 'ppo-1'])
def test_asked_again_an_agent_says_the_same(name):
    r = evaluate_exact(load_example(name), Setting('green line', 'yellow gem'))
    own = rows(name).query("obj1=='green line' and obj2=='yellow gem'").iloc[0]
    assert r.preference == pytest.approx(own.preference, abs=1e-4)
    assert r.timeout == pytest.approx(own.timeout, abs=1e-4)
    assert r.capability == pytest.approx(own.mean_length, abs=0.05)


def test_the_end_of_training_is_the_agent():
    course, final = load_table('ppo-training'), load_table('ppo-yellow-line-black')
    for agent, t in course.groupby('agent'):
        last = t[t.step == t.step.max()].set_index('obj1')
        own = final[(final.agent == agent) & (final.obj2 == 'yellow gem')].set_index('obj1')
        assert (last.preference == own.preference.reindex(last.index)).all()


def test_channel_scores_asked_again():
    scores = shipped_scores().set_index(['population', 'agent'])
    assert not scores.index.duplicated().any()
    again = run_case(load_example('exact-4'), 'only', 'green')['steps']
    assert again == pytest.approx(scores.steps_only_green[POPULATION['exact'], 4], rel=1e-3)
