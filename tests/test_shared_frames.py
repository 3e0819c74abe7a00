"Answers and gradients of shared and native frames, beside those of the plain network, in float64"

import pytest
import torch
from networks import lively, some_loss

from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.forward import PlainForward, answer_all, forward_for
from goalmisgen.agents.impala import Policy
from goalmisgen.agents.native_frames import NativeForward
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.shared_frames import SIDES, SharedForward, first_maps, is_unmodified, trace_footprints
from goalmisgen.agents.training import Seeds
from goalmisgen.env.levels import DUEL, TRAIN, MazeSpec, generate
from goalmisgen.env.render import Renderer
from goalmisgen.env.rendered import RenderedLevels

pytestmark = pytest.mark.slow

CORNER = MazeSpec(size=5, region=0)  # the goal is in the upper right corner
WORLDS = {
    'the training world': (TRAIN, 'yellow line', 'black', range(200)),
    'with textures': (TRAIN, 'white gem', 'textured', range(300)),
    'duels': (DUEL, ('red line', 'yellow gem'), 'grey', range(40)),
    'very small': (MazeSpec(size=3), 'yellow line', 'black', range(20)),
    'large': (MazeSpec(size=9), 'yellow gem', 'textured', range(4)),
    'the largest': (MazeSpec(size=25), 'yellow line', 'black', range(1)),
    'a goal in the corner': (CORNER, 'yellow line', 'black', range(20)),
}

CHUNK = 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr('goalmisgen.agents.forward.CPU_CHUNK', CHUNK)
    monkeypatch.setattr('goalmisgen.agents.shared_frames.FRAMES_PER_LEVEL', 0)


@pytest.fixture(params=WORLDS, scope='module')
def world(request):
    "Rendered levels, and some of their states"
    spec, objects, background, seeds = WORLDS[request.param]
    rendered = RenderedLevels(generate(spec, seeds), Renderer(spec.size, objects, background), spec.rewards)
    return rendered, torch.randperm(len(rendered.table), generator=torch.Generator().manual_seed(1))[:100]


@pytest.mark.parametrize('kind', [SharedForward, NativeForward])
def test_answers_and_gradients_are_the_networks_own(world, kind):
    rendered, states = world
    policy = lively(3).double()
    weigh = torch.randn((len(states), 15), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = policy(rendered.frames(states))
    some_loss(*plain, weigh).backward()
    want = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    forward = kind(policy, rendered)
    order = forward.prepare(states)
    assert sorted(order.tolist()) == list(range(len(states)))
    for i in order.split(CHUNK):
        said = forward(states[i])
        for a, b in zip(said, plain):
            assert torch.allclose(a, b[i], rtol=0, atol=1e-11)
        some_loss(*said, weigh[i]).backward()
    forward.flush()
    for p, w in zip(policy.parameters(), want):
        assert (p.grad - w).norm() <= 1e-11 * w.norm()
    for a, b in zip(answer_all(forward, states), plain):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)
    forward.flush()
    for p, w in zip(policy.parameters(), want):
        assert (p.grad - w).norm() <= 1e-11 * w.norm(), 'a second flush has nothing to pass on'


def test_a_map_that_a_window_needs_is_needed(world):
    "The test above would notice if levels were mixed up, or the gradient of what frames share got lost"
    rendered, states = world
    if len(rendered.table.level[states].unique()) == 1:
        pytest.skip('one level cannot be taken for another')
    policy = lively(3).double()
    forward = SharedForward(policy, rendered)
    forward.prepare(states)
    right = forward(states)[0]
    some_loss(*forward(states), torch.ones(15)).backward()
    before = policy.embedder.block1.conv.weight.grad.clone()
    forward.flush()
    assert (policy.embedder.block1.conv.weight.grad - before).norm() > 1e-3 * before.norm()
    forward.prepare(states)
    forward.row[forward.row >= 0] = forward.row[forward.row >= 0].roll(1)
    assert not torch.allclose(forward(states)[0], right, rtol=0, atol=1e-6)


def test_footprints_hold_whatever_a_pixel_can_reach():
    "Every pixel of a picture, changed alone: what it reaches in random maps, and no row or column more"
    policy, spots = (
        lively(0).double(),
        torch.tensor([[y, y, x, x] for y in (0, 1, 7, 30, 31, 62, 63) for x in range(0, 64, 9)]),
    )
    p, rng = trace_footprints(spots), torch.Generator().manual_seed(0)
    reached = [torch.zeros((len(spots), n, n), dtype=torch.bool) for n in SIDES]
    for _ in range(6):  # a pixel may be too dark or bright to matter in one picture
        one = torch.randint(256, (1, 64, 64, 3), generator=rng, dtype=torch.uint8).repeat(
            len(spots) + 1, 1, 1, 1
        )
        for i, (y, _, x, _) in enumerate(spots.tolist()):
            one[i, y, x] = 255 - one[i, y, x]
        with torch.no_grad():
            maps = first_maps(policy, one)
        for seen, m in zip(reached, maps):
            seen |= ((m[:-1] - m[-1:]).abs() > 1e-14).any(1)
    for k, seen in enumerate(reached):
        for m, begin, end in zip(seen, p.begin[k].tolist(), p.end[k].tolist()):
            rows, cols = m.nonzero(as_tuple=True)
            assert [rows.min(), cols.min()] == begin and [rows.max() + 1, cols.max() + 1] == end, k


