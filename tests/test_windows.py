"Answers and gradients through windows, beside those of the plain network, in float64"
from dataclasses import replace

import pytest
import torch

from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.impala import Policy
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.training import Seeds
from goalmisgen.agents.windows import SIDES, Layout, Look, _first_maps, answer, trace_footprints
from goalmisgen.env.levels import DUEL, TRAIN, MazeSpec, generate
from goalmisgen.env.table import StateTable
from goalmisgen.env.render import Renderer

pytestmark = pytest.mark.slow

CORNER = MazeSpec(size=5, region=0)  # the goal is in the upper right corner
FROM_MAZES = 'the training world', 'with textures', 'very small', 'a goal in the corner'  # far fewer mazes than levels
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
    monkeypatch.setattr('goalmisgen.agents.windows.CHUNK', CHUNK)
    monkeypatch.setattr('goalmisgen.agents.windows.GOAL_CHUNK', 15)


@pytest.fixture(params=WORLDS, scope='module')
def world(request):
    spec,objects,background,seeds = WORLDS[request.param]
    levels,renderer = generate(spec, seeds), Renderer(spec.size, objects, background)
    table,scenes = StateTable(levels, spec.rewards), renderer.scenes(levels)
    states = torch.randperm(len(table), generator=torch.Generator().manual_seed(1))[:100]
    frames = renderer.frames(scenes, table.level[states], table.cell[states], table.facing[states])
    return request.param, Layout(renderer, levels, scenes), table.level[states], table.cell[states], frames


def lively(seed):
    "A policy whose every weight matters, in float64"
    policy = Policy(seed).double()
    with torch.no_grad():
        policy.fc_policy.weight *= 50
        for name,p in policy.named_parameters():
            if name.endswith('bias'): p.normal_(0, .1, generator=torch.Generator().manual_seed(len(name)))
    return policy


def gradient(policy, logits_and_values, weigh):
    logits,value = logits_and_values
    return (logits.log_softmax(1)*weigh).sum() + (value**2).sum()


