"Answers that are kept: under every name, for every question, beside everybody else's, and never a wrong one"

import json
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.examples import example_dir
from goalmisgen.agents.impala import Policy, save_policy
from goalmisgen.jobs import Outcome
from goalmisgen.evaluation import population as populations
from goalmisgen.evaluation.agents import AgentFile, agent_files
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.questions import PUBLISHED_SEEDS, Setting, evaluation_levels, seed_range
from goalmisgen.evaluation.files import check_output, locked, read_cells, write_table
from goalmisgen.evaluation.population import by_step, evaluate_population, find_agents
from goalmisgen.evaluation.protocol import Protocol, ResultsFile, evaluate_agent, row_key
from goalmisgen.evaluation.results import (
    COLUMNS,
    Result,
    columns_of_version,
    read_lengths,
    read_results,
    result_key,
    to_row,
    to_table,
    write_lengths,
    write_results,
)
from goalmisgen.evaluation.sampled import evaluate_sampled
from goalmisgen.evaluation.settings import settings_for
from goalmisgen.evaluation.tables import TABLES, load_table, table_path
from goalmisgen.films.watch import WatchOptions, watch
from goalmisgen.study import StudyPaths, Study, default_questions, opposites, run_study, write_report

pytestmark = pytest.mark.slow

PAIR = Setting('red line', 'yellow gem')
FEW = Protocol('sampled', range(100000, 100004))
NAMES = [
    '2024',
    '007',
    'NA',
    'null',
    'True',
    '1e5',
    'inf',
    '-1',
    '2024-01-01',
    '5669732331e84638',
    '=1+1',
    '@sum',
    "'tis",
    '+x',
    'a,b',
    'say "so"',
    '$x^$',
    'Jörg',
    ' ',
]


def uniform(frames):
    return torch.full((len(frames), 15), 1 / 15)


@pytest.fixture(scope='module')
def rows():
    "One computed row and one played"
    return [
        to_row(f(uniform, PAIR, range(100000, 100010)), 'pop', 0, 0, seed=42)
        for f in (evaluate_exact, evaluate_sampled)
    ]


def agent(home, n, seed=None, **config):
    "An untrained agent that says it was trained"
    config = dict(goal='yellow line', background='black', size=5) | config
    return save_policy(
        Policy(n if seed is None else seed),
        home / f'agent-{n}',
        dict(seeds=dict(agent=n), updates=24, algorithm='PPO', config=config),
    )


@pytest.fixture
def here(monkeypatch):
    "Jobs in this process, so that a test takes no time to start workers"

    def run(jobs, *args):
        return [Outcome(j.name, j.fn(**j.kwargs, report=lambda n: None, stop=lambda: False)) for j in jobs]

    monkeypatch.setattr(populations, 'run_jobs', run)


def ask(home, out, settings='red line vs yellow gem', protocol=FEW, **kw):
    return evaluate_population(home, settings, out, protocol=protocol, progress=False, **kw).table


# Text is text


@pytest.mark.parametrize('suffix', ['csv', 'csv.gz'])
def test_names_come_back_whatever_they_look_like(rows, tmp_path, suffix):
    many = [
        replace(r, population=a, run=b, algorithm=a, fingerprint='5669732331e84638')
        for r in rows
        for a, b in zip(NAMES, NAMES[1:] + NAMES[:1])
    ]
    write_results(tmp_path / f't.{suffix}', many)
    assert {result_key(r): r for r in read_results(tmp_path / f't.{suffix}')} == {
        result_key(r): r for r in many
    }
    pmf = np.zeros(501)
    pmf[4] = 1
    write_lengths(tmp_path / f't.{suffix}', dict.fromkeys(many, pmf))
    assert set(read_lengths(tmp_path / f't.{suffix}')) == {result_key(r) for r in many}


def test_no_cell_begins_a_formula(rows, tmp_path):
    write_results(tmp_path / 't.csv', [replace(r, population=n, run=n) for r in rows for n in NAMES])
    cells = pd.read_csv(tmp_path / 't.csv', dtype=str, keep_default_na=False)
    for column in ('population', 'run'):
        assert not cells[column].str.startswith(('=', '+', '-', '@')).any()


