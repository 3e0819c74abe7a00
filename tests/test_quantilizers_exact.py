"The solved car: returns, grades, ideal quantilizers and penalties against slower and sampled ways"

import itertools

import numpy as np
import pytest
from goalmisgen.quantilizers.car_chain import build_car_chain, key_probs, one_hot
from goalmisgen.quantilizers.grades import (
    drive_chi2,
    drive_kl,
    excess_share,
    grade,
    greatest_weight,
    tail_index,
    visit_chi2,
)
from goalmisgen.quantilizers.playing import RandomHands, play_cars
from goalmisgen.quantilizers.regularised import (
    chi2_regularised,
    kl_policy_at,
    kl_regularised,
    time_kl,
    time_visit_chi2,
)
from goalmisgen.quantilizers.reweighting import (
    WAYS,
    at_divergence,
    chi2_weights,
    kl_weights,
    mixed_table,
    quantile_weights,
    weighted_summary,
)


def steady(chain, right):
    return right * np.where(chain.velocity[:, None] >= 0, [0.0, 0, 1], [1.0, 0, 0]) + (1 - right) / 3


@pytest.fixture(scope='module')
def small():
    return build_car_chain(31, 21)


class Pumper(RandomHands):
    def probs(self, observations):
        right = (observations[..., 1] >= 0) * 1.0
        return np.stack([0.2 / 3 + 0.8 * (1 - right), 0.2 / 3 + 0 * right, 0.2 / 3 + 0.8 * right], -1)[
            :, :, None
        ]


def test_finer_grids_come_closer_to_the_road():
    real = play_cars(Pumper('mountain_car', 1), 3000, 1)
    found = []
    for size in ((61, 41), (121, 101)):
        chain = build_car_chain(*size)
        found.append(chain.evaluate_policy(key_probs(Pumper('mountain_car', 1), chain)[0]))
    far, near = (abs(r.true - real.true.mean()) for r in found)
    assert near < far and near < 2.5 and abs(found[1].proxy - real.proxy.mean()) < 1.5
    assert abs(found[1].solved - (real.steps < 200).mean()) < 0.03


def test_the_chain_against_its_own_dice(small):
    "Ten thousand drives along the grid's own transitions"
    rng, n, probs = np.random.default_rng(0), 10_000, steady(small, 0.7)
    state = rng.choice(len(small), n, p=small.start)
    true, proxy, driving = np.zeros(n), np.zeros(n), np.ones(n, bool)
    for _step in range(small.horizon):
        key = (rng.random(n)[:, None] > probs[state].cumsum(1)).sum(1).clip(max=2)
        true -= driving
        proxy += driving * small.proxy[state, key]
        where = small.prob[state, key].cumsum(1)
        driving &= where[:, -1] > 0.5
        state = small.target[state, key, (rng.random(n)[:, None] > where).sum(1).clip(max=3)]
    exact = small.evaluate_policy(probs)
    assert (
        abs(true.mean() - exact.true) < 4 * true.std() / n**0.5
        and abs(proxy.mean() - exact.proxy) < 4 * proxy.std() / n**0.5
    )
    table = small.returns_table(probs, 0.5)
    for level in (0.1, 0.5, 0.9):
        at = np.quantile(proxy, level)
        assert abs(table.prob[table.proxy <= at].sum() - level) < 0.04
    best = proxy >= np.quantile(proxy, 0.8)
    ideal = weighted_summary(table, quantile_weights(table, 0.2))
    assert abs(ideal['true'] - true[best].mean()) < 2 and abs(ideal['proxy'] - proxy[best].mean()) < 1.5


def test_the_best_policy_beats_others_and_its_value_is_what_it_gets(small):
    for reward in (small.true_reward(), small.proxy):
        keys, value = small.best_policy(reward)
        found = small.evaluate_policy(one_hot(keys))
        got = found.proxy if reward is small.proxy else found.true
        assert np.isclose(value, got, atol=1e-6)
        for right in (0.0, 0.5, 1.0):
            other = small.evaluate_policy(steady(small, right))
            assert value >= (other.proxy if reward is small.proxy else other.true)


def brute_force(chain, probs, base):
    "KL, log(1+chi2) and greatest log weight by listing all drives of a short horizon"
    kl = square = 0.0
    greatest = -np.inf
    begun = [(s, chain.start[s], chain.start[s], 1.0) for s in np.flatnonzero(chain.start)]
    for _step in range(chain.horizon):
        following = []
        for state, p, b, w in begun:
            if state < 0:
                following.append((state, p, b, w))
                continue
            for key in range(3):
                ratio = probs[state, key] / base[state, key]
                ways = [
                    (t, c) for t, c in zip(chain.target[state, key], chain.prob[state, key]) if c > 0
                ] or [(-1, 1.0)]
                following += [
                    (t, p * probs[state, key] * c, b * base[state, key] * c, w * ratio) for t, c in ways
                ]
        begun = following
    for _, p, b, w in begun:
        if p > 0:
            kl += p * np.log(w)
            greatest = max(greatest, np.log(w))
        square += b * w * w
    return kl, np.log(square), greatest


