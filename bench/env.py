"""Steps per CPU second, ours and stock Procgen's, measured in one run, side by side.

    python bench/env.py --repeat 5 --seconds 1 --out bench/env.csv

Both sides run in processes of their own, on one thread, and take turns. Each reports its own processor time,
so that it does not matter how busy the machine is, and no pipe is paid for. Both play random actions, and
hand out every frame in an array that is used again. Making the environments is not counted. What is compared:

- 5 by 5: the paper's training levels. Stock Procgen has no such world, so its state is overwritten with our
  levels, at the beginning and after every end; only its steps are counted, not the overwriting.
- maze: Procgen's own game, easy (15 by 15) and hard (25 by 25), of all level seeds, textured and black. Ours
  makes its levels as it goes.
- no frames: ours with rewards, ends and state ids only, many side by side. Procgen always draws, so it is
  held against the same frames as above.

The number of environments matters for ours alone: a batch costs some two dozen torch calls, whatever its
size.
"""

import argparse, os, platform, tempfile
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import process_time

ONE_THREAD = dict.fromkeys(['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'], '1')


@dataclass(frozen=True)
class Case:
    "One comparison"

    name: str
    world: str  # Our name
    mode: str = 'easy'
    background: str = 'black'
    frames: bool = True
    num_envs: int = 256
    stock_envs: int = 64


CASES = [
    Case('5 by 5, black', 'maze_pure_line'),
    Case('5 by 5, black, 64 a batch', 'maze_pure_line', num_envs=64),
    Case('5 by 5, textured', 'maze_pure_line', background='textured'),
    Case('maze easy, textured', 'maze', background='textured'),
    Case('maze easy, black', 'maze'),
    Case('maze hard, textured', 'maze', 'hard', 'textured'),
    Case('maze hard, black', 'maze', 'hard'),
    Case('5 by 5, no frames', 'maze_pure_line', frames=False, num_envs=2**15),
    Case('maze easy, no frames', 'maze', frames=False, num_envs=2**10),
]


def ours(case):
    "A function that plays for some seconds: steps and seconds"
    import torch
    from goalmisgen.env.worlds import make_env

    torch.set_num_threads(1)
    n = case.num_envs
    env = make_env(
        case.world, n, case.background, num_levels=100_000 * (case.world == 'maze_pure_line'), mode=case.mode
    )
    actions, frames = (
        torch.randint(0, 15, (64, n), generator=torch.Generator().manual_seed(0)),
        torch.empty((n, 64, 64, 3), dtype=torch.uint8),
    )

    def play(seconds):
        t, begin = 0, process_time()
        while (spent := process_time() - begin) < seconds:
            env.step(actions[t % 64])
            if case.frames:
                env.frames(out=frames)
            t += 1
        return t * n, spent

    return play


def stock(case):
    "The same for Procgen"
    import numpy as np
    from procgen import ProcgenGym3Env
    from goalmisgen.env.levels import TRAIN, generate
    from goalmisgen.env.procgen import _asset_copy, put_level, read_state, write_state

    n, own = case.stock_envs, case.world == 'maze'
    with tempfile.TemporaryDirectory() as folder:
        _asset_copy(Path(folder) / 'assets', () if own else ('yellow line',))
        env = ProcgenGym3Env(
            num=n,
            env_name='maze',
            distribution_mode=case.mode,
            num_threads=0,
            rand_seed=0,
            use_backgrounds=case.background == 'textured',
            resource_root=f'{folder}/assets/',
        )
    env._reuse_arrays = True  # no copy of what is observed
    blank, levels = read_state(env.get_state()[0]), generate(TRAIN, range(512))
    states = (
        []
        if own
        else [write_state(put_level(blank, levels, i, background=case.background)) for i in range(512)]
    )
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 15, (64, n)).astype(np.int32)

    def enter(which):
        for i in () if own else which:
            state = states[rng.integers(512)]
            env.call_c_func('set_state', int(i), state, len(state))

    def play(seconds):
        t = spent = 0
        while spent < seconds:
            begin = process_time()
            env.act(actions[t % 64])
            _, _, first = env.observe()
            spent += process_time() - begin
            enter(np.flatnonzero(first))
            t += 1
        return t * n, spent

    enter(range(n))
    return play


def serve(pipe, side, case):
    "A process: make the environment, then play whenever asked"
    begin = process_time()
    play = side(case)
    play(0.2)  # pictures and tables are made at the first look
    pipe.send(process_time() - begin - 0.2)
    while seconds := pipe.recv():
        pipe.send(play(seconds))


def measure(case, repeat, seconds):
    "One row for each side and repetition"
    context, sides, rows = get_context('spawn'), dict(ours=ours, stock=stock), []
    pipes = {name: context.Pipe() for name in sides}
    processes = [
        context.Process(target=serve, args=(pipes[name][1], side, case), daemon=True)
        for name, side in sides.items()
    ]
    for p in processes:
        p.start()
    start = {name: here.recv() for name, (here, _) in pipes.items()}
    for i in range(repeat):
        for name, (here, _) in pipes.items():
            here.send(seconds)
            steps, spent = here.recv()
            rows.append(
                dict(
                    case=case.name,
                    side=name,
                    repetition=i,
                    steps=steps,
                    cpu_seconds=round(spent, 4),
                    per_second=round(steps / spent),
                    start=round(start[name], 2),
                )
            )
    for here, _ in pipes.values():
        here.send(0)
    for p in processes:
        p.join()
    return rows


def processor():
    "The model of this machine's processor"
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (o.split(':', 1)[1].strip() for o in lines if o.startswith('model name')),
        platform.processor() or 'unknown processor',
    )


def summary(rows):
    "What a case has shown, in one line"
    rate = {side: [r['per_second'] for r in rows if r['side'] == side] for side in ('ours', 'stock')}
    ratio = [a / b for a, b in zip(rate['ours'], rate['stock'])]
    start = {r['side']: r['start'] for r in rows}
    return (
        f"{rows[0]['case']:26} {median(rate['ours']):12,.0f} {median(rate['stock']):10,.0f} "
        f"{median(ratio):8.1f}  ({min(ratio):.1f} to {max(ratio):.1f})"
        f"   {start['ours']:.1f}, {start['stock']:.1f}"
    )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--repeat', type=int, default=5)
    p.add_argument('--seconds', type=float, default=1.0, help='CPU seconds a turn')
    p.add_argument('--only', default='', help='cases whose name contains this')
    p.add_argument('--out', help='CSV file to write')
    a = p.parse_args()
    os.environ.update(ONE_THREAD)
    rows = []
    print(f'{processor()}, one thread; Python {platform.python_version()}\n')
    print(f"{'steps per CPU second':26} {'ours':>12} {'stock':>10} {'ratio':>8}  (range)   seconds to start")
    for case in CASES:
        if a.only not in case.name:
            continue
        rows += (found := measure(case, a.repeat, a.seconds))
        print(summary(found), flush=True)
    if a.out:
        import pandas as pd

        pd.DataFrame(rows).to_csv(a.out, index=False)


if __name__ == '__main__':
    main()