@pytest.mark.parametrize('name', ['2024', 'NA', '=1+1', '$x^$'])
def test_populations_of_every_name_are_evaluated(tmp_path, here, name):
    agent(tmp_path / name, 0)
    for _ in range(2):
        table = ask(tmp_path / name, tmp_path / 'out' / f'{name}.csv')
    assert list(table.population) == [name] and [
        r.population for r in read_results(tmp_path / 'out' / f'{name}.csv')
    ] == [name]


@pytest.mark.parametrize('name', ['two\nlines', 'half\udcff', 7])
def test_names_that_no_table_can_hold_are_refused_first(tmp_path, here, name):
    agent(tmp_path / 'pop', 0)
    with pytest.raises(ValueError, match='name of the population'):
        ask(tmp_path / 'pop', tmp_path / 'out' / 't.csv', population=name)
    assert not (tmp_path / 'out').exists()


def test_a_population_is_called_after_its_folder(tmp_path, here, monkeypatch):
    agent(tmp_path / 'pop', 0)
    (tmp_path / 'link').symlink_to(tmp_path / 'pop')
    (tmp_path / 'pop' / 'inside').mkdir()
    for at, folder in (
        (tmp_path / 'pop', '.'),
        (tmp_path / 'pop' / 'inside', '..'),
        (tmp_path, 'pop/'),
        (tmp_path, './pop/.'),
        (tmp_path, 'link'),
    ):
        monkeypatch.chdir(at)
        table = ask(folder, tmp_path / 'out.csv')
        assert list(table.population) == ['pop'] and list(table.run) == ['agent-0']
    monkeypatch.chdir(tmp_path / 'pop' / 'agent-0')
    assert agent_files('.')[0].run == 'agent-0' and agent_files('model.safetensors')[0].run == 'model'
    assert watch('.', tmp_path / 'story.png', WatchOptions(frames=3)).exists()


# What is asked is what is answered


def test_sets_of_levels_have_names_of_their_own():
    sets = [
        PUBLISHED_SEEDS,
        range(100000, 101000, 27),
        range(100000, 100999),
        range(100999, 99999, -1),
        range(100000, 100001),
    ]
    names = [evaluation_levels(s).name for s in sets]
    assert len(set(names)) == len(sets) and names[0] == 'seeds 100000-100999'
    assert evaluation_levels([100000, 100027]).name == evaluation_levels(
        range(100000, 100054, 27)
    ).name and seed_range(np.arange(3)) == range(3)


@pytest.mark.parametrize(
    'bad',
    [
        [5, 5],
        [1, 2, 4],
        [],
        range(0),
        range(-1, 3),
        range(0, 2**33, 2**32),
        range(2**40),
        [0.5],
        'all',
        None,
        np.arange(3000) * 1.0,
    ],
)
def test_levels_that_are_none(bad):
    with pytest.raises(ValueError, match='level') as e:
        evaluate_exact(uniform, PAIR, bad)
    assert len(str(e.value)) < 300


def test_another_question_is_not_answered_from_the_table(tmp_path):
    home, out = agent(tmp_path, 0), tmp_path / 't.csv'
    every, third = range(100000, 100009), range(100000, 100009, 3)
    asked = [
        Protocol(levels=third),
        Protocol(levels=every),
        Protocol(levels=every, tolerance=0.1),
        Protocol('sampled', every),
        Protocol('sampled', every, episodes=2),
        Protocol('sampled', every, seed=1),
        Protocol('greedy', every),
        Protocol(levels=list(every)),
    ]
    for p in asked:
        evaluate_agent(home, [PAIR], out, 'pop', p)
    found = ResultsFile(out).rows
    assert len(found) == len(asked) - 1
    keys = [row_key(*agent_files(home), PAIR, p, 'pop') for p in asked]
    assert keys[1] == keys[-1] and set(keys) == set(found)
    assert (
        found[keys[0]].levels != found[keys[1]].levels
        and found[keys[0]].p1 == evaluate_exact(Policy(0), PAIR, third).p1
    )


def test_another_horizon_has_no_row():
    with pytest.raises(ValueError, match='horizon'):
        to_row(evaluate_exact(uniform, PAIR, range(100000, 100002), horizon=50), 'pop', 0, 0)


@pytest.mark.parametrize(
    'bad',
    [
        lambda f: torch.ones((len(f), 15)),
        lambda f: -torch.ones((len(f), 15)) / 15,
        lambda f: torch.full((len(f), 15), float('nan')),
        lambda f: torch.full((len(f), 15), float('inf')),
        lambda f: torch.full((len(f), 9), 1 / 9),
    ],
)
@pytest.mark.parametrize('greedy', [False, True])
def test_play_takes_probabilities_only(bad, greedy):
    with pytest.raises(ValueError, match='probabilities|action_probs'):
        evaluate_sampled(bad, PAIR, range(100000, 100003), greedy=greedy)


