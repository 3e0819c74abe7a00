"""Numbers behind the scatter plots: densities that integrate, tests of populations that keep their level,
published dots as measured"""

from itertools import permutations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from goalmisgen.analysis.comparison import compare_populations
from goalmisgen.analysis.preferences import as_table, of_setting, published_dots, summarise
from goalmisgen.analysis.scatter import density, draw_all, draw_scatter, scatter, scatter_grid
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.results import COLUMNS
from goalmisgen.evaluation.settings import PAPER
from goalmisgen.style import style

matplotlib.use('Agg')
PAIR = Setting('red line', 'yellow gem')


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def made_up(n=30, seed=0, setting=PAIR, **known):
    rng = np.random.default_rng(seed)
    return as_table(rng.beta(4, 5, n), 4 + rng.exponential(6, n), setting, 'made up', **known)


# Tables


def test_a_table_from_arrays_has_the_columns_of_results():
    t = made_up(5)
    assert (
        tuple(t.columns) == COLUMNS
        and set(t.method) == {'exact'}
        and (t.preference_low == t.preference).all()
    )
    played = made_up(5, episodes=100)
    expected = [
        stats.binomtest(round(p * 100), 100).proportion_ci(method='wilson')
        for p in np.round(played.preference, 2)
    ]
    rounded = as_table(np.round(played.preference, 2), played.mean_length, PAIR, 'x', 100)
    assert np.allclose(
        rounded[['preference_low', 'preference_high']], [(e.low, e.high) for e in expected], atol=1e-4
    )


@pytest.mark.parametrize(
    'p,steps', [([0.5, 1.1], [4, 4]), ([0.5], [4, 4]), ([0.5], [501]), ([-0.1], [4]), ([0.5], [0])]
)
def test_impossible_dots_are_refused(p, steps):
    with pytest.raises(ValueError):
        as_table(p, steps, PAIR, 'x')


def test_rows_of_a_setting_are_one_an_agent():
    t = made_up(5)
    both = pd.concat([t, t.assign(run=[f'again-{i}' for i in range(5)])])
    assert len(of_setting(both, PAIR)) == 10  # two agents of one seed are two agents
    with pytest.raises(ValueError, match='several'):
        of_setting(pd.concat([t, t.assign(step=7)]), PAIR)


def test_summary_counts_capable_agents_and_quantiles():
    t = as_table([0.1, 0.2, 0.3, 0.4, np.nan], [4, 9, 10, 11, 500], PAIR, 'x', timeout=[0, 0, 0, 0, 1.0])
    s = summarise(t, capable=10, quantiles=(0.05, 0.5)).iloc[0]
    assert (
        s.agents == 5
        and s.under_10_steps == 0.4
        and np.isclose(s.q50, 0.25)
        and np.isclose(s.q05, 0.115)
        and np.isclose(s.timeout, 0.2)
    )
    assert summarise(t, capable=9.5).iloc[0]['under_9.5_steps'] == 0.4
    with pytest.raises(ValueError, match='capable'):
        summarise(t, capable=0)


# Density


@pytest.mark.parametrize('values', [[0.0], [1.0, 1.0, 1.0], [0.5], list(np.linspace(0, 1, 40))])
def test_density_integrates_to_one_up_to_the_ends(values):
    x = (np.arange(4000) + 0.5) / 4000
    assert abs(density(values, x).mean() - 1) < 1e-6


def test_density_is_a_sum_of_normal_curves_and_their_reflections():
    v, x = np.random.default_rng(1).uniform(0, 0.6, 50), np.linspace(0, 0.7, 9)
    curves = [stats.norm.pdf(x[:, None], centre, 0.05).sum(1) for centre in (v, -v, 2 - v)]
    assert np.allclose(density(v, x, 0.05), sum(curves) / 50)


def test_density_refuses_what_is_not_a_preference():
    for v in ([], [1.5], [np.nan]):
        with pytest.raises(ValueError):
            density(v, [0.5])


# Comparing populations


@pytest.mark.parametrize(
    'a,b', [([1.0, 2, 4], [3.0, 7, 8]), ([0.3, 0.1], [0.2, 0.9, 0.9]), ([1.0, 1], [1.0, 1])]
)
def test_small_populations_are_compared_by_all_deals(a, b):
    seen, pool = abs(np.mean(a) - np.mean(b)), np.array(a + b)
    every = [
        abs(pool[list(o)][: len(a)].mean() - pool[list(o)][len(a) :].mean())
        for o in permutations(range(len(pool)))
    ]
    t = compare_populations(a, b)
    assert (
        t.exact
        and np.isclose(t.p, np.mean(np.array(every) >= seen - 1e-12))
        and np.isclose(t.difference, np.mean(a) - np.mean(b))
    )


def test_permutation_p_is_that_of_a_plain_loop_and_never_zero():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 20), rng.normal(0.7, 1, 25)
    pool, seen = np.concatenate([a, b]), abs(a.mean() - b.mean())
    dealt = [abs(o[:20].mean() - o[20:].mean()) for o in (rng.permutation(pool) for _ in range(9999))]
    ours = compare_populations(a, b)
    assert (
        abs(ours.p - np.mean(np.array(dealt) >= seen)) < 0.01 and not ours.exact and ours.permutations == 9999
    )
    assert ours == compare_populations(a, b) and ours.p != compare_populations(a, b, seed=1).p
    assert compare_populations(a, b + 50, permutations=199).p == 1 / 200


