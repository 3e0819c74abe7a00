"""What the README says is what the shipped tables show; numbers come with their intervals, and agents without
an answer do not count"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest, f_oneway, ks_2samp, pearsonr, t, ttest_ind
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from goalmisgen.agents.impala import Policy
from goalmisgen.agents.training_levels import FIRST_UNSEEN
from goalmisgen.analysis.prediction import paired, predict_preferences
from goalmisgen.analysis.scores import shipped_scores
from goalmisgen.analysis.preferences import (
    as_table,
    most_different,
    of_setting,
    opposites,
    published_dots,
    summarise,
)
from goalmisgen.analysis.scatter import scatter
from goalmisgen.analysis.regression import pairs
from goalmisgen.analysis.seeds import lean, main_effects, seed_grid, seed_table
from goalmisgen.evaluation.goals import evaluate_goals
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.intervals import (
    correlation_of,
    count_of,
    explained,
    mean_of,
    prefer_first,
    proportion_of,
)
from goalmisgen.evaluation.tables import load_table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = ' '.join((ROOT / 'README.md').read_text(encoding='utf-8').split())
BLACK = 'exact-yellow-line-black'
PAIR = Setting('red line', 'yellow gem')


def preference(name, obj1, obj2, background='black'):
    return of_setting(load_table(name), Setting(obj1, obj2, background)).set_index('agent').preference


def says(text):
    assert text in README, f'README does not say: {text}'


# The README, sentence by sentence


def test_how_far_preferences_go_and_how_they_lie_beside_the_papers():
    red, dots = preference(BLACK, 'red line', 'yellow gem'), published_dots().preference
    gap = ttest_ind(red, dots, equal_var=False).confidence_interval()
    says(f'the preferences of {len(red)} agents go from {red.min():.2f} to {red.max():.2f}')
    says(
        f"the paper’s {len(dots)} legible ones are (p = {ks_2samp(red, dots).pvalue:.3f}".replace('= 0', '= ')
    )
    says(f'only {red.mean() - dots.mean():.3f} apart ({gap.low:.2f} to {gap.high:.2f})')


def test_the_papers_population_again_and_twins():
    rows, dots = of_setting(load_table('ppo-h200-yellow-line-black'), PAIR), published_dots()
    says(
        f'prefer the line with {rows.preference.mean():.3f} on average where the paper’s {len(dots)} legible '
        f'agents have {dots.preference.mean():.3f}'
    )
    says(f'a standard deviation of {rows.preference.std():.3f} and {dots.preference.std():.3f}')
    says(f'in {rows.mean_length.median():.1f} and {dots.mean_length.median():.1f} steps at the median')
    assert len(rows) == 80
    for column in ('preference', 'mean_length'):
        assert ks_2samp(rows[column], dots[column]).pvalue > 0.2
    for obj1, obj2 in (('green line', 'red line'), ('red line', 'yellow gem')):
        ours, theirs = preference('ppo-h200-yellow-line-black', obj1, obj2), preference(BLACK, obj1, obj2)
        r = correlation_of(ours, theirs.reindex(ours.index))
        says(f'{r.value:.2f} ({r.low:.2f} to {r.high:.2f})')


def test_sufficiency_fitted_to_one_trainer_predicts_the_other():
    scores, table = shipped_scores(), load_table(BLACK)
    columns = ['sufficiency_red', 'sufficiency_green']
    new = scores.query("population=='ppo-h200-yellow-line-black'").set_index('agent')[columns]
    for question in (Setting('green line', 'red line'), PAIR):
        X, y, _ = paired(scores, table, question, columns)
        told = make_pipeline(StandardScaler(), Ridge(1.0)).fit(X, y).predict(new.to_numpy())
        wants = preference('ppo-h200-yellow-line-black', question.obj1, question.obj2).reindex(new.index)
        r = correlation_of(told, wants)
        assert len(y) == 55 and len(new) == 80
        says(
            f'{r.value:.2f} ({r.low:.2f} to {r.high:.2f}) for '
            f'{"green against red line" if question != PAIR else "red line against gem"}'
        )


def test_what_sufficiency_and_necessity_predict_of_all_six_questions():
    scores, table = shipped_scores().query('population==@BLACK'), load_table(BLACK)
    asked = [Setting(*k) for k in dict.fromkeys(zip(table.obj1, table.obj2, table.background))]
    sufficiency, necessity = (
        predict_preferences(scores, table, asked, (f'{kind}_red', f'{kind}_green'), permutations=0).set_index(
            ['obj1', 'obj2']
        )
        for kind in ('sufficiency', 'necessity')
    )
    sure = [
        f'{sufficiency.r2[q]:.2f} ({sufficiency.low[q]:.2f} to {sufficiency.high[q]:.2f})'
        for q in (('green line', 'red line'), ('green line', 'yellow gem'), ('red line', 'yellow gem'))
    ]
    says(
        f'R² is {sure[0]} for green against red line, {sure[1]} for green line against gem, {sure[2]} for '
        'red line against gem'
    )
    assert (
        len(asked) == 6
        and set(sufficiency.agents) == {55}
        and set(sufficiency.left_out) == {45}
        and sorted(sufficiency.r2)[2] < 0.2
    )
    lost = [
        necessity.r2[q]
        for q in (('green line', 'red line'), ('green line', 'yellow gem'), ('red line', 'yellow gem'))
    ]
    says('predicts less: {:.2f}, {:.2f} and {:.2f}'.format(*lost))
    says(f'All {(scores.necessity_blue > 0.5).sum()} need the *blue* channel')
    assert (scores.necessity_blue > 0.5).all()
    eye = scores[['necessity_red', 'necessity_green']].gt(0.5)
    says(
        f'On black {(scores.sufficiency_red > scores.sufficiency_green).sum()} agents of 55 see their goal '
        'better by red and '
        f'{(scores.sufficiency_green > scores.sufficiency_red).sum()} by green; of those that need just one '
        'of the two, '
        f'{(eye.necessity_red & ~eye.necessity_green).sum()} need red and '
        f'{(eye.necessity_green & ~eye.necessity_red).sum()} green'
    )


def test_which_seed_decides_and_where_the_lean_holds():
    answers = of_setting(load_table('exact-seed-grid'), Setting('green line', 'red line'))[
        ['agent', 'preference']
    ]
    grid = seed_table(seed_grid(3, 3, 2)).merge(answers, on='agent')
    assert len(grid) == 18
    says(
        f"explains {main_effects(grid, permutations=1).set_index('factor').share['weights']:.0%}".replace(
            '%', ' %'
        )
    )
    textured = preference('exact-yellow-line-textured', 'green line', 'red line', 'textured')
    table = pd.read_csv(ROOT / 'bench/alignments.csv').query("background == 'textured'").set_index('seed')
    leans = (table.green - table.red)[textured.index]
    for n in (0, 11, 29):
        assert lean(Policy(n), background='textured') == pytest.approx(leans[n], abs=1e-5)
    r = correlation_of(leans.to_numpy(), textured)
    value, low, high = map(
        float, re.search(r'lean says little: (\S+) \((\S+) to (\S+)\)', README.replace('−', '-')).groups()
    )
    assert r.low < 0 < r.high and max(abs(value - r.value), abs(low - r.low), abs(high - r.high)) < 0.011


def test_what_textures_did():
    name = 'exact-yellow-line-textured'
    gem, green = (
        1 - preference(name, 'red line', 'yellow gem', 'textured'),
        preference(name, 'green line', 'red line', 'textured'),
    )
    open_ = prefer_first(preference(name, 'green line', 'yellow gem', 'textured'))
    says(
        f'{(gem > 0.5).sum()} choose the gem over a red line and {(green > 0.5).sum()} a green line over a '
        'red one'
    )
    says(f'is not shown: {count_of(open_)} ({100 * open_.low:.0f} to {100 * open_.high:.0f} %)')
    assert binomtest(19, 30).pvalue > 0.05 > binomtest(int((green > 0.5).sum()), 30).pvalue


# Estimates


def test_cheese_outside_its_corner():
    table = pd.read_csv(ROOT / 'goalmisgen' / 'data' / 'goals' / 'corner-agents.csv')
    shifted = table[table['shift'] == 'shifted'].set_index('background')
    black, textured = shifted.loc['black'], shifted.loc['textured']
    assert len(black) == 3 and len(shifted) == 4 and table.trained_levels.nunique() == 1
    says('worlds of 15 by 15, are asked on 500 levels that they never saw')
    says(f'reach it in {black.p_goal.min():.2f} to {black.p_goal.max():.2f} of episodes')
    says(f'the one on textures in {textured.p_goal:.2f}')
    alone = black.proxy_alone
    says(f'those on black less ({alone.min():.2f} to {alone.max():.2f})')
    says(f'the one on textures more ({textured.proxy_alone:.2f})')


def test_a_random_mouse_goes_to_the_corner():
    "The yardstick of the sentence above: actions drawn evenly, on the levels that its agents were asked on"
    evenly = lambda frames: torch.full((len(frames), 15), 1 / 15)
    unseen = range(FIRST_UNSEEN, FIRST_UNSEEN + 500)
    mouse = evaluate_goals(evenly, 'cheese', world='15x15, dead ends, random size', levels=unseen)
    says(f'than it draws a mouse that walks at random ({mouse.summary()["proxy_alone"]:.2f})')


def test_what_is_wanted_can_be_subtracted():
    table = pd.read_csv(
        ROOT / 'goalmisgen' / 'data' / 'interp' / 'goal-vectors-summary.csv',
        keep_default_na=False,
        na_values=['nan', ''],
    )
    own = table[(table.vector == 'cheese') & (table.coeff == -1) & (table.mazes == 53)]
    medians = own.pivot_table(index='agent', columns='measure', values='median').loc[
        ['textured 0', 'black 0', 'black 1']
    ]
    words = [[f'{v:.2f}' for v in medians[c]] for c in ('cheese_before', 'cheese')]
    before, after = (f'{a}, {b} and {c}' for a, b, c in words)
    says(f'over 53 mazes the median probability of turning to the cheese falls from {before} to {after}')
    edits = pd.read_csv(
        ROOT / 'goalmisgen' / 'data' / 'interp' / 'one_vector.csv', keep_default_na=False
    ).assign(preference=lambda t: t.p1 / (t.p1 + t.p2))
    plain = edits[edits.direction == 'none'].set_index('agent').preference
    at = edits[(edits.layer == 'embedder.block2.res2') & (edits.place == 'local') & (edits.coeff == 2)]
    change = at.assign(change=at.preference - at.agent.map(plain)).set_index('agent')
    own = change[change.direction == 'colour'].change
    assert len(own) == 6 and (own > 0).all()
    says(f'in six agents of six, by {own.min():.2f} to {own.max():.2f}')
    random = change[change.direction.str.startswith('random')].change
    assert len(random) == 12 and (random < own.reindex(random.index)).all()
    says('random vectors of the same length do less in twelve comparisons of twelve')


def test_estimates_are_those_of_the_formulas():
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    m, half = mean_of(x), t.ppf(0.975, 29) * x.std(ddof=1) / 30**0.5
    assert np.allclose([m.value, m.low, m.high], [x.mean(), x.mean() - half, x.mean() + half])
    r = pearsonr(x, y)
    assert np.allclose([*vars(correlation_of(x, y)).values()][:3], [r.statistic, *r.confidence_interval()])
    for k in (0, 7, 30):
        ci = binomtest(k, 30).proportion_ci(method='wilson')
        assert np.allclose(
            [proportion_of(k, 30).low, proportion_of(np.int64(k), 30).high], [ci.low, ci.high], atol=1e-9
        )


def test_who_has_no_answer_does_not_count():
    with_gap = [0.2, np.nan, 0.6, 0.7]
    assert (
        mean_of(with_gap) == mean_of([0.2, 0.6, 0.7])
        and prefer_first(with_gap).n == 3
        and count_of(prefer_first(with_gap)) == '2 of 3'
    )
    assert correlation_of([*range(5), np.nan], [0, 2, 1, 3, 4, 9]).n == 5
    for bad in (
        lambda: mean_of([np.nan, 1]),
        lambda: prefer_first([np.nan]),
        lambda: proportion_of(3, 2),
        lambda: proportion_of(1, 0),
        lambda: correlation_of([1, 2, np.nan, 3], [1, 2, 3, 4]),
        lambda: explained([1, 2], [1, 2], [0, 0]),
    ):
        with pytest.raises(ValueError):
            bad()


def test_interval_of_what_is_explained_holds_the_truth_as_often_as_it_says():
    "With predictions that leave half of the variance, over 60 made-up populations"
    rng, hits = np.random.default_rng(0), 0
    for seed in range(60):
        signal = rng.normal(size=80)
        e = explained(signal + rng.normal(size=80), signal, 0 * signal, seed)
        hits += e.low <= 0.5 <= e.high
    assert 52 <= hits <= 60


# Seeds


def test_shares_and_their_p_are_those_of_an_analysis_of_variance():
    "The share is eta squared of a one-way analysis of variance, whose p that of the permutations is near"
    rng = np.random.default_rng(0)
    grid = seed_table(seed_grid(3, 3, 4))
    grid['preference'] = 0.5 + 0.08 * (grid.weights - 1000) + rng.normal(0, 0.1, len(grid))
    found = main_effects(grid).set_index('factor')
    for factor in ('weights', 'levels', 'sampling'):
        groups = [g.preference for _, g in grid.groupby(factor)]
        within = sum(((g - g.mean()) ** 2).sum() for g in groups)
        assert np.isclose(
            found.share[factor], 1 - within / ((grid.preference - grid.preference.mean()) ** 2).sum()
        )
        assert abs(found.p[factor] - f_oneway(*groups).pvalue) < 0.05
    assert found.p['weights'] < 0.01 and np.isclose(found.by_chance['sampling'], 3 / 35)
    assert (main_effects(grid.assign(preference=0.5)).share == 0).all()


# Orders, extremes, reports


def test_an_agent_without_a_preference_is_at_no_end():
    table = as_table([0.4, np.nan, 0.9, 0.1, np.nan], [5, 500, 6, 7, 500], PAIR, 'x')
    assert opposites(table, PAIR) == (2, 3)
    assert (
        opposites(table[table.agent.isin([1, 2, 4])], PAIR) == (2,)
        and opposites(table[table.preference.isna()], PAIR) == ()
    )
    s = summarise(table).iloc[0]
    assert s.agents == 5 and s.answers == 3


def test_the_most_different_agents_are_so_over_all_questions():
    other = Setting('green line', 'yellow gem')
    rng = np.random.default_rng(0)
    p, q = rng.uniform(size=(2, 12))
    p[3] = np.nan
    table = pd.concat(
        [as_table(v, np.full(12, 9.0), s, 'x') for v, s in ((p, PAIR), (q, other))], ignore_index=True
    )
    a, b, far = most_different(table, [PAIR, other])
    every = {
        (i, j): np.sqrt(((p[i] - p[j]) ** 2 + (q[i] - q[j]) ** 2) / 2)
        for i in range(12)
        for j in range(i)
        if 3 not in (i, j)
    }
    assert far == pytest.approx(max(every.values())) == pytest.approx(every[max(a, b), min(a, b)])
    with pytest.raises(ValueError):
        most_different(table[table.agent.isin([3, 4])], [PAIR, other])
    with pytest.raises(ValueError):
        most_different(table, [])


def test_figures_count_in_words_and_say_who_has_no_dot():
    def told(preference):
        fig = scatter(as_table(preference, np.full(len(preference), 9.0), PAIR, 'x'), PAIR)
        return ' '.join(x.get_text() for x in fig.axes[0].texts)

    assert '1 agent,' in told([0.5]) and '3 agents, 1 without a preference' in told([0.5, 0.6, np.nan])


def test_who_is_left_out_of_a_fit_is_named():
    x, y = Setting('green line', 'red line'), Setting('yellow gem', 'red line')
    table = pd.concat(
        [
            as_table([0.1, 0.5, np.nan, 0.9, 0.3], [5.0] * 5, x, 'p'),
            as_table([0.2, 0.6, 0.7, 0.8, 0.3], [5.0] * 5, y, 'p')[:4],
        ]
    )
    both = pairs(table, x, y)
    assert both.agent.tolist() == [0, 1, 3] and both.attrs['left_out'] == [2, 4]