# As they were trained


def test_agents_are_asked_on_the_background_that_they_know(tmp_path, here):
    for n in (0, 1):
        agent(tmp_path / 'grey', n, background='grey', goal='green gem')
    table = ask(tmp_path / 'grey', tmp_path / 't.csv', None)
    assert set(zip(table.obj1, table.obj2, table.background)) == {('red gem', 'green line', 'grey')}
    assert set(zip(table.trained_goal, table.trained_background, table.trained_size)) == {
        ('green gem', 'grey', 5)
    }
    assert set(ask(tmp_path / 'grey', tmp_path / 't.csv').background) == {'grey'}
    for how in (
        dict(settings='red line vs yellow gem on black'),
        dict(background='black'),
        dict(settings=PAIR),
    ):
        with pytest.warns(UserWarning, match='trained on grey, asked on black'):
            table = ask(tmp_path / 'grey', tmp_path / 't.csv', **how)
        assert set(zip(table.trained_background, table.background)) == {('grey', 'black')}
    agent(tmp_path / 'grey', 2)
    with pytest.raises(ValueError, match='black, grey'):
        ask(tmp_path / 'grey', tmp_path / 't.csv')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert len(ask(tmp_path / 'grey', tmp_path / 't.csv', background='grey')) == 3


def test_a_size_that_cannot_be_asked_is_refused(tmp_path, here):
    agent(tmp_path / 'large', 0, size=7)
    home, out = tmp_path / 'large' / 'agent-0', tmp_path / 'out' / 't.csv'
    for f in (
        lambda: ask(tmp_path / 'large', out),
        lambda: evaluate_agent(home, [PAIR], out, 'large'),
        lambda: evaluate_agent(home / 'model.safetensors', [PAIR], out, 'large'),
    ):
        with pytest.raises(ValueError, match='size of the mazes .*got 7; allowed: 5'):
            f()
    with pytest.raises(ValueError, match='size of the mazes: got 7'):
        Study('large', ExactPPOConfig(size=7, num_levels=50))
    assert not (tmp_path / 'out').exists()


def test_a_film_shows_agents_at_home(tmp_path):
    home = agent(tmp_path, 0, goal='green gem', background='grey', size=7)
    known = agent_files(home)
    o = WatchOptions().for_agents(known)
    assert str(o.setting) == 'red gem vs green line on grey in 7x7'
    asked = WatchOptions('red line').for_agents(known).setting
    assert asked == Setting('red line', 'green line', 'grey', '7x7')
    with pytest.warns(UserWarning) as said:
        watch(home, tmp_path / 'a.png', WatchOptions(frames=3, background='black', size=5))
    assert [
        'grey and plays on black' in str(w.message) or 'size 7 and plays in size 5' in str(w.message)
        for w in said
    ] == [True, True]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        watch(home, tmp_path / 'a.png', WatchOptions(frames=3))
        watch(Policy(0), tmp_path / 'a.png', WatchOptions(frames=3))
    for change in (dict(background='black'), dict(goal='red line'), dict(size=5)):
        with pytest.raises(ValueError, match=next(iter(change)).replace('size', 'size of')):
            WatchOptions().for_agents([*known, replace(known[0], **change)])


def test_published_agents_are_asked_where_they_were_trained(tmp_path):
    path = tmp_path / 'maze-5x5-grey-background-red-line' / '2023-01-01__00-00-00__seed_7' / 'model_5.pth'
    path.parent.mkdir(parents=True)
    torch.save(dict(model_state_dict=Policy(0).state_dict()), path)
    for folder in (tmp_path, path.parents[1], path.parent):
        (files,) = find_agents(folder).values()
        assert files[0].trained == ('red line', 'grey', 5, '') and files[0].run == path.parent.name
        assert [str(s) for s in settings_for(files)] == ['yellow line vs red gem on grey']


def test_questions_follow_from_the_goal():
    assert Study('quick').questions == (
        ('red line', 'yellow gem'),
        ('green line', 'yellow gem'),
        ('blue line', 'yellow gem'),
        ('yellow line', 'black gem'),
    )
    for goal in ('red line', 'white gem', 'black line'):
        asked, (colour, shape) = default_questions(goal), goal.split()
        assert all(
            a.endswith(shape)
            and not a.startswith(colour)
            and b == f'{colour} {"gem" if shape == "line" else "line"}'
            for a, b in asked[:3]
        )


