"""Evaluation per CPU second, ours and the published way, measured in one run, side by side, on one thread.

    python bench/evaluate.py POPULATION --agents 0 1 2 3 --out bench/evaluate.csv

POPULATION is a folder of trained agents `agent-<number>/`. The sides:

- published: the way of the paper's script. Level after level: load the policy, then play one episode, one frame at a time, through a
  float32 network in PyTorch's default layout. Stock Procgen has no second object, so mazes and frames are ours, and making them is
  not counted, nor is making an environment for every level, as that script does: both flatter this side. Some levels only.
- batched: all levels at once, the network looking at every step of every episode, in blocks of 64. Some levels only.
- sampled: `evaluate_sampled`, the paper's protocol on its 1,000 levels: all at once, each different frame looked at once.
- exact: `evaluate_exact` on the same levels, tolerance 1e-6; `exact, all states` with tolerance 0.

Costs are CPU seconds of this process; for `sampled` and `exact` loading the policy and drawing the levels is counted. A few episodes on
some levels are not all as long as the average one, so the slow sides are extrapolated: `per_1000` is 1,000 times the cost of loading,
plus the cost of a step times the exact mean episode length on the 1,000 levels.
"""
import argparse
import os
from pathlib import Path
from time import process_time

os.environ.update(dict.fromkeys(['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'], '1'))

QUESTIONS = ('red line vs yellow gem', 'blue line vs black gem') # what the agents can do, and what many cannot


def publishedly(path, question, seeds):
    "CPU seconds of loading and of playing, and steps: one episode on each level, the published way"
    import torch
    from goalmisgen.agents.impala import load_policy
    from goalmisgen.env.maze import ACTION_MOVES
    from goalmisgen.evaluation.exact import render_levels
    stages = [render_levels.__wrapped__(question, range(s, s+1)) for s in seeds]
    load = play = steps = 0
    torch.manual_seed(42)
    for st in stages:
        begin = process_time()
        policy = load_policy(path).to(memory_format=torch.contiguous_format)
        load += process_time()-begin
        begin = process_time()
        state, t, outcome = st.table.start, 0, 0
        while t < 500 and not outcome:
            x = st.frames(state).permute(0, 3, 1, 2).contiguous().float()/255
            with torch.no_grad():
                h = policy.embedder(x)
                policy.fc_value(h)
                action = torch.distributions.Categorical(logits=policy.fc_policy(h)).sample()
            move = ACTION_MOVES[int(action)]
            outcome, state, t = int(st.table.outcome[state, move]), st.table.next[state, move].long(), t+1
        steps += t
        play += process_time()-begin
    return load, play, steps


def in_batches(path, question, seeds):
    "CPU seconds of loading and of playing, and steps: one episode on each level, all at once, every step looked at"
    import torch
    from goalmisgen.agents.impala import action_probs, load_policy
    from goalmisgen.env.maze import ACTION_MOVES
    from goalmisgen.evaluation.exact import render_levels, evaluation_levels
    st, moves, rng = render_levels.__wrapped__(question, seeds), torch.tensor(ACTION_MOVES), torch.Generator().manual_seed(42)
    policy, state, steps = load_policy(path), st.table.start[torch.as_tensor(evaluation_levels(seeds).index)], 0
    begin = process_time()
    for _ in range(500):
        p = action_probs(policy, st.frames(state), 64)
        move = moves[torch.multinomial(p, 1, generator=rng)[:, 0]]
        steps += len(state)
        state = st.table.next[state, move].long()[st.table.outcome[state, move] == 0]
        if not len(state): break
    return 0, process_time()-begin, steps


def ours(path, question, protocol):
    "CPU seconds and the result of an evaluation, nothing being kept from before"
    from goalmisgen.agents.impala import load_policy
    from goalmisgen.evaluation.exact import render_levels
    from goalmisgen.evaluation.protocol import evaluate
    render_levels.cache_clear()
    begin = process_time()
    return evaluate(load_policy(path), question, protocol), process_time()-begin


def measure(folder, numbers, levels, all_states):
    "Rows of the table"
    from goalmisgen.agents.population import agents_of
    from goalmisgen.evaluation.exact import Setting
    from goalmisgen.evaluation.protocol import Protocol
    agents = agents_of(folder)
    for text in QUESTIONS:
        question = Setting.parse(text)
        for n in numbers:
            where, some = agents[n]/'model.safetensors', range(100000, 100000+levels)
            row = dict(agent=n, question=text)
            for side, protocol in dict(exact=Protocol(), sampled=Protocol('sampled')).items():
                r, cpu = ours(where, question, protocol)
                yield row | dict(side=side, levels=1000, cpu_seconds=cpu, num_forward_frames=r.num_forward_frames, mean_length=r.capability, per_1000=cpu)
                if side == 'exact': length = r.capability
            if n == numbers[0] and all_states:
                r, cpu = ours(where, question, Protocol(tolerance=0.))
                yield row | dict(side='exact, all states', levels=1000, cpu_seconds=cpu, num_forward_frames=r.num_forward_frames, mean_length=r.capability, per_1000=cpu)
            for side, play in dict(published=publishedly, batched=in_batches).items():
                load, cpu, steps = play(where, question, some)
                per_1000 = 1000*(load/levels + length*cpu/steps)
                yield row | dict(side=side, levels=levels, cpu_seconds=load+cpu, num_forward_frames=steps, mean_length=steps/levels, per_1000=per_1000)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('population', type=Path)
    p.add_argument('--agents', type=int, nargs='+', default=[0, 1, 2, 3])
    p.add_argument('--levels', type=int, default=10, help='levels on the slow sides')
    p.add_argument('--all-states', action='store_true', help='also ask the first agent about every state, as a yardstick')
    p.add_argument('--out', help='CSV file to write')
    a = p.parse_args()
    import pandas as pd
    import torch
    torch.set_num_threads(1)
    rows = []
    for row in measure(a.population, a.agents, a.levels, a.all_states):
        rows.append(row)
        print(f"agent {row['agent']}, {row['question']:24} {row['side']:18} {row['cpu_seconds']:7.2f} CPU s, {row['levels']:5} levels, "
              f"{row['num_forward_frames']:7,} frames, {row['mean_length']:6.1f} steps", flush=True)
    table = pd.DataFrame(rows)
    wide = table[table.side != 'exact, all states'].pivot(index=['question', 'agent'], columns='side', values='per_1000')
    wide['published / sampled'], wide['batched / exact'] = wide.published/wide.sampled, wide.batched/wide.exact
    wide['sampled / exact'] = wide.sampled/wide.exact
    print('\nCPU seconds for 1,000 levels, and how many times dearer; published and batched are extrapolated')
    print(wide.round(1).to_string())
    for q in QUESTIONS:
        cpu = table[(table.side == 'exact') & (table.question == q)].cpu_seconds.mean()
        print(f'{q}, exact: {cpu:.1f} CPU seconds an agent; 100 agents on two cores: {100*cpu/2/60:.1f} minutes (extrapolated from {len(a.agents)})')
    if a.out: table.round(dict(cpu_seconds=3, mean_length=3, per_1000=3)).to_csv(a.out, index=False)


if __name__ == '__main__': main()
