"""Lines through preferences: textbook numbers, intervals that cover, and slopes that noise does not flatten
once corrected"""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from goalmisgen.analysis.preferences import as_table
from goalmisgen.analysis.regression import (
    band,
    coefficients,
    correct,
    diagnose,
    influence,
    ols,
    pairs,
    regression_plot,
    residual_plots,
    simex,
)
from goalmisgen.evaluation.questions import Setting

matplotlib.use('Agg')
X, Y = Setting('green line', 'red line'), Setting('yellow gem', 'red line')
ANSCOMBE = dict(
    x=[10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5],
    y=[8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68],
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def frame(x, y, vx=0.0, vy=0.0):
    n = len(x)
    return pd.DataFrame(
        dict(
            population='p',
            agent=range(n),
            run=[f'agent-{i}' for i in range(n)],
            x=x,
            y=y,
            x_noise=vx,
            y_noise=vy,
        )
    )


def noisy(rng, agents, episodes, slope=0.5):
    "Preferences on a line of known slope, played for in so many episodes"
    x = rng.uniform(0.1, 0.9, agents)
    y = 0.25 + slope * (x - 0.5) + 0.25 + rng.uniform(-0.15, 0.15, agents)
    a, b = rng.binomial(episodes, x) / episodes, rng.binomial(episodes, y) / episodes
    return frame(a, b, a * (1 - a) / (episodes - 1), b * (1 - b) / (episodes - 1))


# Pairs


def table(n=5, **known):
    rng = np.random.default_rng(0)
    return pd.concat(
        [as_table(rng.uniform(0.2, 0.8, n), np.full(n, 5.0), s, 'made up', **known) for s in (X, Y)],
        ignore_index=True,
    )


def test_pairs_join_answers_of_the_same_agent():
    t = table()
    b = pairs(t.sample(frac=1, random_state=1), X, Y).sort_values('agent')
    assert (
        np.allclose(b.x, t.preference[:5])
        and np.allclose(b.y, t.preference[5:])
        and (b[['x_noise', 'y_noise']] == 0).all(None)
    )


def test_pairs_leave_out_agents_without_an_answer():
    t = table()
    t.loc[2, 'preference'] = np.nan
    assert list(pairs(t, X, Y).agent) == [0, 1, 3, 4]
    assert list(pairs(t[t.index != 9], X, Y).agent) == [0, 1, 3]
    with pytest.raises(ValueError, match='at least 3'):
        pairs(t[t.agent < 3], X, Y)


def test_noise_is_the_binomial_variance_of_episodes_that_reached_an_object():
    t = table(episodes=100, timeout=0.5)
    b, p = pairs(t, X, Y, 'sampled'), t.preference[:5]
    assert np.allclose(b.x_noise, p * (1 - p) / 49)
    rng = np.random.default_rng(1)
    p = rng.binomial(50, 0.3, 20000) / 50
    assert np.isclose((p * (1 - p) / 49).mean(), 0.3 * 0.7 / 50, rtol=0.01)  # unbiased


def test_a_swapped_question_is_taken_only_when_asked_to():
    t = table()
    turned = t.assign(obj1=['green line'] * 5 + ['red line'] * 5, obj2=['red line'] * 5 + ['yellow gem'] * 5)
    with pytest.raises(ValueError, match='swap=True'):
        pairs(turned, X, Y)
    assert np.allclose(pairs(turned, X, Y, swap=True).y, 1 - t.preference[5:])
    assert np.allclose(
        pairs(t, X, Y, swap=True).y, t.preference[5:]
    )  # asked the right way round: nothing to swap


# The line


def test_anscombe():
    "The published numbers of Anscombe's first data set (1973)"
    fit = ols(frame(**ANSCOMBE))
    c = coefficients(fit)
    assert (
        np.allclose(c.estimate, [3.0001, 0.5001], atol=1e-4)
        and np.allclose(c.se, [1.1247, 0.1179], atol=1e-4)
        and round(fit.rsquared, 4) == 0.6665
    )


def test_intervals_and_band_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 30)
    f = frame(x, 0.2 + 0.5 * x + rng.normal(0, 0.1, 30))
    fit, r, t = ols(f), stats.linregress(f.x, f.y), stats.t.ppf(0.975, 28)
    c = coefficients(fit)
    assert np.allclose(
        c.loc['slope', ['low', 'high']].astype(float), [r.slope - t * r.stderr, r.slope + t * r.stderr]
    )
    line, low, high = band(fit, [0.3])
    s = np.sqrt(
        ((f.y - r.intercept - r.slope * f.x) ** 2).sum()
        / 28
        * (1 / 30 + (0.3 - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    )
    assert np.allclose(
        [line[0], low[0], high[0]], [r.intercept + 0.3 * r.slope + k * t * s for k in (0, -1, 1)]
    )
    X_ = np.column_stack([np.ones(30), x])
    A = np.linalg.inv(X_.T @ X_)
    e, h = np.asarray(fit.resid), np.einsum('ij,jk,ik->i', X_, A, X_)
    hc3 = np.sqrt(np.diag(A @ (X_.T * (e / (1 - h)) ** 2) @ X_ @ A))
    assert np.allclose(c.se_hc3, hc3)


def test_x_must_vary():
    with pytest.raises(ValueError, match='differ'):
        ols(frame([0.5] * 4, [0.1, 0.2, 0.3, 0.4]))


# Residuals


def test_cooks_distance_is_what_leaving_an_agent_out_does():
    f = frame(**ANSCOMBE)
    fit = ols(f)
    d = influence(fit, f)
    for i in (0, 2, 7):
        without = ols(f[f.agent != i]).params
        moved = fit.fittedvalues - (without[0] + without[1] * f.x.to_numpy())
        assert np.isclose(d.cook[i], (moved**2).sum() / (2 * fit.mse_resid))


def test_tests_of_residuals_find_what_they_are_for():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 300)
    p = lambda y: diagnose(ols(frame(x, y))).set_index('test').p
    fan = p(x + rng.normal(0, 0.02 + 0.3 * x))
    bent, skew = p((x - 0.5) ** 2 + rng.normal(0, 0.02, 300)), p(x + rng.exponential(0.1, 300))
    alarms = np.mean([p(x + rng.normal(0, 0.1, 300)) <= 0.05 for _ in range(150)], 0)
    assert ((0.005 <= alarms) & (alarms <= 0.11)).all()  # 5 %, standard error 1.8 %
    assert fan['Breusch-Pagan'] < 1e-6 and fan['White'] < 1e-6
    assert bent['RESET'] < 1e-6 and skew['Shapiro-Wilk'] < 1e-6 and skew['Jarque-Bera'] < 1e-6


# Noise across


@pytest.mark.parametrize('episodes', [10, 30])
def test_least_squares_is_flattened_and_the_corrections_are_not(episodes):
    "Mean over 300 populations of 100; its standard error is below 0.006"
    rng = np.random.default_rng(episodes)
    some = [noisy(rng, 100, episodes) for _ in range(300)]
    c = [correct(f, draws=1) for f in some]
    spread = 0.8**2 / 12  # variance of x
    noise = (0.5 - (0.25 + spread)) / episodes  # E[p] - E[p^2]
    lost = 0.5 * spread / (spread + noise)
    assert abs(np.mean([k.ols_slope for k in c]) - lost) < 0.012 and lost < 0.46
    assert abs(np.mean([k.slope for k in c]) - 0.5) < 0.018
    assert abs(np.mean([simex(f, draws=20) for f in some[:100]]) - 0.5) < 0.035
    true = (0.25 * spread) / (0.25 * spread + 0.3**2 / 12)
    assert abs(np.median([k.r2 for k in c]) - true) < 0.04  # as far as y is concerned, too


def test_the_interval_of_the_corrected_slope_covers():
    rng = np.random.default_rng(5)
    inside = [(c := correct(noisy(rng, 80, 30), draws=300)).low <= 0.5 <= c.high for _ in range(120)]
    assert 105 <= sum(inside) <= 120  # 95 % of 120 is 114, standard error 2.4


def test_without_noise_nothing_is_corrected():
    f = frame(**ANSCOMBE)
    c, fit = correct(f), ols(f)
    assert (
        np.allclose([c.intercept, c.slope], fit.params)
        and c.reliability_x == 1
        and np.isclose(c.r2, fit.rsquared)
        and np.isclose(simex(f), c.slope)
    )
    assert c == correct(f)


def test_what_is_mostly_noise_is_refused():
    x = np.array([0.5, 0.52, 0.48, 0.51])
    with pytest.raises(ValueError, match='more episodes'):
        correct(frame(x, x, 0.01, 0.01))


# Figures


def test_the_legend_gives_three_decimals_and_every_agent_is_a_dot():
    f = frame(np.array(ANSCOMBE['x']) / 20, np.array(ANSCOMBE['y']) / 20)
    fig = regression_plot(f, X, Y, label={3: 'this one'})
    ax, fit = fig.axes[0], ols(f)
    text = ax.get_legend().get_texts()[0].get_text()
    assert all(f'{v:.3f}' in text for v in (fit.rsquared, *fit.params))
    assert len(ax.collections[0].get_offsets()) == 11
    names = {t.get_text() for t in ax.findobj(matplotlib.text.Text)}
    assert {'this one', 'yellow gem', 'red line', 'green line'} <= names


def test_residual_figure_names_who_pulls():
    f = frame(
        list(np.linspace(0.1, 0.5, 20)) + [0.95],
        list(np.linspace(0.1, 0.5, 20) + 0.01 * (-1) ** np.arange(20)) + [0.2],
    )
    fig = residual_plots(ols(f), f)
    assert 'agent 20' in {t.get_text() for t in fig.axes[2].texts}
