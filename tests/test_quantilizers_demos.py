"Demonstrations, clones, quantilizers and sweeps"

import numpy as np
import pandas as pd
import pytest
import torch
from goalmisgen.quantilizers import sweep
from goalmisgen.quantilizers.cloning import CloningConfig, choose_keys, fit_clones
from goalmisgen.quantilizers.demos import Demos, concat_demos, demo_scores, load_demos, top_quantile
from goalmisgen.quantilizers.drivers import DriverMix, drive, synthetic_drivers
from goalmisgen.quantilizers.playing import play_cars
from goalmisgen.quantilizers.proxy_learners import CarLearnerConfig, learn_car_proxy
from goalmisgen.quantilizers.quantilizer import fit_quantilizers, ideal_quantilizer
from goalmisgen.quantilizers.tasks import car_step


@pytest.fixture(scope='module')
def demos():
    return synthetic_drivers(120, 3)


def test_made_up_drivers_obey_the_car(demos):
    for begin, end in demos.bounds[:20]:
        seen = demos.observations[begin:end].astype(float)
        position, velocity, done = car_step(*seen.T, demos.keys[begin:end, 0])
        assert np.allclose(position[:-1], seen[1:, 0], atol=1e-6) and np.allclose(
            velocity[:-1], seen[1:, 1], atol=1e-6
        )
        assert not done[:-1].any() and (done[-1] or end - begin == 200)
    assert np.array_equal(demos.true_returns, -demos.lengths)
    again = synthetic_drivers(120, 3)
    assert again.observations.tobytes() == demos.observations.tobytes() and again.kinds == demos.kinds


def test_drivers_are_who_they_are_said_to_be():
    mix = DriverMix(novices=0.3, gamers=0.3)
    position, _, _, lengths, kind = drive(mix, 1500, 1)
    assert abs((kind == 1).mean() - 0.3) < 0.04 and abs((kind == 2).mean() - 0.3) < 0.04
    parked = ((position > 0.3) & (np.arange(201) <= lengths[:, None])).sum(1)
    assert parked[kind == 2].mean() > 4 * parked[kind == 0].mean()
    assert (lengths < 200)[kind == 0].mean() > 0.8 > 0.3 > (lengths < 200)[kind == 1].mean()


def test_the_best_are_kept_and_never_none(demos):
    scores = demo_scores(demos)
    kept = top_quantile(demos, 0.25)
    assert sorted(kept.proxy_returns) == sorted(np.sort(scores)[-30:])
    assert (
        len(top_quantile(demos, 0.001)) == 1 and top_quantile(demos, 0.001).proxy_returns[0] == scores.max()
    )
    assert len(top_quantile(demos, 1)) == 120 and len(top_quantile(demos, 0.1)) == 12
    by_length = top_quantile(demos, 0.1, lambda d: -d.lengths)
    assert by_length.lengths.max() <= np.sort(demos.lengths)[11]
    for wrong in (0, -0.5, 1.01, np.nan, '1', None):
        with pytest.raises(ValueError, match='over 0 and at most 1'):
            top_quantile(demos, wrong)
    with pytest.raises(ValueError, match='120 finite numbers'):
        top_quantile(demos, 0.5, lambda d: [1, 2])


def test_files_come_back_or_are_refused(demos, tmp_path):
    demos.save(tmp_path / 'd.npz')
    again = load_demos(tmp_path / 'd.npz')
    for name in ('observations', 'keys', 'proxy', 'true', 'lengths'):
        a, b = getattr(demos, name), getattr(again, name)
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert again.kinds == demos.kinds
    np.savez(tmp_path / 'pickled.npz', a=np.array([{}], object))
    with pytest.raises(ValueError, match='not an .npz file'):
        load_demos(tmp_path / 'pickled.npz')
    arrays = dict(np.load(tmp_path / 'd.npz'))
    np.savez(tmp_path / 'long.npz', **arrays | dict(lengths=arrays['lengths'] + 1))
    with pytest.raises(ValueError, match='the sum of the lengths'):
        load_demos(tmp_path / 'long.npz')
    np.savez(tmp_path / 'text.npz', **arrays | dict(true=arrays['true'].astype(str)))
    with pytest.raises(ValueError, match='type of true'):
        load_demos(tmp_path / 'text.npz')
    (tmp_path / 'x.npz').write_bytes(b'PK\x03\x04 no')
    with pytest.raises(ValueError, match='not an .npz file'):
        load_demos(tmp_path / 'x.npz')
    both = concat_demos([demos.take([3]), demos.take([0, 1])])
    assert both.lengths.tolist() == demos.lengths[[3, 0, 1]].tolist() and np.array_equal(
        both.take([1]).keys, demos.take([0]).keys
    )


def test_clones_do_not_depend_on_their_neighbours(demos):
    part, other = ((d.observations, d.keys[:, 0]) for d in (demos, top_quantile(demos, 0.2)))
    config = CloningConfig(steps=40, batch=50)
    batch = fit_clones([part, other, part], 3, [(5,), (6,), (7,)], config)
    for k, (data, seed) in enumerate(((part, 5), (other, 6), (part, 7))):
        alone = fit_clones([data], 3, [(seed,)], config)
        for a, b in zip((*batch.weights, *batch.biases), (*alone.weights, *alone.biases)):
            assert torch.equal(a[k], b[0])