@pytest.mark.parametrize(
    'config',
    [
        dict(goal='pink line'),
        dict(background='plaid'),
        dict(size=True),
        dict(size=2**70),
        dict(size='5'),
        dict(goal=7),
    ],
)
def test_manifests_that_were_never_written(tmp_path, config):
    agent(tmp_path, 0, **config)
    with pytest.raises(ValueError):
        agent_files(tmp_path / 'agent-0')


@pytest.mark.parametrize(
    'text',
    [
        '[]',
        '3',
        'null',
        '[' * 100_000,
        '{"seeds": {"agent": ' + '9' * 5000 + '}}',
        '{"seeds": {"agent": -1}, "updates": 3}',
        '\ufeff',
    ],
)
def test_manifests_that_are_none(tmp_path, text):
    home = agent(tmp_path, 0)
    (home / 'manifest.json').write_text(text)
    with pytest.raises(ValueError, match='manifest.json'):
        agent_files(home)


def test_an_agent_is_called_by_its_folder(tmp_path, here):
    for n in (3, 5):
        agent(tmp_path / 'pop', n)
    (tmp_path / 'pop' / 'agent-3').rename(tmp_path / 'pop' / 'agent-9')
    with pytest.warns(UserWarning, match='agent 9 by its name and 3 by its manifest'):
        table = ask(tmp_path / 'pop', tmp_path / 't.csv')
    assert list(zip(table.agent, table.run)) == [(5, 'agent-5'), (9, 'agent-9')]
    agent(tmp_path / 'pop', 4)
    (tmp_path / 'pop' / 'agent-4').rename(tmp_path / 'pop' / 'agent-05')
    with pytest.raises(ValueError, match='agent-4|agent-05'), pytest.warns(UserWarning):
        ask(tmp_path / 'pop', tmp_path / 't.csv')


# Nobody's answers are lost


def test_two_who_write_at_once_keep_both(rows, tmp_path):
    a, b = (ResultsFile(tmp_path / 't.csv', lengths=True) for _ in range(2))
    pmf = np.zeros(501)
    pmf[4] = 1
    for i, (have, r) in enumerate(zip((a, b, a, b), rows * 2)):
        have.add(result_key(r := replace(r, step=i)), r, pmf)
    assert {r.step for r in read_results(tmp_path / 't.csv')} == {0, 1, 2, 3}
    assert len(read_lengths(tmp_path / 't.csv')) == 4


