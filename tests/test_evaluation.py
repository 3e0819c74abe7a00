"Certificates that hold, play that agrees with computation, tables and published files that are read strictly"

import pickle
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from goalmisgen.agents.impala import Policy, action_probs, load_policy, save_policy
from goalmisgen.env.chain import move_probs, shortest_path_moves
from goalmisgen.env.levels import OBJ1, OBJ2, distances
from goalmisgen.env.table import ACTION_MOVES, TIMEOUT
from goalmisgen.evaluation import questions
from goalmisgen.evaluation.by_level import (
    by_distance,
    level_table,
    nearer_first,
    place_map,
    stuck,
    visits_map,
)
from goalmisgen.evaluation.exact import evaluate_exact, quantile, query_reachable_states, reach_bound
from goalmisgen.evaluation.policies import PolicyCache, as_policy
from goalmisgen.evaluation.questions import RenderCache, Setting, evaluation_levels
from goalmisgen.evaluation.population import by_step, evaluate_population, find_agents
from goalmisgen.evaluation.published import published_agents, read_episodes, read_published, setting_of
from goalmisgen.evaluation.files import write_table
from goalmisgen.evaluation.agents import AgentFile, agent_files
from goalmisgen.evaluation.protocol import Protocol, evaluate_agent
from goalmisgen.evaluation.results import COLUMNS, read_lengths, read_results, to_row, to_table, write_results
from goalmisgen.evaluation.sampled import evaluate_sampled
from goalmisgen.evaluation.settings import DATASET_512, PAPER, find_settings

pytestmark = pytest.mark.slow

PAIR = Setting('red line', 'yellow gem')
FEW = range(100000, 100040)