def test_every_joint_learns_its_own_keys():
    "The joints of one player see the same and press different keys"
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(2000, 11)).astype(np.float32)
    keys = np.stack([np.where(seen[:, j] > 0, 2, 0) for j in (0, 1, 2)], 1).astype(np.uint8)
    hopper = Demos('hopper', seen, keys, np.zeros(2000), np.zeros(2000), np.array([2000]))
    fitted = fit_quantilizers(hopper, [1.0, 0.5], [0], config=CloningConfig(steps=250))
    guess = choose_keys(fitted.probs(np.stack([seen, seen])), 'argmax')
    assert ((guess == keys).mean(1) > 0.9).all()


def test_a_clone_agrees_with_another_library(demos):
    "The likeliest keys of a long fit are those of scikit-learn's network, where it is sure"
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    seen = rng.normal(size=(3000, 2)).astype(np.float32)
    probs = np.exp(seen @ np.array([[1.0, 0, -1], [0, 1, 0]]))
    keys = choose_keys(probs / probs.sum(1, keepdims=True), 'sampled', rng.random(3000))
    ours = fit_clones([(seen, keys)], 3, [(0,)], CloningConfig(steps=500)).probs(seen[None])[0]
    theirs = LogisticRegression().fit(seen, keys).predict_proba(seen)
    assert abs(ours - theirs).mean() < 0.04


def test_ideal_numbers(demos):
    found = ideal_quantilizer(demos, 0.1)
    assert (
        found['kept'] == 12
        and np.isclose(found['kl'], np.log(10))
        and np.isclose(found['chi2'], 9)
        and found['weight'] == 10
    )
    assert np.isclose(found['proxy'], np.sort(demos.proxy_returns)[-12:].mean())


def test_quantilizing_a_mixed_crowd_beats_imitating_it():
    """The target on fresh demonstrations, small: the better quarter by the summed proxy drives better than
    everybody"""
    fitted = fit_quantilizers(
        synthetic_drivers(300, 77), (1.0, 0.25), (7, 8), config=CloningConfig(steps=700)
    )
    true = play_cars(fitted, 60, 5).true.mean(1)
    assert true[2:].mean() - true[:2].mean() > 20


def test_the_q_learner_learns_alone_as_in_company():
    config = CarLearnerConfig(episodes=3, last=2)
    both, alone = learn_car_proxy([4, 5], config), learn_car_proxy([5], config)
    assert np.array_equal(both[0][1], alone[0][0]) and np.allclose(both[1][1], alone[1][0])
    assert learn_car_proxy([4], config, stop=lambda: True) is None


def test_a_sweep_stops_resumes_and_refuses(demos, tmp_path):
    config = sweep.SweepConfig(qs=(1.0, 0.25), episodes=5, steps=30)
    with pytest.raises(ValueError, match='train, test'):
        sweep.run_sweep(tmp_path / 's', demos, config, [0], ['fly'])
    assert not (tmp_path / 's').exists()
    assert len(sweep.run_sweep(tmp_path / 's', demos, config, [0], ['train'], 1, False)) == 0
    table = sweep.run_sweep(tmp_path / 's', demos, config, [0, 1], workers=1, progress=False)
    assert (
        len(table) == 2 * 2 * 5
        and table.seed.tolist() == [0] * 10 + [1] * 10
        and np.isfinite(table.true).all()
    )
    whole = sweep.run_sweep(tmp_path / 't', demos, config, [1], workers=1, progress=False)
    rest = table[table.seed == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, rest)
    path = sweep.model_path(tmp_path / 's', 0)
    fitted = sweep.load_quantilizers(path)
    assert (fitted.task, fitted.qs, fitted.seeds) == ('mountain_car', (1.0, 0.25), (0, 0))
    for _try in range(4):  # what a file says of itself comes in one order
        sweep.save_quantilizers(fitted, tmp_path / 'again.safetensors')
        assert (tmp_path / 'again.safetensors').read_bytes() == path.read_bytes()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match='not a file of quantilizers'):
        sweep.load_quantilizers(path)
    with pytest.raises(ValueError, match='another folder'):
        sweep.run_sweep(tmp_path / 's', synthetic_drivers(9, 0), config, [0])
    with pytest.raises(ValueError, match='task of the demonstrations'):
        sweep.run_sweep(tmp_path / 'u', demos, sweep.SweepConfig('hopper'), [0])
    for wrong in (
        dict(qs=(0,)),
        dict(qs=(1.0, 1.0)),
        dict(task='golf'),
        dict(mode='expected'),
        dict(episodes=0),
        dict(by='max'),
    ):
        with pytest.raises(ValueError, match='allowed'):
            sweep.SweepConfig(**wrong)


def test_half_done_work_leaves_no_file(demos, tmp_path):
    config = sweep.SweepConfig(qs=(1.0,), episodes=5, steps=300)
    sweep.claim_sweep(tmp_path, config, demos)
    sweep.train_one_seed(tmp_path, config, 0, lambda n: None, lambda: True)
    assert not sweep.model_path(tmp_path, 0).exists()