@pytest.mark.parametrize('size', [3, 5, 9, 25])
def test_rects_hold_footprints(size):
    """Of any cells together: all that is touched, nothing outside the window they are cut from, on the map
    where they can be"""
    p = trace_footprints(Renderer(size).mouse_spots())
    for cells in (
        range(size**2),
        [0],
        [0, size**2 - 1],
        range(size),
        torch.randperm(size**2, generator=torch.Generator().manual_seed(size))[:7],
    ):
        cells = torch.as_tensor(list(cells))
        rects = p.rects(cells)
        for k, r in enumerate(rects):
            end = r.starts + r.size
            assert (r.starts <= p.begin[k, cells]).all() and (end >= p.end[k, cells]).all()
            assert (r.size == (p.end[k, cells] - p.begin[k, cells]).amax(0)).all()
            if k % 5 == 0:
                assert (r.starts >= 0).all() and (end <= SIDES[k]).all()
            else:
                wide = rects[k - 1].grown()
                assert (r.starts >= wide.starts).all() and (end <= wide.starts + wide.size).all()
    assert sorted(p.rank.tolist()) == list(range(size**2))


def test_only_where_it_pays(monkeypatch):
    monkeypatch.setattr('goalmisgen.agents.shared_frames.FRAMES_PER_LEVEL', 2)
    c = dict(num_envs=4, rollout=4, minibatches=1, epochs=1, env_steps=16, precision='float32')
    learner = PPO(PPOConfig(**c), Seeds(0), forward='shared')
    table, forward = learner.env.table, learner.forward
    crowd, few = (table.level < 10).nonzero()[:, 0], table.start[:50].long()
    for states, shares in ((crowd, True), (few, False), (crowd, True)):
        forward.prepare(states)
        assert forward.shares == shares
    for plain in (
        PPO(PPOConfig(**c), Seeds(0), forward='plain'),
        PPO(PPOConfig(**c, num_levels=0), Seeds(0)),
    ):
        assert (
            type(plain.forward) is PlainForward
        )  # as it was asked for; and levels without end have no table
    monkeypatch.setenv('GOALMISGEN_FORWARD', 'plain')
    assert type(PPO(PPOConfig(**c), Seeds(0)).forward) is PlainForward
    assert type(PPO(PPOConfig(**c), Seeds(0), forward='shared').forward) is SharedForward
    monkeypatch.setenv('GOALMISGEN_FORWARD', 'yes')
    with pytest.raises(ValueError, match='native, shared, plain'):
        PPO(PPOConfig(**c), Seeds(0))


def test_states_of_other_levels_are_refused(world):
    rendered, states = world
    level = rendered.first_alike[rendered.table.level]
    others = (level != level[states[0]]).nonzero()[:, 0]
    if not len(others):
        pytest.skip('there is no other level')
    forward = SharedForward(lively(3).double(), rendered)
    forward.prepare(states[:1])
    with pytest.raises(ValueError, match='prepared'):
        forward(others)


def test_exact_ppo_sees_the_same_either_way():
    config = ExactPPOConfig(levels_per_solve=8, precision='float32')
    shared, native, plain = (ExactPPO(config, Seeds(0), forward=kind) for kind in ('shared', None, 'plain'))
    states = shared.world.solver.states(torch.arange(8))
    for learner in (shared, native, plain):
        learner.policy.double()
    want = plain.logits_no_grad(states)
    assert len(states) > 200
    for learner in (shared, native):
        assert torch.allclose(learner.logits_no_grad(states), want, rtol=0, atol=1e-12)


class Half(torch.nn.Module):
    def forward(self, weight):
        return weight * 0.5


def hooked(p):
    p.embedder.block1.res1.register_forward_hook(lambda m, x, out: out * 0.5)


def hooked_before(p):
    p.embedder.block2.conv.register_forward_pre_hook(lambda m, x: (x[0] * 0.5,))


def hooked_late(p):
    p.embedder.relufc.register_forward_hook(lambda m, x, out: out.flip(1))


def exchanged(p):
    p.embedder.block1.res2 = torch.nn.Identity()


def overridden(p):
    p.embedder.block1.pool.forward = lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1)


def parametrised(p):
    torch.nn.utils.parametrize.register_parametrization(p.embedder.block2.conv, 'weight', Half())


@pytest.mark.parametrize('change', [hooked, hooked_before, hooked_late, exchanged, overridden, parametrised])
def test_a_changed_network_is_looked_at_as_it_is(world, change):
    """Windows and compiled code have their own way through the network: what somebody hooks in there,
    exchanges or overrides must count"""
    rendered, states = world
    policy = lively(3).double()
    forward = forward_for(policy, rendered)
    before = answer_all(forward, states)[0]
    change(policy)
    after = answer_all(forward, states)[0]
    assert torch.allclose(after, policy(rendered.frames(states))[0], rtol=0, atol=1e-11)
    assert not torch.allclose(after, before, rtol=0, atol=1e-3)


def test_hooks_of_the_way_back_count_too():
    "A hook on the gradients of one module, and hooks on all modules there are"
    policy = Policy(0)
    assert is_unmodified(policy)
    everywhere = torch.nn.modules.module
    hooks = [
        lambda: policy.embedder.block1.res1.register_full_backward_hook(lambda *a: None),
        lambda: policy.embedder.block1.res1.register_full_backward_pre_hook(lambda *a: None),
        lambda: everywhere.register_module_forward_hook(lambda *a: None),
        lambda: everywhere.register_module_forward_pre_hook(lambda *a: None),
        lambda: everywhere.register_module_full_backward_hook(lambda *a: None),
    ]
    for hook in hooks:
        handle = hook()
        try:
            assert not is_unmodified(policy)
        finally:
            handle.remove()
        assert is_unmodified(policy)
