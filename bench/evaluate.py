"""Evaluation per CPU second, ours and the published way, measured in one run, side by side, on one thread.

    python bench/evaluate.py POPULATION --agents 0 1 2 3 --out bench/evaluate.csv

POPULATION is a folder of trained agents `agent-<number>/`. The sides:

- published: the way of the paper's script. Level after level: load the policy, then play one episode, one
  frame at a time, through a float32 network in PyTorch's default layout. Stock Procgen has no second object,
  so mazes and frames are ours, and making them is not counted, nor is making an environment for every level,
  as that script does: both flatter this side. Some levels only.
- batched: all levels at once, the network looking at every step of every episode, in blocks of 64. Some
  levels only.
- sampled: `evaluate_sampled`, the paper's protocol on its 1,000 levels: all at once, each different frame
  looked at once.
- exact: `evaluate_exact` on the same levels, tolerance 1e-6; `exact, all states` with tolerance 0.

Costs are CPU seconds of this process; for `sampled` and `exact` loading the policy and drawing the levels is
counted. A few episodes on some levels are not all as long as the average one, so the slow sides are
extrapolated: `per_1000` is 1,000 times the cost of loading, plus the cost of a step times the exact mean
episode length on the 1,000 levels.
"""

import argparse
import os
from pathlib import Path
from time import process_time

os.environ.update(dict.fromkeys(['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'], '1'))

QUESTIONS = (
    'red line vs yellow gem',
    'blue line vs black gem',
)  # what the agents can do, and what many cannot


def drawn(question, seeds):
    "The levels of some seeds, drawn, and which of them each seed is"
    from goalmisgen.evaluation.questions import RenderCache, evaluation_levels

    level_set = evaluation_levels(seeds, question.background)
    return RenderCache().draw(question, level_set.levels), level_set.index


def publishedly(path, question, seeds):
    "CPU seconds of loading and of playing, and steps: one episode on each level, the published way"
    import torch
    from goalmisgen.agents.impala import load_policy

    load = play = steps = 0
    levels = [drawn(question, range(s, s + 1))[0] for s in seeds]
    torch.manual_seed(42)
    for rendered in levels:
        begin = process_time()
        policy = load_policy(path).to(memory_format=torch.contiguous_format)
        load += process_time() - begin
        begin = process_time()
        steps += one_episode(policy, rendered)
        play += process_time() - begin
    return load, play, steps


def one_episode(policy, rendered):
    "The steps of an episode on the one level that is drawn, a frame at a time"
    import torch
    from goalmisgen.env.table import ACTION_MOVES

    table = rendered.table
    state = table.start
    steps = 0
    while steps < 500:
        x = rendered.frames(state).permute(0, 3, 1, 2).contiguous().float() / 255
        with torch.no_grad():
            h = policy.embedder(x)
            policy.fc_value(h)
            action = torch.distributions.Categorical(logits=policy.fc_policy(h)).sample()
        move = ACTION_MOVES[int(action)]
        steps += 1
        if int(table.outcome[state, move]):
            break
        state = table.next[state, move].long()
    return steps


def in_batches(path, question, seeds):
    """CPU seconds of loading and of playing, and steps: one episode on each level, all at once, every step
    looked at"""
    import torch
    from goalmisgen.agents.impala import action_probs, load_policy
    from goalmisgen.env.table import ACTION_MOVES

    rendered, index = drawn(question, seeds)
    table = rendered.table
    moves, rng = torch.tensor(ACTION_MOVES), torch.Generator().manual_seed(42)
    policy = load_policy(path)
    state = table.start[torch.as_tensor(index)]
    steps = 0
    begin = process_time()
    for _ in range(500):
        p = action_probs(policy, rendered.frames(state), 64)
        move = moves[torch.multinomial(p, 1, generator=rng)[:, 0]]
        steps += len(state)
        state = table.next[state, move].long()[table.outcome[state, move] == 0]
        if not len(state):
            break
    return 0, process_time() - begin, steps


