"""Outliers that were planted are found and told in words; populations of one kind raise no more alarms than
stated"""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from goalmisgen.analysis.copula import (
    QUANTILES,
    _score_grid,
    draw_matrix,
    fit_copula,
    normal_scores,
    results_matrix,
    variance_stabilise,
)
from goalmisgen.analysis.detectors import clusters, consensus, draw_map, embed, standardise
from goalmisgen.analysis.outliers import (
    describe_outlier,
    draw_agent,
    expectation,
    outlier_rate,
    outlier_test,
    rate_interval,
    replay,
    simulate_null,
    stability,
)
from goalmisgen.analysis.preferences import as_table
from goalmisgen.evaluation.settings import DATASET_512

pytestmark = pytest.mark.slow

matplotlib.use('Agg')


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def population(agents, seed=0, settings=DATASET_512):
    "Answers of agents with three traits, in tables of (preference, steps)"
    rng = np.random.default_rng(seed)
    load, trait, slow = (
        np.random.default_rng(99).normal(0, 0.5, (len(settings), 3)),
        rng.normal(0, 1, (agents, 3)),
        rng.normal(0, 0.2, agents),
    )
    out = {}
    for s, w in zip(settings, load):
        p = (
            1 / (1 + np.exp(-(1 + trait @ w + rng.normal(0, 0.25, agents))))
            if s.obj1 != s.obj2
            else rng.beta(200, 200, agents)
        )
        out[s] = [p, np.exp(np.log(6) + slow + rng.normal(0, 0.1, agents))]
    return out


def table(answers):
    return pd.concat(
        [as_table(p, steps, s, 'made up') for s, (p, steps) in answers.items()], ignore_index=True
    )


def of(answers):
    return results_matrix(table(answers), list(answers))


# The matrix


def test_the_matrix_is_the_table_turned():
    a = population(30)
    m = of(a)
    s = DATASET_512[4]
    assert m.shape == (30, 22) and list(m.index) == list(range(30))
    assert np.allclose(m[str(s), 'preference'], a[s][0]) and np.allclose(m[str(s), 'steps'], a[s][1])
    shuffled = table(a).sample(frac=1, random_state=0)
    assert results_matrix(shuffled, DATASET_512).equals(m)


