"""Looking inside agents: activations, edits and edited agents, against plain hooks, other tools and chains

The first part has a test for each kind of mistake that was found in procgen-tools.
"""

import importlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from goalmisgen.agents.examples import example_dir, load_example
from goalmisgen.agents.impala import Policy
from goalmisgen.analysis.scores import run_case
from goalmisgen.arrays import read_arrays, write_arrays
from goalmisgen.env.chain import absorption, move_probs
from goalmisgen.env.levels import DUEL, OBJ1, generate
from goalmisgen.env.rendered import render_levels
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.policies import PolicyCache
from goalmisgen.evaluation.protocol import ResultsFile
from goalmisgen.evaluation.questions import Setting, evaluation_levels
from goalmisgen.evaluation.results import read_results
from goalmisgen.evaluation.sampled import evaluate_sampled
from goalmisgen.films.episodes import play_episode
from goalmisgen.interp.activations import Prefix, hooks, run_with_cache, run_with_hooks
from goalmisgen.interp.conditions import Facing, MouseAt, ObjectAt, ObjectTo
from goalmisgen.interp.edited_agents import EditedPolicy
from goalmisgen.interp.edits import (
    AddVector,
    Clamp,
    Edits,
    Replace,
    Resample,
    ScaleSigns,
    Situation,
    activations_of,
    as_edits,
    load_edits,
    mean_ablation,
    save_edits,
    zero,
)
from goalmisgen.interp.effects import changes_by_edit, evaluate_edits
from goalmisgen.interp.layers import LAYER_NAMES, STAGES, entries_over, layer_name

SETTING = Setting('red line', 'yellow gem')
LAYER = 'embedder.block2.res1'


@pytest.fixture(scope='module')
def policy():
    return load_example('exact-4')


@pytest.fixture(scope='module')
def rendered():
    return render_levels(generate(DUEL, range(100_000, 100_012)), ('red line', 'yellow gem'))


@pytest.fixture(scope='module')
def frames(rendered):
    return rendered.frames(torch.arange(0, len(rendered.table), 29))


def without_hooks(policy):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in policy.modules())


def edited_logits(policy, edits, frames):
    with torch.no_grad():
        return EditedPolicy(policy, edits)(frames)[0]


def activation(policy, edits, frames, layer=LAYER):
    with torch.no_grad():
        return run_with_cache(EditedPolicy(policy, edits), frames, layer, stop_at=layer)[1][layer]


def one_of_each(policy, frames):
    donors = activations_of(policy, frames[:5], LAYER)
    vector = np.random.default_rng(0).standard_normal((32, 16, 16))
    return {
        'add': AddVector(LAYER, vector, 0.3),
        'channels': AddVector('pixels', [0.1, 0, -0.1], 2.0),
        'clamp': Clamp(LAYER, 5.5, channels=[3], cells=[(0, 0), (7, 9)]),
        'scale': ScaleSigns(LAYER, 2.0, 0.5, channels=[0, 31]),
        'replace': Replace(LAYER, donors.mean(0), squares=[(0, 0), (4, 4)]),
        'resample': Resample(LAYER, donors, seed=3),
        'units': zero('relufc', channels=range(100)),
        'logits': AddVector('fc_policy', np.eye(15)[5]),
    }


# Each kind of mistake of procgen-tools


def test_clamping_one_entry_leaves_all_else_as_each_frame_has_it(policy, frames):
    before, after = (
        activation(policy, [], frames),
        activation(policy, Clamp(LAYER, 5.6, channels=[3], cells=[(0, 0)]), frames),
    )
    assert (after[:, 3, 0, 0] == 5.6).all()
    after[:, 3, 0, 0] = before[:, 3, 0, 0]
    assert torch.equal(before, after)


def test_all_channels_is_none_and_minus_one_is_refused(policy, frames):
    assert activation(policy, zero(LAYER), frames).abs().max() == 0
    for bad in ([-1], [32], [0, 0], [], 'all', [True], [1.0]):
        with pytest.raises(ValueError, match='channel'):
            EditedPolicy(policy, zero(LAYER, channels=bad))


def test_entries_are_held_against_the_map_and_not_against_the_channels(policy):
    for cells in ([(16, 0)], [(0, 16)], [(0, -1)], [(0,)], [(0, 0, 0)], []):
        with pytest.raises(ValueError):
            EditedPolicy(policy, zero(LAYER, cells=cells))
    EditedPolicy(policy, zero(LAYER, cells=[(15, 15), (0, 0)]))