def test_divergences_against_a_list_of_all_drives():
    chain = build_car_chain(5, 3, horizon=3)
    rng = np.random.default_rng(1)
    probs, base = rng.dirichlet([1, 1, 1], (2, len(chain)))
    found = chain.evaluate_policy(probs)
    ours = (
        drive_kl(found.visits, probs, base),
        drive_chi2(chain, probs, base),
        greatest_weight(chain, probs, base),
    )
    assert np.allclose(ours, brute_force(chain, probs, base))
    assert np.isclose(time_kl(chain, np.broadcast_to(probs, (3, *probs.shape)), base), ours[0])


def test_grades_of_the_base_itself_are_zero(small):
    base = steady(small, 0.5)
    row = grade(small, base, base, 1.0)
    assert abs(row['kl']) < 1e-9 and abs(row['log_chi2']) < 1e-9 and abs(row['log_weight']) < 1e-9
    assert (
        abs(row['visit_chi2']) < 1e-9
        and row['excess'] == 0
        and all(np.isclose(row[c], row[f'{c}_bound']) for c in ('parked', 'wall', 'failed'))
    )
    other = steady(small, 0.9)
    found, at_base = small.evaluate_policy(other), small.evaluate_policy(base)
    assert excess_share(found.visits, other, at_base.visits, base, 1.0) > excess_share(
        found.visits, other, at_base.visits, base, 0.2
    )
    assert visit_chi2(small, found.visits, other, at_base.visits, base) > 0
    with pytest.raises(ValueError, match='shape of probs'):
        grade(small, base[:5], base, 1.0)


def test_each_way_is_best_in_its_own_measure_and_the_bound_holds_for_any_cost(small):
    table = mixed_table([small.returns_table(steady(small, r), 1) for r in (0.4, 0.9)], [0.5, 0.5])
    rng = np.random.default_rng(0)
    for q in (0.5, 0.1, 0.01):
        weight = quantile_weights(table, q)
        found = weighted_summary(table, weight)
        assert np.allclose(
            [found['kl'], found['chi2'], found['weight']], [np.log(1 / q), 1 / q - 1, 1 / q], rtol=0.03
        )
        for cost in rng.random((20, len(weight))) ** 8:
            assert table.prob @ (weight * cost) <= table.prob @ cost / q + 1e-12
    for measure, amount in itertools.product(('kl', 'chi2'), (0.3, 1.5)):
        reached = {way: weighted_summary(table, at_divergence(table, way, amount, measure)) for way in WAYS}
        assert all(np.isclose(r[measure], amount, rtol=1e-3) for r in reached.values())
        assert max(reached, key=lambda way: reached[way]['proxy']) == measure
    for weight in (kl_weights(table, 7.0), chi2_weights(table, -60.0)):
        assert np.isclose(table.prob @ weight, 1)
    with pytest.raises(ValueError, match='beta'):
        kl_weights(table, 0)


def test_penalised_optima_are_optimal():
    chain = build_car_chain(13, 9, horizon=60)
    base = steady(chain, 0.6)
    rng = np.random.default_rng(2)
    probs, value = kl_regularised(chain, base, 3.0)
    ours = chain.evaluate_policy(probs).proxy - 3 * time_kl(chain, probs, base)
    assert np.isclose(ours, value, atol=1e-3)
    for _try in range(8):
        other = probs * rng.uniform(0.7, 1.3, probs.shape)
        other /= other.sum(-1, keepdims=True)
        assert chain.evaluate_policy(other).proxy - 3 * time_kl(chain, other, base) <= value + 1e-3
    few, more = (chi2_regularised(chain, base, 20.0, rounds) for rounds in (5, 60))
    worth = [r.proxy - 20 * r.chi2 for r in (few, more)]
    assert worth[0] - 1e-3 <= worth[1] <= worth[0] + few.gap + 1e-2 and 0 <= more.gap < few.gap
    found = chain.evaluate_policy(base)
    assert worth[1] >= found.proxy


def test_policies_at_a_distance_and_what_filters_can_do_more(small):
    base, other = steady(small, 0.6), steady(small, 0.8)
    table = small.returns_table(base, 0.5)
    for amount in (0.3, 2.0):
        probs, beta = kl_policy_at(small, base, amount)
        assert np.isclose(time_kl(small, probs, base), amount, atol=1e-3) and beta > 0
        reached = small.evaluate_policy(probs).proxy
        filtered = weighted_summary(table, at_divergence(table, 'kl', amount))
        assert reached <= filtered['proxy'] + 0.05, 'a filter may choose among lucky drives as well'
        assert reached > small.evaluate_policy(base).proxy
    found, at_base = small.evaluate_policy(other), small.evaluate_policy(base)
    same = np.broadcast_to(other, (small.horizon, *other.shape))
    by_time = time_visit_chi2(small, same, base)
    assert np.isclose(by_time, visit_chi2(small, found.visits, other, at_base.visits, base), rtol=1e-3)


def test_tails_of_known_shape():
    rng = np.random.default_rng(4)
    heavy, light = (tail_index(e, resamples=15) for e in (rng.standard_t(2, 5000), rng.random(5000)))
    assert heavy['low'] > 0.1 > -0.5 > light['high']
    with pytest.raises(ValueError, match='at least 20'):
        tail_index(rng.random(50))
