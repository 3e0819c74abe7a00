"""What an agent costs: train agents by exact-advantage PPO, one thread each, and report CPU seconds and exact
episode length.

    python bench/exact_ppo.py --seeds 0 10 --workers 1 --out bench/exact_ppo.csv

One row an agent. `cpu_seconds` is the processor time of the whole job, the final examination in float32
included.
"""

import argparse, tempfile, time
from pathlib import Path
import pandas as pd
from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.training import Seeds, train_agent
from goalmisgen.jobs import Job, run_jobs
from goalmisgen.core import read_json


def timed(seed, folder, report, stop):
    "Train one agent; its row of the table"
    begin = time.process_time()
    train_agent(ExactPPOConfig(), Seeds(seed), folder, report=lambda n, _: report(n), stop=stop)
    cpu = time.process_time() - begin
    found = read_json(Path(folder) / 'manifest.json')
    fared = {k: round(v, 4) for k, v in found['training_levels'].items()}
    return dict(
        seed=seed, cpu_seconds=round(cpu, 1), precision=found['precision'], updates=found['updates'], **fared
    )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        '--seeds', type=int, nargs=2, default=(0, 10), help='first seed, and the one after the last'
    )
    p.add_argument('--workers', type=int, default=1)
    p.add_argument('--out', help='CSV file to write')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as d:
        jobs = [
            Job(f'agent {s}', timed, dict(seed=s, folder=f'{d}/{s}'), ExactPPOConfig().updates)
            for s in range(*a.seeds)
        ]
        outcomes = run_jobs(jobs, a.workers, 'training')
    table = pd.DataFrame([o.result for o in outcomes if o.result])
    print(table.to_string(index=False))
    cpu = table.cpu_seconds
    print(f'\n{(table.episode_length < 5).sum()} of {len(jobs)} need fewer than 5 steps (optimum 4.281)')
    print(f'CPU seconds: median {cpu.median():.0f}, worst {cpu.max():.0f}')
    if a.out:
        table.to_csv(a.out, index=False)


if __name__ == '__main__':
    main()