def test_the_lower_left_square_is_a_square_like_any_other(policy, frames):
    changed = activation(policy, Clamp(LAYER, 9.0, squares=[(0, 0)]), frames) == 9
    assert [tuple(e) for e in changed[0, 0].nonzero().tolist()] == sorted(entries_over((0, 0), 16))


def test_nothing_stays_behind_after_an_error_and_nesting_restores(policy, frames):
    def fail(x, *, hook):
        raise RuntimeError('on the way')

    plain = edited_logits(policy, [], frames)
    with pytest.raises(RuntimeError), torch.no_grad():
        run_with_hooks(policy, frames, [('block1', lambda x, hook: x * 2), ('block2', fail)])
    assert without_hooks(policy)
    twice = [('block1', lambda x, hook: x * 2)]
    with torch.no_grad(), hooks(policy, twice):
        outer = policy(frames)[0]
        with hooks(policy, [('block2', lambda x, hook: x * 0)]):
            assert not torch.equal(policy(frames)[0], outer)
        assert torch.equal(policy(frames)[0], outer)
        assert torch.equal(EditedPolicy(policy, [])(frames)[0], outer)
    assert torch.equal(policy(frames)[0], plain) and without_hooks(policy)


def test_the_mean_is_that_of_the_given_frames(policy, frames):
    edit = mean_ablation(policy, frames[:7], LAYER)
    activations_of(policy, frames[7:], LAYER)  # what was looked at last does not count
    due = torch.stack([activation(policy, [], f[None])[0] for f in frames[:7]]).mean(0)
    assert torch.allclose(torch.tensor(edit.values), due, atol=1e-5)


def test_each_frame_is_resampled_by_itself_and_always_alike(policy, frames):
    donors = np.arange(1.0, 33)[:, None] * np.ones(32)
    drawn = activation(policy, Resample(LAYER, donors, seed=1), frames)[:, 0, 0, 0]
    assert len(set(drawn.tolist())) > 5 and set(drawn.tolist()) <= set(range(1, 33))
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        activation(policy, Resample(LAYER, donors, seed=1), frames[order])[:, 0, 0, 0], drawn[order]
    )
    assert not torch.equal(activation(policy, Resample(LAYER, donors, seed=2), frames)[:, 0, 0, 0], drawn)


def test_edits_in_different_layers_are_all_made(policy, frames):
    both = zero('block1', channels=[0]) + AddVector('relufc', np.ones(256), 3.0)
    with torch.no_grad():
        _, cache = run_with_cache(EditedPolicy(policy, both), frames, ['block1', 'fc', 'relufc'])
    assert cache['block1'][:, 0].abs().max() == 0
    assert torch.equal(cache['relufc'], cache['fc'].relu() + 3)


def test_edits_of_one_layer_follow_each_other(policy, frames):
    twice = AddVector(LAYER, np.ones(32)) + ScaleSigns(LAYER, 0.0, 0.0) + AddVector(LAYER, np.ones(32), 7.0)
    assert (activation(policy, twice, frames) == 7).all()


def test_an_edited_agent_holds_the_network_itself(frames):
    policy = Policy(3)
    edited = EditedPolicy(policy, zero('block1', channels=[0]))
    before = edited(frames)[0]
    with torch.no_grad():
        policy.fc_policy.bias += torch.arange(15.0)
    assert torch.allclose(edited(frames)[0], before + torch.arange(15.0), atol=1e-5)


# Activations


LABELS = [f'embedder.{b}.{part}' for b in ('block1', 'block2', 'block3') for part in ('conv', 'maxpool')] + [
    f'embedder.{b}.{r}.{part}'
    for b in ('block1', 'block2', 'block3')
    for r in ('res1', 'res2')
    for part in ('relu1', 'conv1', 'relu2', 'conv2', 'resadd')
]
LABELS += ['embedder.relu3', 'embedder.flatten', 'embedder.fc', 'embedder.relufc', 'fc_policy', 'fc_value']


def test_the_names_of_the_literature_are_the_layers():
    assert {layer_name(f'{label}_out') for label in LABELS} | {layer_name('embedder.block1.conv_in0')} == set(
        LAYER_NAMES
    )


@pytest.mark.parametrize('scale', [1, 4])
def test_a_cache_is_what_plain_hooks_see(scale, frames):
    policy = Policy(1, scale)
    seen = {}
    handles = [
        policy.get_submodule(name).register_forward_hook(
            lambda m, x, out, name=name: seen.update({name: out})
        )
        for name in LAYER_NAMES[1:]
    ]
    with torch.no_grad():
        (logits, values), cache = run_with_cache(policy, frames[:3])
        for handle in handles:
            handle.remove()
        due = policy(frames[:3])
    assert torch.equal(logits, due[0]) and torch.equal(values, due[1])
    assert list(cache) == list(LAYER_NAMES)
    assert all(torch.equal(cache[name], seen[name]) for name in LAYER_NAMES[1:])
    assert torch.equal(cache['pixels'], frames[:3].permute(0, 3, 1, 2) / 255)