def test_effects_are_those_of_the_formulas():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 12), rng.normal(0.7, 2, 9)
    pooled = np.sqrt((11 * a.var(ddof=1) + 8 * b.var(ddof=1)) / 19)
    mean, sd = (compare_populations(a, b, statistic, permutations=9) for statistic in ('mean', 'sd'))
    assert np.isclose(mean.effect, (a.mean() - b.mean()) / pooled) and np.isclose(
        sd.effect, a.std(ddof=1) / b.std(ddof=1)
    )
    assert np.isclose(sd.difference, a.std(ddof=1) - b.std(ddof=1)) and mean.low < mean.difference < mean.high


@pytest.mark.parametrize('statistic,shift,stretch', [('mean', 0, 1), ('sd', 0.3, 1)])
def test_false_alarms_are_as_frequent_as_stated(statistic, shift, stretch):
    "The test of spread must not mind a shift. 5 % of 400 has a standard error of 1.1 %"
    rng, alarms = np.random.default_rng(2), 0
    for i in range(400):
        alarms += (
            compare_populations(
                rng.beta(4, 5, 25), rng.beta(4, 5, 30) * stretch + shift, statistic, permutations=99, seed=i
            ).p
            <= 0.05
        )
    assert 0.02 <= alarms / 400 <= 0.085


def test_a_difference_in_spread_is_found_and_measured():
    rng = np.random.default_rng(3)
    t = compare_populations(rng.normal(0.5, 0.2, 100), rng.normal(0.7, 0.1, 100), 'sd', permutations=999)
    assert t.p == 0.001 and t.effect_low < 2 < t.effect_high and t.low > 0


def test_effect_interval_covers():
    "Cohen's d of 0.5 lies in the 95 % interval in about 95 of 100 populations of 60"
    rng = np.random.default_rng(4)
    inside = [
        (t := compare_populations(rng.normal(0.5, 1, 60), rng.normal(0, 1, 60), permutations=9)).effect_low
        <= 0.5
        <= t.effect_high
        for _ in range(100)
    ]
    assert 88 <= sum(inside) <= 100


@pytest.mark.parametrize(
    'a,b,kw',
    [([1.0, np.nan], [1.0, 2], {}), ([1.0], [1.0, 2], {}), ([1.0, 2], [1.0, 2], dict(statistic='median'))],
)
def test_bad_comparisons_are_refused(a, b, kw):
    with pytest.raises(ValueError):
        compare_populations(a, b, **kw)


# The published dots


def test_published_dots_have_the_published_moments():
    "Mean, median, standard deviation, extremes and lengths as measured on the figure by another program"
    d = published_dots()
    p, steps = d.preference, d.mean_length
    assert len(d) == 97 and tuple(d.columns) == COLUMNS and set(d.method) == {'sampled'}
    assert [round(x, 3) for x in (p.mean(), p.median(), p.std())] == [0.474, 0.467, 0.125]
    assert (
        (round(p.min(), 2), round(p.max(), 2)) == (0.22, 0.75)
        and (steps < 10).sum() == 66
        and (steps >= 30).sum() == 3
    )


# Figures


def texts(fig):
    return {t.get_text() for ax in fig.axes for t in ax.findobj(matplotlib.text.Text)}


def test_every_agent_is_a_dot_and_slow_ones_sit_on_the_edge():
    t = as_table([0.2, 0.4, 0.6], [5, 99, 400], PAIR, 'x')
    with style():
        fig, ax = plt.subplots()
        draw_scatter(ax, t, PAIR, label={2: 'lost'})
    on, late = [
        np.asarray(c.get_offsets())
        for c in ax.collections
        if isinstance(c, matplotlib.collections.PathCollection)
    ]
    assert on.tolist() == [[5, 0.2], [99, 0.4]] and late.tolist() == [[100, 0.6]]
    assert {'red line', 'yellow gem', 'lost'} <= texts(fig)


def test_whiskers_only_where_preferences_were_played():
    def whiskers(t, method):
        fig = scatter(t, PAIR, method=method)
        return sum(
            len(c.get_segments())
            for c in fig.axes[0].collections
            if isinstance(c, matplotlib.collections.LineCollection)
        )

    assert whiskers(made_up(), 'exact') == 0 and whiskers(made_up(episodes=100), 'sampled') == 30


def test_grid_says_what_was_not_asked():
    fig = scatter_grid(made_up(), [[PAIR, Setting('blue line', 'yellow gem')], [PAIR]], ['one', 'two'])
    assert 'not asked' in texts(fig) and {'one', 'two'} <= {t.get_text() for t in fig.texts}


def test_all_figures_of_a_population(tmp_path):
    settings = PAPER['yellow-line-black'].settings
    t = pd.concat([made_up(9, i, s) for i, s in enumerate(settings[:2])])
    names = [p.name for p in draw_all(t, 'yellow-line-black', tmp_path)]
    assert names == [f'train-yellow-line-test-{c}-line-yellow-gem-scatter.svg' for c in ('black', 'blue')] + [
        'gallery.png'
    ]
    assert all((tmp_path / n).stat().st_size > 1000 for n in names)
    with pytest.raises(ValueError, match='population'):
        draw_all(t, 'nobody', tmp_path)
    with pytest.raises(ValueError, match='at least one of'):
        draw_all(t, 'white-line-black', tmp_path)