def test_two_evaluations_at_once_keep_both(tmp_path, here):
    for n in range(2):
        agent(tmp_path / 'pop', n)
    failed, gate = [], threading.Barrier(2)

    def work(setting):
        try:
            gate.wait(60)
            ask(tmp_path / 'pop', tmp_path / 't.csv', setting)
        except Exception as e:
            failed.append(e)

    threads = [
        threading.Thread(target=work, args=(s,))
        for s in ('red line vs yellow gem', 'green line vs yellow gem')
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed and len(read_results(tmp_path / 't.csv')) == 4


def test_one_at_a_time_is_inside(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path / 'new'):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(most) == {1} and len(most) == 80 and not any((tmp_path / 'new').iterdir())


def test_another_population_of_the_same_name_is_refused(tmp_path, here):
    agent(tmp_path / 'jan' / 'pop', 0)
    agent(tmp_path / 'feb' / 'pop', 0, seed=9)
    out = tmp_path / 'results' / 'pop.csv'
    ask(tmp_path / 'jan' / 'pop', out)
    before = {p: p.read_bytes() for p in out.parent.rglob('*') if p.is_file()}
    with pytest.raises(ValueError, match='another table'):
        ask(tmp_path / 'feb' / 'pop', out)
    assert {p: p.read_bytes() for p in out.parent.rglob('*') if p.is_file()} == before
    assert len(ask(tmp_path / 'feb' / 'pop', out, population='feb')) == 1 and len(read_results(out)) == 2
    assert (
        len(ask(tmp_path / 'jan' / 'pop', out, 'green line vs yellow gem')) == 1
        and len(read_results(out)) == 3
    )
    (tmp_path / 'jan').rename(tmp_path / 'moved')
    assert (
        len(ask(tmp_path / 'moved' / 'pop', out, 'blue line vs yellow gem')) == 1
        and len(read_results(out)) == 4
    )
    shutil.rmtree(out.with_suffix(''))
    with pytest.raises(ValueError, match='another table'):
        ask(tmp_path / 'feb' / 'pop', out)
    agent(tmp_path / 'moved' / 'pop', 0, seed=5)  # trained anew, and nothing says whose the answers are
    with pytest.raises(ValueError, match='another table'):
        ask(tmp_path / 'moved' / 'pop', out)


def test_some_of_the_agents_do_not_shrink_the_table(tmp_path, here):
    for n in range(3):
        agent(tmp_path / 'pop', n)
    ask(tmp_path / 'pop', tmp_path / 't.csv')
    assert list(
        ask(tmp_path / 'pop', tmp_path / 't.csv', 'green line vs yellow gem', only=[np.int64(1)]).agent
    ) == [1]
    assert sorted(r.agent for r in read_results(tmp_path / 't.csv')) == [0, 1, 1, 2]
    agent(tmp_path / 'pop', 1, seed=20)  # trained anew: its old answers go
    ask(tmp_path / 'pop', tmp_path / 't.csv', only=[1])
    assert sorted(r.agent for r in read_results(tmp_path / 't.csv')) == [0, 1, 2]
    with pytest.raises(ValueError, match='agents of'):
        ask(tmp_path / 'pop', tmp_path / 't.csv', only=[1, 7])


def test_published_agents_of_one_name_are_refused(tmp_path):
    for run in 'ab':
        path = tmp_path / run / '2023-01-01__00-00-00__seed_7' / 'model_5.pth'
        path.parent.mkdir(parents=True)
        path.write_bytes(b'')
    with pytest.raises(ValueError, match='agents of one name'):
        find_agents(tmp_path)
    assert len(find_agents(tmp_path / 'a')) == 1


@pytest.mark.parametrize('content', [b'', b'my,own\n1,2\n', b'\x00\xff'])
def test_a_file_that_is_not_ours_is_left_alone(tmp_path, here, content):
    agent(tmp_path / 'pop', 0)
    (tmp_path / 't.csv').write_bytes(content)
    with pytest.raises(ValueError, match='t.csv'):
        ask(tmp_path / 'pop', tmp_path / 't.csv')
    assert (tmp_path / 't.csv').read_bytes() == content and not (tmp_path / 't').exists()


def test_where_nothing_can_be_written_nothing_is_computed(tmp_path, here, monkeypatch):
    agent(tmp_path / 'pop', 0)
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder.csv').mkdir()
    monkeypatch.setattr(populations, 'evaluate_agent', lambda *a, **kw: pytest.fail('worked'))
    for out in ('file/t.csv', 'folder.csv', 'n' * 300 + '.csv', '.csv', 't', 'file/deeper/t.csv'):
        with pytest.raises(ValueError, match='out'):
            ask(tmp_path / 'pop', tmp_path / out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'folder.csv', 'pop']
    with pytest.raises(ValueError, match='workers'):
        ask(tmp_path / 'pop', tmp_path / 't.csv', workers=0)
    monkeypatch.setattr(
        'tempfile.NamedTemporaryFile',
        lambda **kw: (_ for _ in ()).throw(PermissionError(13, 'Permission denied')),
    )
    with pytest.raises(ValueError, match='Permission denied'):
        check_output(tmp_path / 't.csv')


def test_rows_of_two_kinds_are_not_averaged(rows):
    with pytest.raises(ValueError, match='rows of'):
        by_step(to_table(rows), PAIR)


# What was never written is not read


@pytest.fixture(scope='module')
def table(rows, tmp_path_factory):
    "Some rows in a file, one of an agent that reaches nothing"
    nothing = dict(p1=0.0, p2=0.0, timeout=1.0, unexplored_mass=0.0)
    no_preference = dict.fromkeys(('preference', 'preference_low', 'preference_high'), float('nan'))
    whole = dict.fromkeys(
        ('mean_length', 'median_length', 'length_q05', 'length_q25', 'length_q75', 'length_q95'), 500.0
    )
    never = replace(rows[0], agent=5, **nothing, **no_preference, **whole)
    path = tmp_path_factory.mktemp('table') / 't.csv'
    write_results(path, [*rows, *(replace(r, agent=n) for r in rows for n in (1, 2)), never])
    return path


def test_a_cut_table_is_refused_wherever_it_is_cut(table, tmp_path):
    data, path = table.read_bytes(), tmp_path / 't.csv'
    for n in [*range(0, len(data), 7), *(i + 1 for i, c in enumerate(data[:-1]) if c == 10)]:
        path.write_bytes(data[:n])
        with pytest.raises(ValueError, match='t.csv'):
            read_results(path)
    path.write_bytes(b'\xef\xbb\xbf' + data.replace(b'\n', b'\r\n'))  # as a spreadsheet saves it
    assert repr(read_results(path)) == repr(read_results(table))


OLD = Path(__file__).parent / 'old_tables'  # Two agents, computed and played, as earlier versions wrote them


def without(row, version):
    "The row as a table of an earlier version has it, in today's columns"
    if version < 3:
        unknown = dict.fromkeys(('trained_goal', 'trained_background', 'trained_levels'), 'unknown')
        row = replace(row, trained_size=0, **unknown)
    if version == 1:
        nan = float('nan')
        row = replace(
            row,
            run=f'agent-{row.agent}',
            algorithm='unknown',
            fingerprint='unknown',
            length_q05=nan,
            length_q25=nan,
            length_q75=nan,
            length_q95=nan,
        )
    return row


@pytest.mark.parametrize('version', [1, 2, 3, 4])
def test_tables_of_earlier_versions_are_read(version):
    path = OLD / f'schema-{version}.csv'
    now = {
        r.method: replace(
            r,
            population='pop',
            algorithm='PPO',
            step=240,
            fingerprint='5669732331e84638',
            trained_goal='yellow line',
            trained_background='black',
            trained_size=5,
            trained_levels='',
        )
        for r in [
            to_row(f(uniform, PAIR, range(100000, 100010)), 'pop', 0, 0, seed=42)
            for f in (evaluate_exact, evaluate_sampled)
        ]
    }
    wanted = [
        without(replace(now[m], agent=n, run=f'agent-{n}'), version)
        for n in (0, 3)
        for m in ('exact', 'sampled')
    ]
    found, wanted = (to_table(rows) for rows in (read_results(path), wanted))
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-9)
    assert tuple(read_cells(path)[0]) == columns_of_version(version) and (found.schema == 5).all()