def ours(path, question, protocol):
    "CPU seconds and the result of an evaluation, nothing being kept from before"
    from goalmisgen.agents.impala import load_policy
    from goalmisgen.evaluation.protocol import evaluate

    begin = process_time()
    result = evaluate(load_policy(path), question, protocol)
    return process_time() - begin, result


def measure(folder, numbers, levels, all_states):
    "Rows of the table"
    from goalmisgen.agents.population import agents_of
    from goalmisgen.evaluation.questions import Setting

    agents = agents_of(folder)
    for text in QUESTIONS:
        for n in numbers:
            path = agents[n] / 'model.safetensors'
            for row in measure_agent(path, Setting.parse(text), levels, all_states and n == numbers[0]):
                yield dict(agent=n, question=text) | row


def measure_agent(path, question, levels, all_states):
    "The rows of one agent and question, without their names"
    from goalmisgen.evaluation.protocol import Protocol

    protocols = {'exact': Protocol(), 'sampled': Protocol('sampled')}
    if all_states:
        protocols['exact, all states'] = Protocol(tolerance=0.0)
    length = {}
    for side, protocol in protocols.items():
        cpu, r = ours(path, question, protocol)
        length[side] = r.capability
        yield dict(
            side=side,
            levels=1000,
            cpu_seconds=cpu,
            num_forward_frames=r.num_forward_frames,
            mean_length=r.capability,
            per_1000=cpu,
        )
    for side, play in dict(published=publishedly, batched=in_batches).items():
        load, cpu, steps = play(path, question, range(100000, 100000 + levels))
        per_1000 = 1000 * (load / levels + length['exact'] * cpu / steps)
        yield dict(
            side=side,
            levels=levels,
            cpu_seconds=load + cpu,
            num_forward_frames=steps,
            mean_length=steps / levels,
            per_1000=per_1000,
        )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('population', type=Path)
    p.add_argument('--agents', type=int, nargs='+', default=[0, 1, 2, 3])
    p.add_argument('--levels', type=int, default=10, help='levels on the slow sides')
    p.add_argument(
        '--all-states', action='store_true', help='also ask the first agent about every state, as a yardstick'
    )
    p.add_argument('--out', help='CSV file to write')
    a = p.parse_args()
    import pandas as pd
    import torch

    torch.set_num_threads(1)
    rows = []
    for row in measure(a.population, a.agents, a.levels, a.all_states):
        rows.append(row)
        print(
            f"agent {row['agent']}, {row['question']:24} {row['side']:18} {row['cpu_seconds']:7.2f} CPU s, "
            f"{row['levels']:5} levels, "
            f"{row['num_forward_frames']:7,} frames, {row['mean_length']:6.1f} steps",
            flush=True,
        )
    table = pd.DataFrame(rows)
    wide = table[table.side != 'exact, all states'].pivot(
        index=['question', 'agent'], columns='side', values='per_1000'
    )
    wide['published / sampled'] = wide.published / wide.sampled
    wide['batched / exact'] = wide.batched / wide.exact
    wide['sampled / exact'] = wide.sampled / wide.exact
    print('\nCPU seconds for 1,000 levels, and how many times dearer; published and batched are extrapolated')
    print(wide.round(1).to_string())
    for q in QUESTIONS:
        cpu = table[(table.side == 'exact') & (table.question == q)].cpu_seconds.mean()
        minutes = 100 * cpu / 2 / 60
        print(
            f'{q}, exact: {cpu:.1f} CPU seconds an agent; 100 agents on two cores: {minutes:.1f} minutes '
            f'(extrapolated from {len(a.agents)})'
        )
    if a.out:
        table.round(dict(cpu_seconds=3, mean_length=3, per_1000=3)).to_csv(a.out, index=False)


if __name__ == '__main__':
    main()
