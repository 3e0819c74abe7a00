"""Seconds for a vector field, ours and the way of procgen-tools, measured in one run, side by side.

    python bench/interp.py --repeat 5 --out bench/interp.csv

A vector field says what a policy does on every square of a maze. The older way puts one real environment on
each square: it makes as many environments as there are open squares, reads a state in Python for each of
them, moves the mouse in it and writes it back, has every environment draw its frame and, since it asks for
people's pictures too, a picture of 512 pixels, and runs the network once on all frames while a hook at every
layer keeps what passes. Its frames face as the mouse did, one a square. Ours are two a square, facing left
and right.

Its code is not run here, since it does not install on a current Python; what is timed is these steps, as few
and as plain as they can be, with the codec and the network of this package, both of which are faster than its
own. So the ratios are rather too small. Both sides use the same network, in processes of their own, on one
thread, and take turns. Each reports its own processor time. What is made once and used for all fields (our
renderer, 0.4 s at 25 by 25, and the network) is not counted, nor is importing. Each maze is met for the first
time: nothing is remembered from one repetition to the next.
"""

import argparse, os, platform
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from time import process_time

from env import ONE_THREAD, processor


@dataclass(frozen=True)
class Case:
    "One comparison"

    name: str
    maze_size: int
    scale: int = 1  # Times the usual channels: 4 has 3,653,136 parameters


CASES = [
    Case('13 by 13', 13),
    Case('25 by 25', 25),
    Case('13 by 13, large network', 13, 4),
    Case('25 by 25, large network', 25, 4),
]


def seeds_of(case, n):
    "Level seeds of Procgen's hard mazes of one size"
    from itertools import islice
    from goalmisgen.env.worlds import get_world
    from goalmisgen.interp.seed_search import find_seeds

    spec = get_world('maze', 'hard').spec
    return list(islice(find_seeds(spec, lambda table: table.maze_size == case.maze_size), n))


def ours(case):
    "A function from a level seed to squares and the seconds that their field took"
    import torch
    from goalmisgen.agents.impala import Policy
    from goalmisgen.env.levels import generate
    from goalmisgen.env.worlds import get_world
    from goalmisgen.interp.maze_states import as_states
    from goalmisgen.interp.vector_fields import compute_field, world_renderer

    torch.set_num_threads(1)
    world = get_world('maze', 'hard')
    renderer, policy = world_renderer(world), Policy(0, case.scale).eval()

    def measure(seed):
        begin = process_time()
        state = as_states(generate(world.spec, [seed]))[0]
        field = compute_field(state, policy, renderer)
        assert field.moves.shape[1:] == (2, 5)
        return len(field), process_time() - begin

    return measure


def stock(case):
    "The same by one environment a square"
    import numpy as np, torch
    from procgen import ProcgenGym3Env
    from goalmisgen.agents.impala import Policy
    from goalmisgen.env.chain import move_probs
    from goalmisgen.env.states import read_state, write_state

    torch.set_num_threads(1)
    policy, kept = Policy(0, case.scale).eval(), {}
    for name, module in policy.named_modules():
        module.register_forward_hook(lambda module, x, out, name=name: kept.update({name: out}))

    def environments(num, seed):
        return ProcgenGym3Env(
            num=num,
            env_name='maze',
            distribution_mode='hard',
            num_threads=0,
            num_levels=1,
            start_level=seed,
            render_mode='rgb_array',
        )

    def measure(seed):
        begin = process_time()
        start = environments(1, seed).get_state()[0]
        squares = np.argwhere(read_state(start)['grid'] == 100)
        env = environments(len(squares), seed)
        states = []
        for state, (row, col) in zip(env.get_state(), squares):
            fields = read_state(state)
            fields['entities']['x'], fields['entities']['y'] = col + 0.5, row + 0.5
            states.append(write_state(fields))
        env.set_state(states)
        _, obs, _ = env.observe()
        env.get_info()  # people's pictures
        with torch.no_grad():
            probs = policy(torch.as_tensor(obs['rgb']))[0].softmax(1)
        assert len(move_probs(probs)) == len(squares) and len(kept) > 40
        return len(squares), process_time() - begin

    return measure


def serve(pipe, side, case):
    "A process: measure whatever seed comes"
    measure = side(case)
    pipe.send(None)
    while (seed := pipe.recv()) is not None:
        pipe.send(measure(seed))


def measure(case, repeat):
    "One row for each side and repetition; the first seed warms up and is not counted"
    context, sides, rows = get_context('spawn'), dict(ours=ours, stock=stock), []
    pipes = {name: context.Pipe() for name in sides}
    processes = [
        context.Process(target=serve, args=(pipes[name][1], side, case), daemon=True)
        for name, side in sides.items()
    ]
    for p in processes:
        p.start()
    for here, _ in pipes.values():
        here.recv()
    for i, seed in enumerate(seeds_of(case, repeat + 1)):
        for name, (here, _) in pipes.items():
            here.send(seed)
            squares, seconds = here.recv()
            row = dict(case=case.name, side=name, repetition=i - 1, level_seed=seed, squares=squares)
            if i:
                rows.append(row | dict(cpu_seconds=round(seconds, 4)))
    for here, _ in pipes.values():
        here.send(None)
    for p in processes:
        p.join()
    return rows


def summary(rows):
    "What a case has shown, in one line"
    spent = {side: [r['cpu_seconds'] for r in rows if r['side'] == side] for side in ('ours', 'stock')}
    ratio = [b / a for a, b in zip(spent['ours'], spent['stock'])]
    return (
        f"{rows[0]['case']:26} {median(spent['ours']):8.3f} {median(spent['stock']):8.2f} "
        f"{median(ratio):8.1f}  ({min(ratio):.1f} to {max(ratio):.1f})   {rows[0]['squares']}"
    )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--repeat', type=int, default=5, help='mazes')
    p.add_argument('--only', default='', help='cases whose name contains this')
    p.add_argument('--out', help='CSV file to write')
    a = p.parse_args()
    os.environ.update(ONE_THREAD)
    rows = []
    print(f'{processor()}, one thread; Python {platform.python_version()}\n')
    print(f"{'CPU seconds a field':26} {'ours':>8} {'stock':>8} {'ratio':>8}  (range)   squares")
    for case in CASES:
        if a.only not in case.name:
            continue
        rows += (found := measure(case, a.repeat))
        print(summary(found), flush=True)
    if a.out:
        import pandas as pd

        pd.DataFrame(rows).to_csv(a.out, index=False)


if __name__ == '__main__':
    main()