def test_answers_and_gradients_are_the_networks_own(world):
    name,layout,level,cell,frames = world
    policy = lively(3)
    weigh = torch.randn((len(frames),15), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = policy(frames)
    gradient(policy, plain, weigh).backward()
    want = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    look = Look(policy, layout, level.unique())
    for i in torch.arange(len(frames)).split(CHUNK):
        said = look(frames[i], level[i], cell[i])
        for a,b in zip(said, plain): assert torch.allclose(a, b[i], rtol=0, atol=1e-11)
        gradient(policy, said, weigh[i]).backward()
    look.backward()
    for p,w in zip(policy.parameters(), want): assert (p.grad-w).norm()<=1e-11*w.norm()
    for a,b in zip(answer(policy, layout, level, cell, lambda i: frames[i]), plain): assert torch.allclose(a, b, rtol=0, atol=1e-11)
    assert (layout.goal is not None)==(name in FROM_MAZES)


def test_a_map_that_a_window_needs_is_needed(world):
    "The test above would notice if levels were mixed up, or the gradient of what frames share got lost"
    _,layout,level,cell,frames = world
    if len(level.unique())==1: pytest.skip('one level cannot be taken for another')
    policy = lively(3)
    look = Look(policy, layout, level.unique())
    right = look(frames, level, cell)[0]
    gradient(policy, look(frames, level, cell), torch.ones(15)).backward()
    before = policy.embedder.block1.conv.weight.grad.clone()
    look.backward()
    assert (policy.embedder.block1.conv.weight.grad-before).norm()>1e-3*before.norm()
    look.place = look.place.roll(1)
    assert not torch.allclose(look(frames, level, cell)[0], right, rtol=0, atol=1e-6)


def test_places_hold_whatever_a_pixel_can_reach():
    "Every pixel of a picture, changed alone: what it reaches in random maps, and no row or column more"
    policy,spots = lively(0), torch.tensor([[y,y,x,x] for y in (0,1,7,30,31,62,63) for x in range(0,64,9)])
    p,rng = trace_footprints(spots), torch.Generator().manual_seed(0)
    reached = [torch.zeros((len(spots),n,n), dtype=torch.bool) for n in SIDES]
    for _ in range(6):  # a pixel may be too dark or bright to matter in one picture
        one = torch.randint(256, (1,64,64,3), generator=rng, dtype=torch.uint8).repeat(len(spots)+1,1,1,1)
        for i,(y,_,x,_) in enumerate(spots.tolist()): one[i,y,x] = 255-one[i,y,x]
        with torch.no_grad(): maps = _first_maps(policy, one)
        for seen,m in zip(reached, maps): seen |= ((m[:-1]-m[-1:]).abs()>1e-14).any(1)
    for k,seen in enumerate(reached):
        for m,begin,end in zip(seen, p.begin[k].tolist(), p.end[k].tolist()):
            rows,cols = m.nonzero(as_tuple=True)
            assert [rows.min(), cols.min()]==begin and [rows.max()+1, cols.max()+1]==end, k


@pytest.mark.parametrize('size', [3, 5, 9, 25])
def test_boxes_hold_places(size):
    "Of any cells together: all that is touched, nothing outside the window they are cut from, on the map where they can be"
    p = trace_footprints(Renderer(size).mouse_spots())
    for cells in (range(size**2), [0], [0,size**2-1], range(size), torch.randperm(size**2, generator=torch.Generator().manual_seed(size))[:7]):
        cells = torch.as_tensor(list(cells))
        boxes = p.boxes(cells)
        for k,b in enumerate(boxes):
            end = b.starts+b.size
            assert (b.starts<=p.begin[k,cells]).all() and (end>=p.end[k,cells]).all()
            assert (b.size==(p.end[k,cells]-p.begin[k,cells]).amax(0)).all()
            if k%5==0: assert (b.starts>=0).all() and (end<=SIDES[k]).all()
            else:
                wide = boxes[k-1].grown()
                assert (b.starts>=wide.starts).all() and (end<=wide.starts+wide.size).all()
    assert sorted(p.rank.tolist())==list(range(size**2))


def test_only_where_it_pays():
    c = PPOConfig(num_envs=4, rollout=4, minibatches=1, epochs=1, env_steps=16, precision='float32')
    learner = PPO(c, Seeds(0))
    table = learner.env.table
    crowd,few = (table.level<10).nonzero()[:,0], table.start[:50].long()
    assert learner.look(crowd) and learner.look(few) is None
    learner.config = replace(c, windows=False)
    assert learner.look(crowd) is None
    assert PPO(replace(c, num_levels=0), Seeds(0)).look(crowd) is None  # levels without end have no table


def test_exact_ppo_sees_the_same_either_way():
    learner = ExactPPO(ExactPPOConfig(levels_per_solve=8, precision='float32'), Seeds(0))
    learner.policy.double()
    states = learner.solver.states(torch.arange(8))
    seen = learner.logits_no_grad(states)
    learner.layout = None
    assert torch.allclose(seen, learner.logits_no_grad(states), rtol=0, atol=1e-12) and len(seen)>200


def test_a_changed_network_is_looked_at_as_it_is(world):
    "Windows have their own way through the first half: what somebody hooks in there, exchanges or overrides must count"
    _,layout,level,cell,frames = world
    draw = lambda i: frames[i]
    def hooked(p): p.embedder.block1.res1.register_forward_hook(lambda m,x,out: out*.5)
    def hooked_before(p): p.embedder.block2.conv.register_forward_pre_hook(lambda m,x: (x[0]*.5,))
    def hooked_late(p): p.embedder.relufc.register_forward_hook(lambda m,x,out: out.flip(1))
    def exchanged(p): p.embedder.block1.res2 = torch.nn.Identity()
    def overridden(p): p.embedder.block1.pool.forward = lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1)
    for change in (hooked, hooked_before, hooked_late, exchanged, overridden):
        policy = lively(3)
        before = answer(policy, layout, level, cell, draw)[0]
        change(policy)
        after = answer(policy, layout, level, cell, draw)[0]
        assert torch.allclose(after, policy(frames)[0], rtol=0, atol=1e-11) and not torch.allclose(after, before, rtol=0, atol=1e-3), change