def test_going_on_from_any_stage_gives_the_same(policy, frames):
    with torch.no_grad():
        answers, cache = run_with_cache(policy, frames)
        for stage in STAGES:
            again = run_with_hooks(policy, cache.prefix(stage))
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(answers, again)), stage


def test_captum_sees_the_same_tensors(policy, frames):
    attr = pytest.importorskip('captum.attr')
    edit = AddVector('block2.res1', np.linspace(-1, 1, 32))
    for agent in (policy, EditedPolicy(policy, edit)):
        with torch.no_grad():
            _, cache = run_with_cache(agent, frames, [LAYER, 'relufc'])
        for name in (LAYER, 'embedder.relufc'):
            tool = attr.LayerActivation(lambda x, agent=agent: agent(x)[0], policy.get_submodule(name))
            assert torch.equal(tool.attribute(frames), cache[name])


def test_captum_attributes_to_activations_from_a_prefix(policy, frames):
    attr = pytest.importorskip('captum.attr')
    with torch.no_grad():
        (logits, _), cache = run_with_cache(policy, frames[:2], 'block3')
    x = cache['block3'].contiguous()

    def logit(x):
        return run_with_hooks(policy, Prefix('block3', x))[0][:, 5]

    found, error = attr.IntegratedGradients(logit).attribute(x, n_steps=40, return_convergence_delta=True)
    assert found.shape == x.shape and error.abs().max() < 0.05 * logits[:, 5].abs().max() + 0.05


@pytest.mark.parametrize('library', ['nnsight', 'circrl'])
def test_other_tools_see_the_same_tensors(library, policy, frames):
    if not importlib.util.find_spec(library):
        pytest.skip(f'{library} is not installed: it brings too many packages for the tests')
    with torch.no_grad():
        _, cache = run_with_cache(policy, frames, LAYER)
    if library == 'nnsight':
        module = importlib.import_module(library).NNsight(policy)
        with module.trace(frames):
            seen = module.embedder.block2.res1.output.save()
    else:
        manager = importlib.import_module('circrl.hooks').HookManager(policy, cache=[LAYER])
        with torch.no_grad(), manager as seen:
            policy(frames)
        seen = seen[LAYER]
    assert torch.equal(torch.as_tensor(seen), cache[LAYER])


# Edits


def test_a_batch_gives_what_its_frames_give_one_by_one(policy, rendered, frames):
    states = torch.arange(0, len(rendered.table), 29)
    conditional = AddVector(LAYER, np.ones(32), when=ObjectTo('right', 'gem')) + zero('pixels', at='red line')
    for name, edit in [*one_of_each(policy, frames).items(), ('conditional', conditional)]:
        edited = EditedPolicy(policy, edit)
        with torch.no_grad():
            many = edited.at(rendered, states)[0]
            single = torch.cat([edited.at(rendered, s)[0] for s in states.split(1)])
        assert torch.allclose(many, single, atol=1e-4), name
        assert not torch.allclose(many, policy(frames)[0], atol=1e-3), name


def test_an_edit_after_the_shared_maps_is_the_plain_one(policy, rendered, frames):
    states = torch.arange(0, len(rendered.table), 6)
    for edit in (
        AddVector('block2.res2', np.ones(32), when=Facing('left')),
        zero('block3.res1.conv1', at='gem'),
        Resample('fc', activations_of(policy, frames[:4], 'fc')),
    ):
        edited = EditedPolicy(policy, edit)
        shared, plain = (edited.on_levels(rendered, quick)(states) for quick in (True, False))
        assert torch.allclose(shared, plain, atol=1e-5)
        assert (plain - policy(rendered.frames(states))[0].softmax(1)).abs().max() > 1e-3


def test_an_edit_before_the_shared_maps_is_seen(policy, rendered):
    states = torch.arange(0, len(rendered.table), 6)
    quick = EditedPolicy(policy, zero('block1')).on_levels(rendered, True)(states)
    assert (quick - quick[0]).abs().max() < 1e-5  # it sees nothing any more


