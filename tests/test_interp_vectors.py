"Goal vectors: what they are made of, what they do as edits, how they are added up, drawn at random and kept"

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from goalmisgen.agents.impala import Policy
from goalmisgen.env.levels import MazeSpec, generate
from goalmisgen.env.render import Renderer
from goalmisgen.interp.edited_agents import EditedPolicy
from goalmisgen.interp.field_outcomes import decision_probs, field_endings, reach_probs
from goalmisgen.interp.goal_vectors import (
    GoalVector,
    cheese_vector,
    corner_vector,
    decision_in_frame,
    load_vectors,
    mean_vector,
    save_vectors,
    state_frames,
    summarise_sweep,
    sweep_vectors,
)
from goalmisgen.interp.maze_states import as_levels, as_states
from goalmisgen.interp.vector_fields import compare_fields, compute_field

PENS = Renderer(9, ('yellow line',))
LAYER = 'embedder.block2.res1'


@cache
def agent():
    "An untrained network, made less undecided"
    policy = Policy(1).eval()
    with torch.no_grad():
        policy.fc_policy.weight *= 300
    return policy


@cache
def mazes():
    "Three that are smaller than their world, in which the ways part"
    states = as_states(generate(MazeSpec(9, dead_ends=True, random_size=True), range(200)))
    return [s for s in states if s.maze_size == 7 and s.decision_square()][:3]


def activation(frame, layer):
    kept = []
    handle = agent().get_submodule(layer).register_forward_hook(lambda module, x, out: kept.append(out[0]))
    with torch.no_grad():
        agent()(frame[None])
    handle.remove()
    return kept[0].numpy()


def test_vectors_are_differences_of_activations():
    "Taken by a plain hook, at the mouse's place, facing as it does"
    state = mazes()[0].with_mouse(mazes()[0].decision_square(), facing=1)
    levels = [as_levels([s]) for s in (state, state.with_cheese(None), state.with_corridor_to_corner())]
    cell = torch.tensor([state.mouse.col + 9 * state.mouse.row])
    frames = [PENS.frames(PENS.scenes(level), 0 * cell, cell, 0 * cell + 1)[0] for level in levels]
    here, without, corridor = (activation(frame, LAYER) for frame in frames)
    cheese, corner = (make(agent(), state, PENS) for make in (cheese_vector, corner_vector))
    np.testing.assert_allclose(cheese.values, here - without, atol=1e-5)
    np.testing.assert_allclose(corner.values, corridor - here, atol=1e-5)
    assert cheese.values.any() and corner.values.any()


def test_a_vector_undoes_what_it_was_made_of():
    "Subtracted where it was taken, it leaves what the agent does without the cheese"
    state = mazes()[0]
    taken = cheese_vector(agent(), state, PENS)
    frame, without = state_frames([state, state.with_cheese(None)], PENS)
    with torch.no_grad():
        edited = EditedPolicy(agent(), taken.edit(-1))(frame[None])[0]
        plain = agent()(without[None])[0]
    torch.testing.assert_close(edited, plain, rtol=1e-4, atol=1e-4)


def test_arithmetic_and_files(tmp_path):
    a, b = (cheese_vector(agent(), state, PENS) for state in mazes()[:2])
    np.testing.assert_allclose((a + b * 2 - a).values, 2 * b.values, atol=1e-5)
    np.testing.assert_allclose(mean_vector([a, b]).values, (a + b).values / 2, atol=1e-6)
    drawn = [a.random_like(seed) for seed in (0, 0, 1)]
    assert (drawn[0].values == drawn[1].values).all() and (drawn[0].values != drawn[2].values).all()
    assert (
        drawn[0].length == pytest.approx(a.length)
        and abs((drawn[0].values * a.values).sum()) < 0.1 * a.length**2
    )
    save_vectors([a, b, drawn[0]], tmp_path / 'v.npz')
    for before, after in zip([a, b, drawn[0]], load_vectors(tmp_path / 'v.npz'), strict=True):
        assert (before.layer, before.name) == (after.layer, after.name)
        np.testing.assert_array_equal(before.values, after.values)