def capricious(seed, heat, stray=0.0):
    """A policy without a network that acts differently in every frame, by a random projection of the picture;
    hotter ones are more decided"""
    w = torch.randn((192, 15), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def policy(frames):
        x = frames[:, 3::8, 3::8].reshape(-1, 192).double() / 64
        return (1 - stray) * ((x - x.mean(1, keepdim=True)) @ w * heat).softmax(1) + stray / 15

    return policy


def uniform(frames):
    return torch.full((len(frames), 15), 1 / 15)


def left(frames):
    return torch.nn.functional.one_hot(torch.ones(len(frames), dtype=torch.int64), 15).double()


def opinionated(seed, gain=150):
    policy = Policy(seed)
    with torch.no_grad():
        policy.fc_policy.weight *= gain
    return policy


def drawn(setting, seeds):
    return RenderCache().draw(setting, evaluation_levels(seeds, setting.background).levels)


POLICIES = dict(
    uniform=uniform,
    left=left,
    calm=capricious(0, 0.3),
    wild=capricious(1, 3),
    stubborn=capricious(2, 30),
    network=opinionated(0),
)


# Windows


@pytest.mark.parametrize(
    'setting', ['red line vs yellow gem', 'blue line vs black gem', 'white gem vs green line on textured']
)
def test_a_network_in_windows_says_what_it_says_to_whole_frames(setting):
    "The function shows the same network whole frames, since nobody can look into a function"
    setting, network = Setting.parse(setting), opinionated(1, 600)
    a, b = PolicyCache(network), PolicyCache(lambda frames: action_probs(network, frames))
    windows, whole = (evaluate_exact(t, setting, FEW) for t in (a, b))
    st = drawn(setting, FEW)
    keys = a.keys(st)
    both = (a.row[keys] >= 0) & (b.row[b.keys(st)] >= 0)
    assert both.sum() > 300 and a.probs[a.row[keys[both]]].std(0).max() > 0.1
    np.testing.assert_allclose(a.probs[a.row[keys[both]]], b.probs[b.row[b.keys(st)[both]]], atol=1e-5)
    np.testing.assert_allclose(windows.endings.p1, whole.endings.p1, atol=1e-4)
    assert abs(windows.num_forward_frames - whole.num_forward_frames) < 0.05 * whole.num_forward_frames
    seen = a.look(st, keys, torch.arange(len(st.table)))  # whole frames too, where they were not asked about
    np.testing.assert_allclose(seen, action_probs(network, st.frames(torch.arange(len(st.table)))), atol=1e-5)


def test_a_hook_in_the_network_counts():
    "Somebody blanks an activation and asks what that does: no window may go past it"
    network = opinionated(1)
    before = evaluate_exact(network, PAIR, FEW).endings.p1
    network.embedder.block1.res2.register_forward_hook(lambda module, x, out: torch.zeros_like(out))
    got, want = (
        evaluate_exact(p, PAIR, FEW).endings.p1
        for p in (network, lambda frames: action_probs(network, frames))
    )
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert abs(got - before).max() > 0.05


# The certificate


@pytest.mark.parametrize('name', POLICIES)
def test_lazy_agrees_with_full_within_its_certificate(name):
    asked, levels = PolicyCache(POLICIES[name]), FEW[:12] if name == 'network' else FEW
    for setting in (PAIR, Setting('black gem', 'white line'), Setting('green line', 'blue gem', 'textured')):
        full = evaluate_exact(asked, setting, levels, tolerance=0)
        assert full.queried.all() and not full.unexplored_mass.any()
        for tolerance in (0.1, 1e-3, 1e-6):
            lazy = evaluate_exact(asked, setting, levels, tolerance=tolerance)
            e, f, eps = lazy.endings, full.endings, 1e-12
            assert (lazy.unexplored_mass <= tolerance).all()
            for a, b in ((e.p1, f.p1), (e.p2, f.p2), (f.timeout, e.timeout)):
                assert (a <= b + eps).all() and (b - a <= lazy.unexplored_mass + eps).all()
            assert (e.steps >= f.steps - 1e-8).all() and (
                e.steps - f.steps <= TIMEOUT * lazy.unexplored_mass + 1e-8
            ).all()
            np.testing.assert_allclose(e.p1 + e.p2 + e.timeout, 1, atol=1e-12)
            np.testing.assert_allclose(lazy.lengths @ np.arange(TIMEOUT + 1), lazy.capability, rtol=1e-9)
            if lazy.p1 + lazy.p2 > 0:
                low, high = lazy.interval
                assert (
                    low - eps <= full.preference <= high + eps and low - eps <= lazy.preference <= high + eps
                )


def test_a_decided_agent_is_asked_little_and_a_wanderer_everything():
    share = {
        n: evaluate_exact(POLICIES[n], PAIR, FEW).queried.mean() for n in ('left', 'stubborn', 'uniform')
    }
    assert share['left'] < 0.04 and share['stubborn'] < 0.7 and share['uniform'] > 0.9


def always(rendered, moves):
    "A policy that knows frames by heart: in each state it makes the move int (S,) it is given"
    frames = rendered.frames(torch.arange(len(rendered.table))).numpy()
    action = {frame.tobytes(): ACTION_MOVES.index(int(move)) for frame, move in zip(frames, moves)}

    def policy(seen):
        known = torch.tensor([action[frame.numpy().tobytes()] for frame in seen])
        return torch.nn.functional.one_hot(known, 15).double()

    return policy


def test_shortest_path_agent():
    """It is asked about the states on its way and no others, and arrives after as many steps as breadth-first
    search says"""
    st = drawn(PAIR, FEW)
    move = shortest_path_moves(st.table).argmax(1)
    r = evaluate_exact(always(st, move), PAIR, FEW)
    far = distances(r.level_set.levels, OBJ1, avoid=OBJ2)
    np.testing.assert_allclose(r.endings.steps, far)
    assert r.preference == 1 and r.num_forward_frames == far.sum() and not r.unexplored_mass.any()
    assert r.median_length == np.sort(np.repeat(far, np.round(r.level_set.shares * 40).astype(int)))[19]


def arrivals(table, moves, known, horizon):
    "Probability of first entering each unknown state within the horizon, by walking step after step"
    now, got = np.zeros(len(table)), np.zeros(len(table))
    now[table.start] = 1
    for _ in range(horizon):
        then = np.zeros(len(table))
        for m in range(5):
            np.add.at(then, table.next[:, m], now * moves[:, m] * (table.outcome[:, m] == 0).numpy())
        got += np.where(known, 0, then)
        now = np.where(known, then, 0)
    return got


@pytest.mark.parametrize('horizon', [5, 500])
def test_bound_is_a_bound(horizon):
    st, g = drawn(PAIR, range(100000, 100010)), np.random.default_rng(0)
    table = st.table
    for heat in (0.3, 3):
        moves = move_probs(capricious(3, heat, 0.3)(st.frames(torch.arange(len(table)))))
        known = torch.tensor(g.random(len(table)) < 0.7)
        known[table.start] = True
        true = arrivals(table, moves.numpy(), known.numpy(), horizon)
        bound = reach_bound(table, moves, known, torch.arange(len(table.levels)), horizon).numpy()
        got = bound[table.level, table.place]
        assert true.max() > 0.01 and (got >= true - 1e-12).all() and got.max() <= 1
        assert not got[known.numpy()].any()


def test_unsure_is_what_gets_lost():
    st = drawn(PAIR, FEW)
    moves, known = query_reachable_states(PolicyCache(POLICIES['calm']), st, 0.05)
    lost = arrivals(st.table, moves.numpy(), known.numpy(), TIMEOUT)
    r = evaluate_exact(POLICIES['calm'], PAIR, FEW, tolerance=0.05)
    assert r.unexplored_mass.max() > 1e-3
    np.testing.assert_allclose(np.bincount(st.table.level, lost), r.unexplored_mass, atol=1e-12)


def test_stages_make_no_difference(monkeypatch):
    whole = evaluate_exact(POLICIES['wild'], PAIR, FEW)
    monkeypatch.setattr(questions, 'LEVELS_PER_RENDER', 7)
    parts = evaluate_exact(POLICIES['wild'], PAIR, FEW)
    for f in ('p1', 'p2', 'timeout', 'steps', 'visits', 'lengths'):
        np.testing.assert_allclose(getattr(parts.endings, f), getattr(whole.endings, f), atol=1e-12)
    assert (parts.queried == whole.queried).all() and len(whole.endings.p1) > 14


def test_what_was_asked_before_changes_no_bit():
    policy, other = opinionated(1), Setting('yellow gem', 'red line')
    alone = evaluate_exact(policy, PAIR, FEW)
    asked = PolicyCache(policy)
    evaluate_exact(asked, other, FEW)
    evaluate_sampled(asked, PAIR, range(100000, 100007), seed=3)
    after = evaluate_exact(asked, PAIR, FEW)
    assert after.num_forward_frames < alone.num_forward_frames
    for f in ('p1', 'p2', 'timeout', 'steps', 'lengths'):
        assert (getattr(alone.endings, f) == getattr(after.endings, f)).all()


def test_exchanged_objects_are_looked_at_once():
    asked = PolicyCache(capricious(5, 30))
    a, b = (
        evaluate_exact(asked, PAIR, 'census'),
        evaluate_exact(asked, Setting('yellow gem', 'red line'), 'census'),
    )
    assert a.num_forward_frames > 1000 and b.num_forward_frames == 0
    np.testing.assert_allclose([a.p1, a.p2, a.capability], [b.p2, b.p1, b.capability], atol=1e-5)


def test_level_sets_are_equal_by_value():
    "Whoever makes them, and in whatever way the same seeds are named"
    few, again = evaluation_levels([100000, 100027]), evaluation_levels(range(100000, 100054, 27))
    assert few == again and few is not again and few != evaluation_levels(range(100000, 100002))
    assert evaluation_levels('census') != evaluation_levels('census', 'textured') and few != 'seeds'


def test_drawn_levels_are_found_by_value_and_the_oldest_go():
    renders, levels = RenderCache(keep=2), evaluation_levels(FEW).levels
    first = renders.draw(PAIR, levels[:3])
    assert renders.draw(Setting('red line', 'yellow gem'), evaluation_levels(FEW).levels[:3]) is first
    for other in (Setting('yellow gem', 'red line'), Setting('red line', 'yellow gem', 'grey')):
        assert renders.draw(other, levels[:3]) is not first
    assert renders.draw(PAIR, levels[:3]) is not first


def test_a_policy_is_one_function_whatever_it_was_made_of(tmp_path):
    network = opinionated(3)
    home = save_policy(network, tmp_path / 'agent-3', {})
    frames = drawn(PAIR, range(100000, 100004)).frames(torch.arange(9))
    for policy in (
        network,
        home,
        str(home / 'model.safetensors'),
        lambda f: action_probs(network, f),
        as_policy(network),
    ):
        np.testing.assert_array_equal(as_policy(policy)(frames), action_probs(network, frames))
    for bad, says in ((tmp_path / 'nobody', 'agent'), (7, 'policy'), (None, 'policy')):
        with pytest.raises(ValueError, match=says):
            as_policy(bad)


def test_textured_census_has_every_level_nine_times():
    plain, nine = evaluation_levels('census'), evaluation_levels('census', 'textured')
    assert len(nine.levels) == 9 * len(plain.levels) == 32202 and abs(nine.shares.sum() - 1) < 1e-12
    keys = {(g.tobytes(), int(b)) for g, b in zip(nine.levels.grid, nine.levels.background)}
    assert len(keys) == 32202 and {b for _, b in keys} == set(range(9))
    seeds = evaluation_levels(range(200000, 201000), 'textured')
    known = {
        (g.tobytes(), int(b)): w for g, b, w in zip(nine.levels.grid, nine.levels.background, nine.shares)
    }
    assert all((g.tobytes(), int(b)) in known for g, b in zip(seeds.levels.grid, seeds.levels.background))


@pytest.mark.parametrize(
    'bad', [dict(tolerance=-1), dict(tolerance=0.5), dict(horizon=1), dict(levels='all')]
)
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        evaluate_exact(uniform, PAIR, **bad)


@pytest.mark.parametrize(
    'bad',
    [
        lambda f: torch.ones((len(f), 15)),
        lambda f: torch.ones((len(f), 9)) / 9,
        lambda f: torch.full((len(f), 15), float('nan')),
    ],
)
def test_policies_that_are_none(bad):
    with pytest.raises(ValueError, match='probabilities|action_probs'):
        evaluate_exact(bad, PAIR, FEW)


# Play agrees with computation


def test_exact_and_sampled_agree_over_agents_and_settings():
    """In standard errors, the differences of P(first), P(second) and length over 40 pairs of agent and
    setting are standard normal"""
    z, agents = [], [PolicyCache(capricious(seed, (0.5, 1, 2)[seed % 3], 0.5)) for seed in range(8)]
    for a, b, on in (
        ('red line', 'yellow gem', 'black'),
        ('white gem', 'blue line', 'grey'),
        ('cyan line', 'cyan line', 'textured'),
        ('yellow line', 'black gem', 'black'),
        ('green gem', 'purple gem', 'grey'),
    ):
        for seed, asked in enumerate(agents):
            s = Setting(a, b, on)
            e, p = evaluate_exact(asked, s, FEW), evaluate_sampled(asked, s, FEW, episodes=25, seed=seed)
            i, n = e.level_set.index, p.outcome.size
            for got, want in ((p.p1, e.endings.p1[i]), (p.p2, e.endings.p2[i])):
                z.append((got - want.mean()) / np.sqrt((want * (1 - want)).mean() / n))
            z.append((p.capability - e.endings.steps[i].mean()) / np.sqrt(p.steps.var(0, ddof=1).mean() / n))
    z = np.array(z)
    assert len(z) == 120 and abs(z.mean()) < 3 / np.sqrt(40) and 0.8 < z.std() < 1.2 and abs(z).max() < 5


def test_lengths_agree():
    policy = capricious(1, 1, 0.4)
    e, p = evaluate_exact(policy, PAIR, FEW), evaluate_sampled(policy, PAIR, FEW, episodes=200)
    assert abs(np.cumsum(e.lengths) - np.cumsum(p.lengths)).max() < 2 / np.sqrt(p.outcome.size)
    assert abs(quantile(e.lengths, 0.25) - quantile(p.lengths, 0.25)) <= 1


def test_greedy_takes_the_most_probable_action():
    policy = capricious(4, 1)
    g = evaluate_sampled(policy, PAIR, FEW, greedy=True)
    best = evaluate_exact(lambda f: torch.nn.functional.one_hot(policy(f).argmax(1), 15).double(), PAIR, FEW)
    assert ((g.outcome[0] == 1) == (best.endings.p1[best.level_set.index] > 0.5)).all()
    np.testing.assert_allclose(g.steps[0], best.endings.steps[best.level_set.index])
    assert to_row(g, 'p', 0, 0).method == 'greedy'


# Level by level


def test_an_agent_that_takes_the_nearest():
    "Told from its frames alone, by a table: always a shortest path to whichever object is nearer"
    st = drawn(PAIR, FEW)
    far = torch.full((len(st.table),), float('inf'), dtype=torch.float64)
    for _ in range(60):
        far = torch.minimum(
            far, 1 + torch.where(st.table.outcome > 0, 0.0, far[st.table.next.long()]).min(1).values
        )
    move = torch.where(st.table.outcome > 0, 0.0, far[st.table.next.long()]).argmin(1)
    r = evaluate_exact(always(st, move), PAIR, FEW)
    t = level_table(r)
    d = by_distance(t)
    assert (
        nearer_first(t) == 1
        and (d.preference[d.lead > 0] == 1).all()
        and (d.preference[d.lead < 0] == 0).all()
        and len(d) > 4
    )
    np.testing.assert_allclose(t.steps, np.minimum(t.distance1, t.distance2))
    np.testing.assert_allclose([d.share.sum(), d.share @ d.steps], [1, r.capability])
    assert np.nanmax(place_map(r, 1)) == 1 and not np.isfinite(place_map(r, 2)[0, 0])


def test_a_mouse_that_runs_against_the_wall():
    r = evaluate_exact(left, PAIR, FEW)
    assert visits_map(r, 3)[0, 0] == TIMEOUT and np.nansum(visits_map(r, 3)) == TIMEOUT
    assert (
        set(stuck(r).cells) == {'(0,0) 100%'}
        and (stuck(r).timeout == 1).all()
        and np.isnan(nearer_first(level_table(r)))
    )


# Settings


def test_the_papers_settings():
    assert [(n, p.agents, len(p.settings)) for n, p in PAPER.items()] == [
        ('yellow-line-textured', 100, 16),
        ('yellow-line-black', 100, 14),
        ('white-line-black', 512, 11),
        ('red-line-black', 100, 14),
        ('yellow-line-grey', 100, 11),
        ('red-line-grey', 100, 11),
    ]
    assert all(s.background == p.background for p in PAPER.values() for s in p.settings)
    assert (
        len({s for p in PAPER.values() for s in p.settings})
        < 77
        == sum(len(set(p.settings)) for p in PAPER.values())
    )
    assert [f'{s.obj1}/{s.obj2}' for s in DATASET_512[6:]] == [
        'white line/yellow line',
        'white line/white line',
        'white line/white gem',
        'yellow line/white gem',
        'red line/white gem',
    ]
    assert find_settings(list(PAPER)) == tuple(dict.fromkeys(s for p in PAPER.values() for s in p.settings))


@pytest.mark.parametrize(
    'text',
    [
        'red line',
        'red line vs',
        'red line vs pink gem',
        'red line vs blue gem on green',
        'red line vs blue gem vs red gem',
        7,
    ],
)
def test_phrases_that_are_no_setting(text):
    with pytest.raises(ValueError):
        Setting.parse(text)


# Tables


@pytest.fixture
def rows():
    found = [f(capricious(2, 1), PAIR, FEW) for f in (evaluate_exact, evaluate_sampled)]
    return [to_row(r, 'pop', n, 240, 'PPO', seed=42) for r in found for n in (3, 11)]


@pytest.mark.parametrize('name', ['t.csv', 't.csv.gz'])
def test_a_table_comes_back_as_it_was(rows, tmp_path, name):
    none = replace(
        rows[0],
        agent=5,
        p1=0.0,
        p2=0.0,
        timeout=1.0,
        preference=float('nan'),
        preference_low=float('nan'),
        preference_high=float('nan'),
        mean_length=500.0,
        median_length=500.0,
        length_q05=500.0,
        length_q25=500.0,
        length_q75=500.0,
        length_q95=500.0,
    )
    write_results(tmp_path / name, [*rows, none])
    first = (tmp_path / name).read_bytes()
    back = read_results(tmp_path / name)
    pd.testing.assert_frame_equal(to_table(back), to_table([*rows, none]))
    write_results(tmp_path / name, back[::-1])
    assert (tmp_path / name).read_bytes() == first and [p.name for p in tmp_path.iterdir()] == [name]


WRONG = [
    ('schema', 6),
    ('p1', 1.5),
    ('p1', 'much'),
    ('agent', 1.5),
    ('obj1', 'pink gem'),
    ('method', 'guessed'),
    ('unexplored_mass', -1.0),
]


@pytest.mark.parametrize('column, value', WRONG)
def test_tables_with_a_wrong_value(rows, tmp_path, column, value):
    df = to_table(rows).astype(object)
    df.loc[0, column] = value
    write_table(tmp_path / 't.csv', df)
    with pytest.raises(ValueError, match=column if column != 'obj1' else 'colour'):
        read_results(tmp_path / 't.csv')


def test_tables_that_are_none(rows, tmp_path):
    path = tmp_path / 't.csv'
    for content in (b'', b'\xff\xfe\x00', b'a,b\n1,2\n', ','.join(COLUMNS[::-1]).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_results(path)
    with pytest.raises(ValueError, match='csv'):
        write_results(tmp_path / 't.parquet', rows)


# Agents on disk


def agent(folder, n, policy=None, **manifest):
    return save_policy(
        policy or opinionated(n),
        folder / f'agent-{n}',
        dict(seeds=dict(agent=n), updates=24, algorithm='exact-advantage PPO') | manifest,
    )


def test_an_interrupted_evaluation_ends_with_the_same_bytes(tmp_path):
    home, settings = (
        agent(tmp_path, 1),
        [PAIR, Setting('yellow gem', 'red line'), Setting('green line', 'yellow gem')],
    )

    def ask(out, most=9):
        done = []
        return evaluate_agent(
            home,
            settings,
            tmp_path / out,
            'pop',
            range(100000, 100006),
            done.append,
            lambda: len(done) >= most,
            lengths=True,
        )

    assert ask('a.csv') and [ask('b.csv', n) for n in (1, 2, 3)] == [False, False, True]
    for a, b in (('a.csv', 'b.csv'), ('a.lengths.csv.gz', 'b.lengths.csv.gz')):
        assert (tmp_path / a).read_bytes() == (tmp_path / b).read_bytes()
    assert len(read_lengths(tmp_path / 'a.csv')) == 3


def test_checkpoints_are_rows(tmp_path):
    home = agent(tmp_path, 7, env_steps=300, algorithm='PPO')
    for step in (0, 100, 300):
        (save_policy(opinionated(step), tmp_path / 'other', {}) / 'model.safetensors').rename(
            home / f'step-{step}.safetensors'
        )
    (home / 'step-x.safetensors').write_bytes(b'')
    assert [f.step for f in agent_files(home)] == [300]
    assert [f.path.name for f in agent_files(home, True)] == [
        'step-0.safetensors',
        'step-100.safetensors',
        'model.safetensors',
    ]
    evaluate_agent(home, [PAIR], tmp_path / 'a.csv', 'pop', range(100000, 100004), checkpoints=True)
    rows = read_results(tmp_path / 'a.csv')
    assert [(r.step, r.algorithm, r.run) for r in rows] == [(s, 'PPO', 'agent-7') for s in (0, 100, 300)]
    steps = by_step(to_table(rows), PAIR)
    want = [evaluate_exact(opinionated(s), PAIR, range(100000, 100004)).preference for s in (0, 100)]
    np.testing.assert_allclose(steps['agent-7'].iloc[:2], want, rtol=1e-9)


@pytest.mark.parametrize(
    'manifest',
    [{}, dict(seeds=3, updates=1), dict(seeds=dict(agent='0'), updates=1), dict(seeds=dict(agent=0))],
)
def test_manifests_that_lack_something(tmp_path, manifest):
    save_policy(Policy(0), tmp_path / 'agent-0', manifest)
    with pytest.raises(ValueError, match='agent-0/manifest.json'):
        agent_files(tmp_path / 'agent-0')


def test_a_population_and_a_retrained_agent(tmp_path):
    for n in (0, 1):
        agent(tmp_path / 'pop', n)
    how = dict(protocol=Protocol('sampled', range(100000, 100004)), workers=2, progress=False)
    first = evaluate_population(tmp_path / 'pop', 'red line vs yellow gem', tmp_path / 't.csv', **how)
    assert not first.failed and list(first.table.agent) == [0, 1]
    before = (tmp_path / 't.csv').read_bytes()
    again = evaluate_population(tmp_path / 'pop', 'red line vs yellow gem', tmp_path / 't.csv', **how)
    assert (tmp_path / 't.csv').read_bytes() == before
    pd.testing.assert_frame_equal(first.table, again.table)
    agent(tmp_path / 'pop', 1, opinionated(20))
    after = evaluate_population(tmp_path / 'pop', 'red line vs yellow gem', tmp_path / 't.csv', **how).table
    assert (
        list(after.fingerprint == first.table.fingerprint) == [True, False]
        and len(read_results(tmp_path / 't.csv')) == 2
    )
    with pytest.raises(FileNotFoundError):
        evaluate_population(tmp_path, PAIR, tmp_path / 't.csv', **how)
    with pytest.raises(ValueError, match='settings'):
        evaluate_population(tmp_path / 'pop', [], tmp_path / 't.csv', **how)


# Published files


def episodes(path, n=1000, head='seed,steps,reward', seeds=None, **columns):
    "A file as the paper's script writes it, agent-dependent, or with columns changed"
    rng = np.random.default_rng(
        zlib.crc32('/'.join(path.parts[-4:]).encode())
    )  # wherever the folder of the test is
    reward = rng.choice([10.0, -10.0, 0.0], n, p=(0.5, 0.45, 0.05))
    data = (
        dict(
            seed=np.arange(100000, 100000 + n),
            steps=np.where(reward == 0, 500, rng.integers(1, 40, n)),
            reward=reward,
        )
        | columns
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + '\n' + ''.join(','.join(map(str, r)) + '\n' for r in zip(*data.values())))
    return data


def test_a_published_tree(tmp_path):
    tree = tmp_path / 'results-1000'
    data = episodes(
        tree
        / 'maze-5x5'
        / 'red-line-yellow-gem-final-model'
        / '2023-02-10__09-48-21__seed_8998'
        / 'model_5046272.csv'
    )
    episodes(
        tree
        / 'maze-5x5'
        / 'red-line-yellow-gem-final-model'
        / '2023-02-11__09-48-21__seed_8998'
        / 'model_5046272.csv'
    )  # the same seed, drawn twice
    episodes(
        tree
        / 'maze-5x5-grey-background'
        / 'green-line-white-line-final-model'
        / '2023-03-10__09-48-21__seed_1'
        / 'model_5046272.csv'
    )
    found = read_published(tree)
    assert not found.broken and len(found.table) == 3 and found.table.agent.tolist() == [8998, 8998, 1]
    r, (win, lose) = found.rows[0], ((data['reward'] == v).sum() for v in (10, -10))
    assert (r.p1, r.p2, r.mean_length) == (win / 1000, lose / 1000, data['steps'].mean())
    assert r.preference == pytest.approx(win / (win + lose), rel=1e-14)
    assert (r.episodes, r.step, r.method, r.levels, r.background) == (
        1000,
        5046272,
        'sampled',
        evaluation_levels().name,
        'black',
    )
    assert r.preference_low < r.preference < r.preference_high and r.median_length == np.median(data['steps'])
    assert found.rows[2].background == 'grey' and found.rows[2].obj2 == 'white line'
    write_results(tmp_path / 't.csv', found.rows)
    assert len(read_results(tmp_path / 't.csv')) == 3
    assert (
        read_published(tree / 'maze-5x5').rows
        == found.rows[:2]
        == read_published(tree / 'maze-5x5' / 'red-line-yellow-gem-final-model').rows
    )


BROKEN = {
    'no reward column': (dict(head='seed,steps,prize'), 'columns'),
    'reward of 5': (dict(reward=[5.0] * 1000), 'reward'),
    'reward nan': (dict(reward=['nan'] * 1000), 'reward'),
    'too few seeds': (dict(n=999), 'incomplete'),
    'a seed twice': (dict(seed=[100000] * 1000), 'each seed once'),
    'half a step': (dict(steps=[2.5] * 1000), 'steps'),
    'too many steps': (dict(steps=[501] * 1000), 'steps'),
    'words': (dict(steps=['many'] * 1000), 'many'),
    'absurd size': (dict(steps=['7' + ' ' * 2000] * 1000), 'size'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_episode_files(tmp_path, name):
    columns, says = BROKEN[name]
    path = tmp_path / 'maze-5x5' / 'red-line-yellow-gem-final-model' / 'x__seed_1' / 'model_1.csv'
    episodes(path, **columns)
    with pytest.raises(ValueError, match=says):
        read_episodes(path)
    episodes(path.parent.parent / 'x__seed_2' / 'model_1.csv')
    found = read_published(tmp_path / 'maze-5x5')
    assert list(found.broken) == [path] and [r.agent for r in found.rows] == [2]


def test_truncated_empty_and_binary_files(tmp_path):
    path = tmp_path / 'model_1.csv'
    episodes(path)
    text = path.read_text()
    for content in (text[:-6], text[:5000], '', 'seed,steps,reward\n'):
        path.write_text(content)
        with pytest.raises(ValueError):
            read_episodes(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError):
        read_episodes(path)


def test_links_are_not_followed(tmp_path):
    tree = tmp_path / 'results-1000'
    home = tree / 'maze-5x5' / 'red-line-yellow-gem-final-model' / 'x__seed_1'
    episodes(home / 'model_1.csv')
    (tmp_path / 'secret.csv').write_text('seed,steps,reward\n')
    (home / 'model_2.csv').symlink_to(tmp_path / 'secret.csv')
    (tree / 'maze-5x5' / 'loop').symlink_to(tree)
    (home / 'loop').symlink_to(home)
    torch.save(dict(model_state_dict=Policy(0).state_dict()), home / 'model_9.pth')
    (home / 'model_10.pth').symlink_to(home / 'model_9.pth')
    assert [r.step for r in read_published(tree).rows] == [1]
    assert [f.path.name for f in published_agents(tree)] == ['model_9.pth']


@pytest.mark.parametrize(
    'name', ['red-line', 'red-line-yellow-gem-blue-gem', 'red-line-pink-gem-final-model', '..']
)
def test_folders_that_are_no_setting(name):
    with pytest.raises(ValueError):
        setting_of(name)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_published_agents_are_evaluated_and_pickles_run_no_code(tmp_path):
    for n, steps in ((3, (0, 50)), (4, (50,))):
        for s in steps:
            path = tmp_path / 'maze-5x5' / f'2023-01-0{n}__00-00-00__seed_{n}' / f'model_{s}.pth'
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(dict(model_state_dict=opinionated(n + s).state_dict(), optimizer_state_dict={}), path)
    bad = tmp_path / 'maze-5x5' / 'x__seed_5' / 'model_50.pth'
    bad.parent.mkdir()
    bad.write_bytes(pickle.dumps(Evil(tmp_path / 'owned'), protocol=2))
    with pytest.raises(ValueError):
        load_policy(bad)
    found = evaluate_population(
        tmp_path / 'maze-5x5',
        PAIR,
        tmp_path / 't.csv',
        protocol=range(100000, 100003),
        workers=1,
        progress=False,
    )
    assert (
        not (tmp_path / 'owned').exists()
        and list(found.failed) == ['x__seed_5']
        and 'not a readable policy file' in found.failed['x__seed_5']
    )
    assert (
        list(found.table.agent) == [3, 4]
        and set(found.table.algorithm) == {'PPO (published)'}
        and set(found.table.step) == {50}
    )
    assert (
        found.table.preference[0] == evaluate_exact(opinionated(53), PAIR, range(100000, 100003)).preference
    )
    assert [
        f.step for f in find_agents(tmp_path / 'maze-5x5', checkpoints=True)['2023-01-03__00-00-00__seed_3']
    ] == [0, 50]
    assert agent_files(found and bad) == [AgentFile(bad, 'model_50')]