def test_a_cut_row_of_an_older_table_is_refused(tmp_path):
    path = tmp_path / 't.csv'
    path.write_bytes((OLD / 'schema-2.csv').read_bytes())
    data = path.read_bytes()
    for n in range(1, len(data)):
        if data[n - 1 : n] == b'\n':
            continue  # whole rows that are missing do not show without checksums
        path.write_bytes(data[:n])
        with pytest.raises(ValueError, match='t.csv'):
            read_results(path)


def change(df, row, **values):
    df = df.astype(object)
    for c, v in values.items():
        df.loc[row, c] = v
    return df


@pytest.mark.parametrize(
    'column, value',
    [
        ('preference', 0.9),
        ('preference', ''),
        ('preference_low', 0.2),
        ('preference_high', 0.1),
        ('p1', float('nan')),
        ('timeout', 0.99),
        ('unexplored_mass', 0.5),
        ('mean_length', 3.0),
        ('mean_length', 600.0),
        ('mean_length', ''),
        ('median_length', 0.0),
        ('length_q25', 400.0),
        ('length_q95', 501.0),
        ('episodes', 5),
        ('seed', 1),
        ('tolerance', 0.5),
        ('agent', -1),
        ('step', '1e3'),
        ('fingerprint', 'nothing'),
        ('levels', 'some'),
        ('population', ''),
        ('run', ''),
        ('obj1', 'Red Line'),
        ('background', 'plaid'),
        ('schema', '3.0'),
        ('agent', '1_0'),
        ('trained_size', ''),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(rows, tmp_path, column, value):
    write_table(tmp_path / 't.csv', change(to_table(rows), 0, **{column: value}))
    with pytest.raises(ValueError, match='t.csv, row 1') as e:
        read_results(tmp_path / 't.csv')
    assert column in str(e.value)


def test_rows_that_repeat_and_rows_without_checksums_are_refused(rows, tmp_path):
    table = to_table(rows)
    write_table(
        tmp_path / 't.csv',
        pd.concat([table, table.head(1).assign(p1=0.1)])
        .astype(object)
        .assign(p1=list(table.p1) + [table.p1[0]]),
    )
    with pytest.raises(ValueError, match='row 3 answers what row 1 did'):
        read_results(tmp_path / 't.csv')
    table.to_csv(tmp_path / 't.csv', index=False)
    with pytest.raises(ValueError, match='no checksums'):
        read_results(tmp_path / 't.csv')


def test_tables_that_ship_are_of_todays_schema_and_say_what_agents_were_trained_on():
    for name in TABLES:
        head, _, checked = read_cells(table_path(name))
        t = load_table(name)
        assert (
            checked and tuple(head) == COLUMNS and set(t.trained_size) == {5} and set(t.tolerance) == {1e-6}
        )
        assert (t.trained_background == t.background).all() and set(t.trained_goal) == {
            'white line' if 'white' in name else 'yellow line'
        }


# No opinion is no opinion


def test_who_has_no_preference_does_not_prefer_anything():
    t = load_table('exact-yellow-line-black')
    mine = (t.obj1 == PAIR.obj1) & (t.obj2 == PAIR.obj2)
    order = t[mine].sort_values('preference').agent.tolist()
    for k in (1, 5, 98, 99, 100):
        some = t.copy()
        some.loc[mine & t.agent.isin(order[-k:]), 'preference'] = np.nan
        left = order[:-k]
        assert opposites(some, PAIR) == ((left[-1], left[0]) if len(left) > 1 else tuple(left))


@pytest.mark.parametrize('agents, missing', [([3], []), ([3, 4], [4]), ([3], [3])])
def test_a_report_speaks_of_the_agents_there_are(tmp_path, agents, missing):
    study = Study('one', seeds=agents, questions=(('red line', 'yellow gem'),))
    places = StudyPaths(tmp_path, study)
    for n in agents:
        shutil.copytree(example_dir(f'exact-{n}'), places.agents / f'agent-{n}')
    t = load_table('exact-yellow-line-black')
    t = t[t.agent.isin(agents) & (t.obj1 == 'red line')].copy()
    t.loc[t.agent.isin(missing), ['preference', 'preference_low', 'preference_high']] = np.nan
    text = write_report(places, t).read_text()
    opinions = len(agents) - len(missing)
    assert (
        ('One agent' in text) == (len(agents) == 1)
        and '1 agents' not in text
        and 'Two agents' not in text
        and 'nan' not in text
    )
    assert ('there is no preference' in text) == (opinions == 0) and ('The agent in a maze' in text) == (
        opinions > 0
    )
    assert ('1 agent never reached either' in text) == (len(missing) == 1 and opinions > 0)


def test_a_study_that_cannot_write_trains_nothing(tmp_path):
    for name in ('runs', 'results', 'reports'):
        home = tmp_path / f'no-{name}'
        home.mkdir()
        (home / name).write_text('in the way')
        with pytest.raises(ValueError, match='output'):
            run_study(Study('quick'), home, progress=False)
        assert [p.name for p in home.iterdir()] == [name]
    with pytest.raises(ValueError, match='seeds'):
        Study('many', seeds=range(2**32))


def test_a_damaged_stamp_is_no_reason_to_fail(tmp_path, monkeypatch):
    from goalmisgen import study as module
    from goalmisgen.agents.population import PopulationReport

    study = Study('one', seeds=(3,), questions=(('red line', 'yellow gem'),))
    places, t = StudyPaths(tmp_path, study), load_table('exact-yellow-line-black')
    shutil.copytree(example_dir('exact-3'), places.agents / 'agent-3')
    monkeypatch.setattr(module, 'train_population', lambda *a: PopulationReport(places.agents, (3,), {}))
    monkeypatch.setattr(module, 'ask_everything', lambda *a: (t[(t.agent == 3) & (t.obj1 == 'red line')], {}))
    page = run_study(study, tmp_path)
    stamp = page.with_name('made-from.json')
    stamp.write_text('[' * 100_000)
    assert run_study(study, tmp_path) == page and set(json.loads(stamp.read_text())) == {'digest'}


def test_an_agent_file_says_nothing_that_it_does_not_know():
    assert AgentFile(Path('x'), 'x').trained == ('unknown', 'unknown', 0, 'unknown')
    assert [str(s) for s in settings_for([AgentFile(Path('x'), 'x')])] == ['red line vs yellow gem on black']
    assert {f for f in Result.__dataclass_fields__} >= {
        'trained_goal',
        'trained_background',
        'trained_size',
        'tolerance',
    }
