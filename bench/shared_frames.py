"""What shared and native frames save, in CPU-seconds (user and system) of one thread, side by side in one
process:

    OMP_NUM_THREADS=1 python bench/shared_frames.py [--times 7] [--out bench/shared_frames.csv]

Three things that networks are asked for: the gradient of a minibatch of 8,192 steps of the paper's PPO, by an
untrained policy (early) and by the trained agent `ppo-0` (late); the logits of all states of 102 levels, as a
round of exact-advantage PPO asks; and the exact evaluation of an agent on the thousand published levels. Each
is done by every side in turn, `--times` times, after once to warm up. The table has medians, least and
greatest. (Its side `mazes` was measured by this script too, when there was one: levels composed from the maps
of their mazes.)
"""

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from goalmisgen.agents.examples import load_example
from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.forward import FORWARD_VARIABLE, FORWARDS, forward_for
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.training import Seeds, metrics_csv
from goalmisgen.core import write_atomic
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.questions import Setting

SIDES = FORWARDS[::-1]  # the plain one first


def by_side(learner, rendered, work):
    "By side, a function that calls `work` when the learner has that side's forward"

    def run(forward):
        learner.forward = forward
        work()

    forwards = {kind: forward_for(learner.policy, rendered, learner.autocast, kind) for kind in SIDES}
    return {kind: partial(run, forward) for kind, forward in forwards.items()}


def training(policy):
    "By side, a function that computes the gradient of a minibatch"
    learner = PPO(PPOConfig(), Seeds(0))
    if policy:
        learner.policy.load_state_dict(policy.state_dict())
    batch = learner.batch(learner.play(learner.env))
    some = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))[:8192]
    batch = batch[some]

    def work():
        learner.optimiser.zero_grad()
        learner.gradient(batch)

    return by_side(learner, learner.env.rendered, work)


def survey():
    "By side, a function that asks about all states of 102 levels"
    learner = ExactPPO(ExactPPOConfig(), Seeds(0))
    states = learner.world.solver.states(torch.arange(102))
    return by_side(learner, learner.world.rendered, lambda: learner.logits_no_grad(states))


def evaluation(name):
    "By side, a function that evaluates an agent"
    setting = Setting('red line', 'yellow gem')
    policy = load_example(name)

    def work(kind):
        os.environ[FORWARD_VARIABLE] = kind
        evaluate_exact(policy, setting)

    return {kind: partial(work, kind) for kind in SIDES}


def measure(work, times):
    "CPU-seconds of each side, in turn"
    taken = {side: [] for side in work}
    for n in range(times + 1):
        for side, run in work.items():
            begin = time.process_time()
            run()
            if n:
                taken[side].append(time.process_time() - begin)
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--times', type=int, default=7)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.csv'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {
        'gradient, early': partial(training, None),
        'gradient, late': lambda: training(load_example('ppo-0')),
        'survey': survey,
        'exact evaluation': partial(evaluation, 'ppo-0'),
    }
    rows = []
    for task, make in tasks.items():
        taken = measure(make(), args.times)
        plain = statistics.median(taken['plain'])
        for side, seconds in taken.items():
            middle = statistics.median(seconds)
            rows.append(
                dict(
                    task=task,
                    side=side,
                    times=len(seconds),
                    cpu_seconds=round(middle, 3),
                    least=round(min(seconds), 3),
                    greatest=round(max(seconds), 3),
                    of_plain=round(middle / plain, 3),
                )
            )
            print(rows[-1], flush=True)
    write_atomic(args.out, metrics_csv(rows))


if __name__ == '__main__':
    main()
