"""The paper's PPO as this package runs it against a plain PPO loop, side by side: environment steps per
CPU-second.

    python bench/train.py [--agent FOLDER] [--steps 8] [--minibatches 1] [--out bench/train.csv]

The plain side is what published code does: frames are drawn at every step and kept, the network looks at each
of them, in float32 and NCHW, one minibatch of 8,192 in chunks of 256. The other side is
`goalmisgen.agents.ppo`: as it is, with native frames; with `shared` frames in PyTorch; and `in_full`, without
either. Each side has a process of its own with one thread: ours in the environment that `goalmisgen.jobs`
gives to its workers, which asks the C library for large memory pages, the plain one in that of any program;
`plain_paged` is the plain one with large pages too. All use the same untrained policy (early) and the same
trained one (late, and the policies kept along the way where the agent's folder has them). A whole iteration
of the plain loop takes ten minutes, so it is measured on `--steps` of its 256 steps and on `--minibatches`
of its 24 minibatches, and multiplied; ours is measured on a whole rollout and as many of the same
minibatches. A process is warm when the clock starts: it has done a gradient step before (ours the same one,
the plain one a small one), since what is prepared once serves 1,848 of them. The processes take turns, so
that other work on the machine slows all.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
import torch

torch.set_num_threads(1)
from goalmisgen.agents.forward import forward_for
from goalmisgen.agents.impala import load_policy
from goalmisgen.agents.ppo import PPO, PPOConfig, ppo_loss
from goalmisgen.agents.training import Seeds, metrics_csv
from goalmisgen.core import write_atomic

LARGE_PAGES = dict(GLIBC_TUNABLES='glibc.malloc.hugetlb=1')  # as `jobs` sets it for its workers
OURS = dict(ours='native', shared='shared', in_full='plain')  # Sides, and the forward of each
AT = {}  # What a process keeps between two calls


def process(**environment):
    "A process of one's own, kept; its environment is read when it starts"
    old = {k: os.environ.pop(k, None) for k in ('GLIBC_TUNABLES',)}
    os.environ.update(environment)
    pool = ProcessPoolExecutor(1, get_context('spawn'))
    pool.submit(int).result()
    for k in environment:
        os.environ.pop(k)
    os.environ.update({k: v for k, v in old.items() if v is not None})
    return lambda f, *args: pool.submit(f, *args).result()


def timed(f):
    "CPU-seconds of a call, and what it returns"
    t = time.process_time()
    found = f()
    return time.process_time() - t, found


def enter(weights, config, plain):
    "Have a policy in this process, which training steps do not change"
    learner = PPO(config, Seeds(0))
    if weights:
        learner.policy.load_state_dict(load_policy(weights).state_dict())
    if plain:
        learner.policy.to(memory_format=torch.contiguous_format)
    optimiser = torch.optim.Adam(learner.policy.parameters(), lr=1e-6, eps=1e-5)
    AT.update(learner=learner, optimiser=optimiser)


def step(gradient):
    "CPU-seconds of a gradient step, and what `gradient` returns"

    def whole():
        AT['optimiser'].zero_grad(set_to_none=True)
        found = gradient()
        torch.nn.utils.clip_grad_norm_(AT['learner'].policy.parameters(), 0.5)
        AT['optimiser'].step()
        return found

    return timed(whole)


def plain_play(steps):
    "CPU-seconds per step of a rollout that looks at every frame"
    learner = AT['learner']

    def play():
        for _ in range(steps):
            frames = learner.env.frames().clone()
            with torch.no_grad():
                logits, _ = learner.policy(frames)
            learner.env.step(torch.multinomial(logits.softmax(1), 1)[:, 0])

    return timed(play)[0] / steps


def plain_minibatch(batch):
    "CPU-seconds of a gradient step that looks at every frame"
    learner = AT['learner']
    frames = learner.env.draw(batch.ids)  # kept since the rollout

    def gradient(n):
        for i in torch.arange(n).split(256):
            loss, _ = ppo_loss(*learner.policy(frames[i]), batch[i], learner.config)
            (loss.sum() / len(batch)).backward()

    step(lambda: gradient(512))  # warm
    return step(lambda: gradient(len(batch)))[0]


def our_rollout(kind):
    "CPU-seconds of a rollout"
    learner = AT['learner']
    learner.forward = forward_for(learner.policy, learner.env.rendered, learner.autocast, kind)
    return timed(lambda: learner.play(learner.env))[0]


def our_play(minibatches):
    "Mean length of the episodes that a rollout ended, and some minibatches of it"
    learner = AT['learner']
    for _ in range(2):
        learner.play(learner.env)  # environments reach the middle of their episodes
    rollout = learner.play(learner.env)
    batch = learner.batch(rollout)
    some = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).split(
        len(batch) // learner.config.minibatches
    )
    return float(rollout.lengths[rollout.dones].float().mean()), [batch[i] for i in some[:minibatches]]


def our_minibatch(batch, kind):
    "CPU-seconds of the same gradient step over distinct frames, and how many there were"
    learner = AT['learner']
    learner.forward = forward_for(learner.policy, learner.env.rendered, learner.autocast, kind)
    step(lambda: learner.gradient(batch))  # warm: windows have many sizes, and each is prepared for once
    seconds, (_, num_frames) = step(lambda: learner.gradient(batch))
    return seconds, num_frames


def measure(sides, weights, config, steps, minibatches):
    "One row: all sides with one policy"
    ours, plain, paged = sides
    for side in sides:
        side(enter, weights, config, side is not ours)
    length, batches = ours(our_play, minibatches)
    rollout = {name: ours(our_rollout, kind) for name, kind in OURS.items()}
    step_s = {name: side(plain_play, steps) for name, side in (('plain', plain), ('plain_paged', paged))}
    minibatch_s = {name: [] for name in (*OURS, 'plain', 'plain_paged')}
    for batch in batches:
        minibatch_s['plain'].append(plain(plain_minibatch, batch))
        for name, kind in OURS.items():
            seconds, num_frames = ours(our_minibatch, batch, kind)
            minibatch_s[name].append(seconds)
        minibatch_s['plain_paged'].append(paged(plain_minibatch, batch))
    num_updates = config.epochs * config.minibatches
    mean = {name: sum(seconds) / len(seconds) for name, seconds in minibatch_s.items()}
    rollout |= {name: config.rollout * seconds for name, seconds in step_s.items()}
    return dict(
        episode_length=length,
        distinct=num_frames / len(batch),
        **{f'{name}_rollout_s': rollout[name] for name in OURS},
        **{f'{name}_step_s': v for name, v in step_s.items()},
        **{f'{name}_minibatch_s': v for name, v in mean.items()},
        **{f'{name}_iteration_s': rollout[name] + num_updates * v for name, v in mean.items()},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--agent',
        type=Path,
        help='folder of an agent of the paper\'s PPO; default the one that ships with the package',
    )
    parser.add_argument(
        '--steps', type=int, default=8, help='environment steps of the plain rollout that are measured'
    )
    parser.add_argument('--minibatches', type=int, default=1, help='minibatches that are measured')
    parser.add_argument('--out', type=Path, default=Path('bench/train.csv'))
    args = parser.parse_args()
    if args.agent is None:
        from goalmisgen.agents.examples import example_dir

        args.agent = example_dir('ppo-0')
    config, rows = PPOConfig(), []
    stages = [(0, None)] + sorted(
        (int(p.stem[5:]), p) for p in args.agent.glob('step-*.safetensors') if p.stem != 'step-0'
    )
    sides = process(**LARGE_PAGES), process(), process(**LARGE_PAGES)
    for env_steps, weights in [*stages, (5_046_272, args.agent)]:
        row = dict(env_steps=env_steps, **measure(sides, weights, config, args.steps, args.minibatches))
        n = config.num_envs * config.rollout
        row |= dict(
            ours_steps_per_cpu_s=n / row['ours_iteration_s'],
            plain_steps_per_cpu_s=n / row['plain_iteration_s'],
        )
        row['ratio'] = row['ours_steps_per_cpu_s'] / row['plain_steps_per_cpu_s']
        rows.append(row)
        print({k: round(v, 3) for k, v in row.items()}, flush=True)
    # a whole run: seconds per iteration between two measured policies are taken to change linearly
    total = lambda k: sum(
        (b['env_steps'] - a['env_steps']) / n * (a[k] + b[k]) / 2 for a, b in zip(rows, rows[1:])
    )
    seconds = {side: total(f'{side}_iteration_s') for side in (*OURS, 'plain', 'plain_paged')}
    print('whole run:', ', '.join(f'{k} {v / 60:.0f} CPU-minutes' for k, v in seconds.items()))
    print(
        f"ratio {seconds['plain'] / seconds['ours']:.1f}; with shared frames "
        f"{seconds['plain'] / seconds['shared']:.1f}; in full {seconds['plain'] / seconds['in_full']:.1f}; "
        f"to the plain loop with large pages {seconds['plain_paged'] / seconds['ours']:.1f}"
    )
    write_atomic(
        args.out,
        metrics_csv([{k: v if isinstance(v, int) else round(v, 4) for k, v in r.items()} for r in rows]),
    )


if __name__ == '__main__':
    sys.exit(main())