@pytest.mark.parametrize(
    'edit',
    [
        AddVector(LAYER, np.arange(32.0), -0.5, channels=[1, 2], cells=[(1, 2)]),
        Clamp('pixels', 0.25, squares=[(2, 6)], size=7),
        ScaleSigns(
            'fc', 1.0, -1.0, when=~(MouseAt([(0, 0), (1, 2)]) & Facing('left')) | ObjectAt('gem', [(4, 4)])
        ),
        Replace('relufc', np.ones(256)) + Resample('fc_value', np.ones((3, 1)), 2**63 - 1),
        zero(LAYER, at='yellow gem') + zero(LAYER, at='mouse'),
    ],
)
def test_what_is_written_is_read(edit, tmp_path):
    save_edits(edit, tmp_path / 'edit.npz')
    back = load_edits(tmp_path / 'edit.npz')
    assert back == as_edits(edit) and back.fingerprint == as_edits(edit).fingerprint
    assert back != as_edits(edit) + zero('fc')


def test_every_change_of_an_edit_changes_its_fingerprint():
    edits = [
        AddVector(LAYER, np.ones(32)),
        AddVector(LAYER, np.zeros(32)),
        AddVector(LAYER, np.ones(32), 2.0),
    ]
    edits += [AddVector(LAYER, np.ones(32), channels=[0]), AddVector('block2.res2', np.ones(32))]
    edits += [AddVector(LAYER, np.ones(32), when=Facing('left')), AddVector(LAYER, np.ones(32), at='mouse')]
    assert len({as_edits(e).fingerprint for e in edits}) == len(edits)
    a, b = edits[0], edits[3]
    assert a + b != b + a and (a + b) + a == a + (b + a) and len({a, AddVector(LAYER, np.ones(32))}) == 1


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / 'edit.npz'
    save_edits(AddVector(LAYER, np.ones(32), when=Facing('left')), path)
    arrays = read_arrays(path)
    good = json.loads(str(arrays['edits']))
    one = good['edits'][0]
    texts = [
        'not json',
        '[]',
        dict(good, schema=2),
        dict(good, edits={}),
        dict(good, edits=[dict(one, layer='block9')]),
        dict(good, edits=[dict(one, coeff='much')]),
        dict(good, edits=[dict(one, coeff=float('nan'))]),
        dict(good, edits=[dict(one, more=1)]),
        dict(good, edits=[dict(one, when=dict(kind='Facing', side='up'))]),
        dict(good, edits=[dict(one, channels=[-1])]),
        dict(good, edits=[one, one]),
        dict(good, edits=[]),
    ]
    for text in texts:
        text = text if isinstance(text, str) else json.dumps(text)
        write_arrays(path, edits=np.array(text), vector_0=arrays['vector_0'])
        with pytest.raises(ValueError):
            load_edits(path)
    for bad in (
        dict(vector_0=np.full(32, np.inf)),
        dict(vector_0=np.array('text')),
        dict(),
        dict(values_0=np.ones(32)),
    ):
        write_arrays(path, edits=arrays['edits'], **bad)
        with pytest.raises(ValueError):
            load_edits(path)


# Edited agents


def by_hand(policy, rendered, edited):
    "How episodes end where the agent is asked about every state, and nothing is remembered"
    table = rendered.table
    with torch.no_grad():
        probs = torch.cat([edited.at(rendered, s)[0].softmax(1) for s in torch.arange(len(table)).split(64)])
    return absorption(table, move_probs(probs), np.full(len(table.levels), 1 / len(table.levels)))


def test_exact_evaluation_is_that_of_a_hand_made_hook(policy):
    def as_function(frames):
        module = policy.get_submodule('embedder.block1.res2')
        handle = module.register_forward_hook(lambda m, x, out: out * torch.arange(16).lt(6).view(16, 1, 1))
        try:
            with torch.no_grad():
                return policy(frames)[0].softmax(1)
        finally:
            handle.remove()

    levels = range(100_000, 100_006)
    found = evaluate_exact(EditedPolicy(policy, zero('block1', channels=range(6, 16))), SETTING, levels)
    due = evaluate_exact(as_function, SETTING, levels)
    assert np.allclose(found.endings.p1, due.endings.p1, atol=1e-5)
    plain = evaluate_exact(policy, SETTING, levels)
    assert np.abs(found.endings.steps - plain.endings.steps).max() > 1


@pytest.mark.parametrize('layer', ['block1', 'block3'])
def test_conditions_hold_in_exact_evaluation(policy, layer):
    condition = ObjectTo('above', 'gem') & ~MouseAt([(1, 0)])
    edited = EditedPolicy(policy, zero(layer, channels=range(6), when=condition))
    found = evaluate_exact(edited, SETTING, range(100_000, 100_012), tolerance=0)
    rendered = PolicyCache(policy).renders.draw(SETTING, found.level_set.levels)
    due = by_hand(policy, rendered, edited)
    assert np.allclose(found.endings.p1, due.p1, atol=1e-4) and np.allclose(
        found.endings.p2, due.p2, atol=1e-4
    )