def test_a_sweep_is_what_it_says():
    "Each number by itself, from the field of the edited agent; and by looking at one frame"
    own = {'own': lambda state: cheese_vector(agent(), state, PENS)}
    table = sweep_vectors(agent(), mazes(), own, (-1, 1), PENS)
    short = sweep_vectors(agent(), mazes(), own, (-1, 1), PENS, everywhere=False)
    assert len(table) == 6
    for (_, row), (_, glance) in zip(table.iterrows(), short.iterrows()):
        state = next(s for s in mazes() if s.seed == row.level_seed)
        vector = cheese_vector(agent(), state, PENS)
        before = compute_field(state, agent(), PENS)
        after = compute_field(state, EditedPolicy(agent(), vector.edit(row.coeff)), PENS)
        for field, suffix in ((before, '_before'), (after, '')):
            found = decision_probs(field)
            told = [row[name + suffix] for name in found._fields]
            np.testing.assert_allclose(told, found, atol=1e-5)
            np.testing.assert_allclose([glance[name + suffix] for name in found._fields], found, atol=1e-5)
            assert row['reach_cheese' + suffix] == pytest.approx(field_endings(field).p1[0], abs=1e-6)
            corner = reach_probs(field, [state.corner])[0]
            assert row['reach_corner' + suffix] == pytest.approx(corner, abs=1e-6)
        assert row.tv == pytest.approx(compare_fields(before, after).mean_total_variation, abs=1e-6)


def test_medians_and_their_intervals():
    "A column of which one knows what to expect: the interval of a median by the binomial distribution"
    values = np.random.default_rng(0).normal(size=101)
    table = pd.DataFrame(dict(vector='v', layer='l', coeff=1.0, cheese=values, corner=0.25, other=np.nan))
    found = summarise_sweep(table).set_index('measure')
    assert found.loc['cheese', 'median'] == pytest.approx(np.median(values), abs=1e-12)
    ordered = np.sort(values)
    assert ordered[37] < found.loc['cheese', 'low'] < ordered[44]
    assert ordered[56] < found.loc['cheese', 'high'] < ordered[63]
    assert found.loc['corner', ['median', 'low', 'high']].tolist() == [0.25] * 3
    assert found.loc['other', 'mazes'] == 0 and np.isnan(found.loc['other', 'median'])
    pd.testing.assert_frame_equal(summarise_sweep(table), summarise_sweep(table))


def filled():
    "A maze that fills its world"
    return as_states(generate(MazeSpec(9, dead_ends=True), [0]))[0]


BAD = [
    (lambda p: GoalVector('block9', np.ones(3), 'x'), 'layer'),
    (lambda p: GoalVector('fc', [np.nan], 'x'), 'values'),
    (lambda p: GoalVector('fc', np.ones(256), 'x') + GoalVector('relufc', np.ones(256), 'y'), 'layer'),
    (lambda p: GoalVector('fc', np.ones(256), 'x') + 1, 'vector'),
    (lambda p: mean_vector([]), 'vectors'),
    (lambda p: corner_vector(agent(), filled(), PENS), 'state'),
    (lambda p: cheese_vector(agent(), filled().with_cheese(None), PENS), 'cheese'),
    (lambda p: decision_in_frame(agent(), filled().with_cheese(None), PENS), 'decision square'),
    (lambda p: EditedPolicy(agent(), GoalVector('fc', np.ones(9), 'x').edit()), 'shape of vector'),
    (lambda p: load_vectors(other_arrays(p)), 'arrays in'),
]


def other_arrays(folder):
    np.savez(folder / 'other.npz', values_0=np.ones(3))
    return folder / 'other.npz'


@pytest.mark.parametrize('call, message', BAD, ids=[f'{m}-{i}' for i, (_, m) in enumerate(BAD)])
def test_bad_arguments(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_vectors(tmp_path / 'none.npz')