def test_agents_with_one_number_go_by_their_folders():
    t = table(population(20))
    assert set(results_matrix(t.assign(agent=t.agent // 2), DATASET_512).index) == {
        f'dot-{i}' for i in range(20)
    }


def test_gaps_are_refused_and_missing_preferences_are_not():
    t = table(population(20))
    with pytest.raises(ValueError, match='answered every question'):
        results_matrix(t.drop(index=25), DATASET_512)
    t.loc[25, ['preference', 'mean_length']] = np.nan, 500
    m = results_matrix(t, DATASET_512)
    z = normal_scores(m)
    assert m.isna().sum().sum() == 1 and not z.isna().any(axis=None)
    assert z.loc[5, (str(DATASET_512[1]), 'preference')] == 0 and z.loc[5, (str(DATASET_512[1]), 'steps')] > 5


@pytest.mark.parametrize('agents', [5, 19])
def test_too_few_agents(agents):
    with pytest.raises(ValueError, match='at least 20'):
        fit_copula(of(population(agents)))


# Scores


def test_scores_are_normal_scores():
    """At the fitted quantiles exactly those of the normal distribution, beyond them a normal tail, or an
    exponential one for long steps"""
    m = of(population(400))
    z, u = normal_scores(m).to_numpy(), variance_stabilise(m)
    for j in (0, 21):
        at = np.interp(np.quantile(u[:, j], QUANTILES), np.sort(u[:, j]), np.sort(z[:, j]))
        assert np.allclose(at, stats.norm.ppf(QUANTILES), atol=0.02)
    (mid, q95), (q75, r95) = np.quantile(u[:, 0], [0.5, 0.95]), np.quantile(u[:, 21], [0.75, 0.95])
    top, late = u[:, 0].argmax(), u[:, 21].argmax()
    assert np.isclose(z[top, 0], 1.6449 * (u[top, 0] - mid) / (q95 - mid), atol=1e-3)
    assert np.isclose(
        z[late, 21], stats.norm.isf(0.05 * np.exp(-(u[late, 21] - r95) / (r95 - q75) * np.log(5))), atol=0.03
    )  # knots half a score apart


def test_one_agent_has_no_say_in_its_own_score():
    a = population(200)
    before = fit_copula(of(a))
    a[DATASET_512[0]][0][7], a[DATASET_512[0]][1][7] = 0.0, 499.0
    after = fit_copula(of(a))
    assert (
        abs(before.knots[1:8] - after.knots[1:8]).max() < 0.08
        and abs(before.correlation - after.correlation).max() < 0.08
    )


def test_agreement_to_the_third_digit_makes_no_outliers():
    a = population(60)
    a[DATASET_512[7]][0][:] = 0.999
    a[DATASET_512[7]][0][3] = 0.998
    assert abs(normal_scores(of(a))[str(DATASET_512[7]), 'preference']).max() < 1


def test_robust_z_scores_are_those_of_scipy():
    m = of(population(80))
    u, z = variance_stabilise(m), standardise(m)
    expected = (u - np.median(u, 0)) / stats.median_abs_deviation(u, 0, scale='normal')
    assert np.allclose(z, expected, rtol=1e-3)


def test_a_crowd_draws_what_it_was_fitted_to():
    "Marginals and correlations of 4,000 drawn agents are those of the 500 that they were fitted to"
    m = of(population(500))
    c, u = fit_copula(m), variance_stabilise(m)
    drawn = c.draw(4000, np.random.default_rng(0))
    assert abs(np.quantile(drawn, QUANTILES, axis=0) - np.quantile(u, QUANTILES, axis=0)).max() < 0.06
    ours, theirs = (stats.spearmanr(x).statistic for x in (drawn, u))
    assert abs(ours - theirs).max() < 0.12


def test_expectation_is_the_regression_on_the_other_answers():
    m = of(population(300))
    c, u = fit_copula(m), variance_stabilise(m)
    z = c.normal_scores(u)
    due, miss = expectation(c, u[11])
    R, j, rest = c.correlation, 4, [k for k in range(22) if k != 4]
    b = np.linalg.solve(R[np.ix_(rest, rest)], R[rest, j])
    sd = np.sqrt(1 - R[rest, j] @ b)
    assert np.isclose(miss[j], (z[11, j] - z[11, rest] @ b) / sd)
    again = u[11].copy()
    again[j] = due[j]
    assert abs(expectation(c, again)[1][j]) < 1e-6  # what is expected surprises nobody


# Planted outliers


def planted(agents, seed=0):
    a = population(agents, seed)
    a[DATASET_512[9]][0][39] = 0.02  # takes the white gem, walks as ever
    a[DATASET_512[9]][1][39] = 6.0
    a[DATASET_512[1]][1][17] = 80.0  # lost between green and blue
    return of(a)


@pytest.mark.parametrize('agents', [100, 512])
def test_planted_outliers_are_found(agents):
    m = planted(agents)
    j = outlier_test(m, simulate_null(m, 99))
    assert set(j.index[:2]) == {39, 17} and (j.p[:2] <= 0.05).all() and (j.p[2:] > 0.05).all()
    c = consensus(m, j)
    assert {39, 17} <= set(c.index[: agents // 10]) and list(c.copula[[39, 17]].sort_values()) == [1, 2]


def test_a_combination_is_found_where_no_answer_stands_out():
    a = population(300)
    m = of(a)
    c = fit_copula(m)
    R = c.correlation - np.eye(22)
    j, k = np.unravel_index(abs(R).argmax(), R.shape)
    for col, score in ((j, 2.2), (k, -2.2 * np.sign(R[j, k]))):
        v = np.interp(score, _score_grid(), c.knots[:, col])
        m.iloc[5, col] = np.exp(v) if m.columns[col][1] == 'steps' else np.sin(v / 2) ** 2
    judged = outlier_test(m, simulate_null(m, 99))
    assert judged.index[0] == 5 and judged.p[5] <= 0.02 and judged.extreme[5] < 3
    assert 'do not go together' in describe_outlier(m, 5)


# Alarms


@pytest.mark.parametrize('agents', [60, 100])
def test_alarms_in_populations_of_one_kind_are_as_frequent_as_stated(agents):
    """The bar comes from a fitted distribution, so that 10 % is only roughly 10 %: 60 populations, standard
    error 3.9 %"""
    alarms = 0
    for seed in range(60):
        m = of(population(agents, 1000 + seed, DATASET_512[:4]))
        alarms += outlier_test(m, simulate_null(m, 39, seed)).p.min() <= 0.1
    assert 0.01 <= alarms / 60 <= 0.24


def test_p_is_the_share_of_drawn_populations():
    "Written out for one statistic at a time, as the definition says"
    m = of(population(40, 3, DATASET_512[:3]))
    e = simulate_null(m, 59, 1)
    j = outlier_test(m, e)
    pool = np.concatenate([e.drawn.reshape(-1, 2), j[['extreme', 'distance']].to_numpy()])
    tail = lambda s: min(np.mean(pool[:, k] >= s[k] - 1e-12) for k in (0, 1))
    least = [min(map(tail, population)) for population in e.drawn]
    for a in (*j.index[:2], j.index[20]):
        t = tail(j.loc[a, ['extreme', 'distance']].to_numpy())
        assert np.isclose(t, j.tail_probability[a]) and np.isclose(
            j.p[a], (1 + sum(x <= t for x in least)) / 60
        )


def test_few_draws_do_not_raise_the_alarm_more_often():
    "Populations drawn from one crowd, judged with the fewest draws that allow a p of .05"
    from goalmisgen.analysis.copula import fit_values
    from goalmisgen.analysis.outliers import NullDistribution

    c, rng, alarms = fit_copula(of(population(60, 3, DATASET_512[:3]))), np.random.default_rng(5), 0

    def far(crowd):
        u = crowd.draw(60, rng)
        own = fit_values(u, c.floor, c.long, c.top)
        return own, own.outlier_statistics(u)

    for _ in range(100):
        own, s = far(c)
        alarms += (
            NullDistribution(own, np.array([far(own)[1] for _ in range(19)])).p_values(s)[1].min() <= 0.05
        )
    assert alarms <= 9, (
        alarms
    )  # 5 are expected; without counting the population among its own peers they were 10 to 15


def test_the_same_seed_gives_the_same_test():
    m = of(population(50))
    first, again, other = (outlier_test(m, simulate_null(m, 19, seed)) for seed in (3, 3, 4))
    assert first.equals(again) and not first.equals(other)
    with pytest.raises(ValueError, match='draws'):
        simulate_null(m, 0)


# Sentences


@pytest.mark.parametrize(
    'setting,p,steps,text',
    [
        (9, 0.02, 6.0, 'prefers a white gem to a yellow line (0.98, median 0.'),
        (9, 0.02, 6.0, 'capability intact (6.0 steps, median 6.'),
        (9, 0.02, 60.0, 'much slower (60.0 steps'),
        (9, 0.52, 6.0, None),  # within the crowd
        (7, 0.95, 6.0, 'reaches the first of two white lines more often than the second (0.95, median 0.'),
        (7, 0.05, 6.0, 'reaches the second of two white lines more often than the first (0.95, median 0.'),
        (7, 0.5, 80.0, 'with two white lines, much slower (80.0 steps'),
        (3, np.nan, 500.0, 'with a cyan line and a purple line, much slower (500.0 steps'),
    ],
)
def test_sentences_say_what_was_planted(setting, p, steps, text):
    a = population(200)
    a[DATASET_512[setting]][0][42], a[DATASET_512[setting]][1][42] = p, steps
    said = describe_outlier(of(a), 42)
    assert said.startswith('Agent 42: ') and said.endswith('.')
    if text:
        assert text in said
    else:
        assert 'white gem to' not in said


def test_a_preference_that_all_share_is_called_stronger_or_weaker():
    a = population(200)
    p = a[DATASET_512[10]][0]
    p[:] = 0.8 + 0.03 * (p - p.mean()) / p.std()
    p[42], p[43] = 0.95, 0.6
    m = of(a)
    assert (
        'prefers a red line to a white gem more strongly than others (0.95, median 0.80), capability intact'
        in describe_outlier(m, 42)
    )
    assert (
        'prefers a red line to a white gem less strongly than others (0.60, median 0.80), capability intact'
        in describe_outlier(m, 43)
    )


def test_a_sentence_names_three_settings_and_counts_the_rest():
    a = population(200)
    for s in DATASET_512[:6]:
        a[s][1][42] = 90.0
    said = describe_outlier(of(a), 42)
    assert said.count('much slower') == 3 and 'and is unusual in 3 further settings' in said
    with pytest.raises(ValueError, match='agent'):
        describe_outlier(of(a), 999)


def test_an_ordinary_agent_is_called_ordinary():
    m = of(population(200))
    middle = abs(normal_scores(m)).max(axis=1).idxmin()
    assert 'nothing stands out' in describe_outlier(m, middle)


# Would it happen again?


def test_replay_has_the_noise_of_so_many_episodes():
    m = of(population(300))
    again = replay(m, 400, np.random.default_rng(0))
    p, q = m.xs('preference', axis=1, level=1).to_numpy(), again.xs('preference', axis=1, level=1).to_numpy()
    assert abs(((q - p) / np.sqrt(p * (1 - p) / 400)).std() - 1) < 0.03
    s, t = m.xs('steps', axis=1, level=1).to_numpy(), again.xs('steps', axis=1, level=1).to_numpy()
    assert abs(((t - s) / s).std() - 0.05) < 0.002


def test_planted_outliers_are_stable_and_the_middle_is_not_an_outlier():
    m = planted(100)
    s = stability(m, simulate_null(m, 59), draws=15)
    assert (s.loc[[17, 39], ['resampled', 'replayed']] >= 0.7).all(axis=None) and s.outlier[[17, 39]].all()
    assert s.drop(index=[17, 39])[['resampled', 'replayed']].mean().max() < 0.05


# How rare


@pytest.mark.parametrize('k,n', [(0, 20), (1, 512), (7, 20), (20, 20)])
def test_rate_interval_is_that_of_scipy(k, n):
    e = stats.binomtest(k, n).proportion_ci(method='exact')
    assert np.allclose(rate_interval(k, n), (e.low, e.high))
    with pytest.raises(ValueError):
        rate_interval(n + 1, n)


def test_rarity_of_the_strangest_and_of_the_plainest():
    m = planted(100)
    e = simulate_null(m, 59)
    j = outlier_test(m, e)
    strange, plain = outlier_rate(j, 39, e), outlier_rate(j, j.index[-1], e)
    assert (
        strange['any'] <= 2 / 60
        and strange['tail_probability'] < 0.001
        and plain['any'] == 1
        and plain['tail_probability'] > 0.5
    )
    assert (strange['low'], strange['high']) == rate_interval(1, 100)


# Maps and figures


def test_two_kinds_of_agents_are_two_clusters():
    a = population(120)
    for s in DATASET_512[:6]:
        a[s][0][:60] = a[s][0][:60] * 0.1
    label = clusters(standardise(of(a)))
    assert len(set(label[label >= 0])) == 2 and len(set(label[:60]) & set(label[60:]) - {-1}) == 0
    one = clusters(standardise(of(population(120))))
    assert len(set(one[one >= 0])) == 1


def test_maps():
    z = standardise(of(population(60)))
    xy, share = embed(z)
    centred = z.to_numpy() - z.to_numpy().mean(0)
    s = np.linalg.svd(centred, compute_uv=False) ** 2
    assert np.allclose(share, s[:2] / s.sum()) and np.allclose((xy**2).sum(0), s[:2])
    near, none = embed(z, 'tsne')
    assert near.shape == (60, 2) and none is None and np.isfinite(near).all()
    with pytest.raises(ValueError, match='pca or tsne'):
        embed(z, 'umap')


def test_figures_name_the_agents_that_are_marked():
    m = planted(100)
    z = normal_scores(m)
    text = lambda fig: {t.get_text() for t in fig.findobj(matplotlib.text.Text)}
    assert {'39', '17'} <= text(draw_matrix(z, [39, 17])) and '39' in text(
        draw_map(standardise(m), [39], kinds=('pca',))
    )
    fig = draw_agent(m, 39)
    at = [c.get_offsets()[0].tolist() for c in fig.axes[0].collections if len(c.get_offsets()) == 1]
    assert 'Agent 39' in text(fig) and [0.02, 9] in np.round(at, 6).tolist()
    with pytest.raises(ValueError, match='agent'):
        draw_agent(m, -1)