def test_levels_that_look_the_same_are_told_apart_by_a_condition_on_what_is_unseen(policy):
    unseen = Setting('red line', 'black gem')
    edited = EditedPolicy(policy, zero('block3', when=ObjectAt('gem', [(4, 4), (2, 4), (0, 4), (4, 2)])))
    found = evaluate_exact(edited, unseen, range(100_000, 100_030), tolerance=0)
    rendered = PolicyCache(policy).renders.draw(unseen, found.level_set.levels)
    assert len(set(rendered.digests)) < len(rendered.digests)
    due = by_hand(policy, rendered, edited)
    assert np.allclose(found.endings.p1, due.p1, atol=1e-4)


def test_films_and_sampled_episodes_know_the_state(policy):
    levels = evaluation_levels(range(100_000, 100_010)).levels
    rendered = render_levels(levels, ('red line', 'yellow gem'))
    corner = (rendered.levels.grid[0] == OBJ1 + 1).nonzero()
    square = int(corner[1][0]), int(corner[0][0])
    always_up = AddVector('fc_policy', 100 * np.eye(15)[5], when=ObjectAt('gem', [square]))
    edited = EditedPolicy(policy, always_up)
    episode = play_episode(edited, SETTING, levels[0], max_steps=5)
    assert (episode.probs[:, 5] > 0.999).all()
    never = EditedPolicy(
        policy, AddVector('fc_policy', 100 * np.eye(15)[5], when=MouseAt([(0, 0)]) & Facing('right'))
    )
    assert evaluate_sampled(never, SETTING, range(100_000, 100_005)).timeout <= 1
    with pytest.raises(ValueError, match='frames alone'):
        edited(rendered.frames(torch.arange(2)))


def test_sampled_play_agrees_with_exact_evaluation(policy):
    edited = EditedPolicy(
        policy, AddVector('block3.res2', np.linspace(0, 2, 32), when=ObjectTo('right', 'gem'))
    )
    exact = evaluate_exact(edited, SETTING, range(100_000, 100_010))
    played = evaluate_sampled(edited, SETTING, range(100_000, 100_010), episodes=60)
    assert abs(exact.p1 - played.p1) < 4 * np.sqrt(0.25 / 600)


def test_a_condition_on_an_object_that_is_not_there_is_an_error(policy):
    edited = EditedPolicy(policy, zero('block3', at='green gem'))
    with pytest.raises(ValueError, match='green gem'):
        evaluate_exact(edited, SETTING, range(100_000, 100_003))


def test_a_table_of_edits_grows_only_by_what_it_lacks(tmp_path, monkeypatch):
    agents = [example_dir('exact-3'), example_dir('exact-4')]
    ask = dict(settings=[SETTING], out=tmp_path / 'edits.csv', protocol=range(100_000, 100_004), workers=1)
    first = evaluate_edits(agents, {'blind': zero('pixels')}, **ask, progress=False)
    added = []
    add = ResultsFile.add
    monkeypatch.setattr(
        ResultsFile, 'add', lambda self, key, *rest: (added.append(key[0]), add(self, key, *rest))
    )
    more = {'blind': zero('pixels'), 'own': {'exact-4': zero('block3', channels=[1])}}
    second = evaluate_edits(agents, more, **ask, progress=False)
    assert added == ['agents + own'] and len(second.table) == len(first.table) + 1 == 5
    changed = {'blind': zero('pixels', channels=[0])}  # another edit under the same name
    evaluate_edits(agents, changed, **ask, progress=False)
    assert added == ['agents + own'] + 2 * ['agents + blind']
    assert len(read_results(ask['out'])) == 5
    changes = changes_by_edit(second.table).set_index(['edit', 'run'])
    assert len(changes) == 3 and (changes.change[('blind',)].abs() > 1e-3).all()
    pd.testing.assert_series_equal(
        changes.change, changes.preference - changes.preference_before, check_names=False
    )


def test_channel_tests_take_an_edited_agent(policy):
    blind = EditedPolicy(policy, zero('pixels'))
    assert (
        run_case(blind, 'intact', '', count=2)['success'] == run_case(blind, 'unseen', '', count=2)['success']
    )
    assert run_case(policy, 'intact', '', count=2) == run_case(
        EditedPolicy(policy, []), 'intact', '', count=2
    )


def test_no_edits_are_no_change(policy, frames):
    assert torch.equal(edited_logits(policy, Edits(), frames), policy(frames)[0].detach())
    assert not EditedPolicy(policy, []).reads_states
    assert Situation(frames).states is None
