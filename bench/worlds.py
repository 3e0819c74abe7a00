"""What an agent of a larger world costs: train one by exact-advantage PPO on fresh levels, and examine
it now and then on levels that it never saw. One thread.

    python bench/worlds.py 15 --seed 2 --folder runs/corner-black/agent-2 --out bench/worlds.csv
    python bench/worlds.py 7 --out bench/worlds.csv

A row for each examination: processor seconds of training so far (examinations left out, but for the last),
and the exact success on 200 unseen levels of the training distribution. An agent that is interrupted goes on,
and so does its table.
"""

import argparse, tempfile, time
from pathlib import Path
import pandas as pd
import torch
from goalmisgen.agents import training_levels
from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.training import Seeds, learner_for, resume, train_agent

CORNER = dict(goal='cheese', uniform=0.3, levels_per_solve=40, lr=1e-3, gamma=0.995, checkpoint_every=10)
CONFIGS = {
    7: ExactPPOConfig(levels='7x7, dead ends, region 3', updates=960, **CORNER),
    15: ExactPPOConfig(levels='15x15, dead ends, random size, region 5', updates=7200, **CORNER),
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('size', type=int, choices=CONFIGS)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--every', type=int, default=480, help='gradient steps between two examinations')
    p.add_argument('--folder', help='where the agent goes; default nowhere')
    p.add_argument('--out', help='CSV file to add to')
    a = p.parse_args()
    torch.set_num_threads(1)
    training_levels.EXAM_SIZE = 200
    config, seeds = CONFIGS[a.size], Seeds(a.seed)
    with tempfile.TemporaryDirectory() as d:
        folder, spent, finished = Path(a.folder or d), 0.0, False
        while not finished:
            updates, seconds, finished = train_on(config, seeds, folder, a.every)
            spent += seconds
            row = examined(config, seeds, folder, updates) | dict(cpu_seconds=round(spent, 1))
            print(row, flush=True)
            if a.out:
                add_to(a.out, [row])


def train_on(config, seeds, folder, every):
    "Train until an examination is due: gradient steps so far, processor seconds, and is it the end?"
    due = []

    def report(updates, _):
        if updates % every == 0:
            due.append(updates)

    begin = time.process_time()
    finished = train_agent(config, seeds, folder, report, stop=lambda: bool(due))
    return due[0] if due else config.updates, time.process_time() - begin, finished


def examined(config, seeds, folder, updates):
    "The row of an examination"
    from goalmisgen.agents.impala import load_policy

    done = (folder / 'model.safetensors').exists()
    policy = (
        load_policy(folder / 'model.safetensors')
        if done
        else resume(learner_for(config, seeds), folder).policy
    )
    fared = training_levels.examine(policy, config)
    return dict(levels=config.levels, seed=seeds.agent, updates=updates, success=round(fared['success'], 4))


def add_to(path, rows):
    "Write rows below those that are there"
    old = [pd.read_csv(path)] if Path(path).exists() else []
    pd.concat([*old, pd.DataFrame(rows)]).to_csv(path, index=False)


if __name__ == '__main__':
    main()
