"""How many agents an hour one GPU trains: the paper's PPO with several worker processes sharing the device.

    python bench/gpu.py [--device cuda] [--workers 1 4 8] [--iterations 4] [--full 0] [--out bench/gpu.csv]

For each number of workers, as many agents are trained at once for `--iterations` iterations (early policies, the dearest
ones), and the time per iteration and agent gives agents per hour for 77 iterations. Starting a process and its CUDA context is
left out: the clock starts when every worker has finished its first iteration. `--full N` then trains N whole agents with the
largest number of workers and reports agents per hour of wall time, everything included. On `--device cpu` with small
`--num-envs` and `--rollout` the same code is a test of itself.
"""
import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from goalmisgen.agents.population import Job, run_jobs, train_population
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.training import Seeds, metrics_csv
from goalmisgen.core import write_atomic


def iterate(config, seed, device, iterations, ready, report, stop):
    "A job: one agent's first iterations; seconds per iteration once all others have begun too"
    import torch
    learner = PPO(config, Seeds(seed), device)
    learner.learn()
    (ready/str(seed)).touch()
    while len(list(ready.iterdir()))<int((ready.parent/'expected').read_text()) and not stop(): time.sleep(.01)
    begun = time.perf_counter()
    for _ in range(iterations): learner.learn()
    if torch.device(device).type=='cuda': torch.cuda.synchronize(device)
    took = (time.perf_counter()-begun)/iterations
    report(1)
    memory = torch.cuda.max_memory_allocated(device)/2**30 if torch.device(device).type=='cuda' else 0.
    return took, learner.metrics[-1]['distinct'], memory


def measure(config, device, workers, iterations):
    "One row: `workers` agents at once"
    with tempfile.TemporaryDirectory() as d:
        (Path(d)/'expected').write_text(str(workers)); (Path(d)/'ready').mkdir()
        jobs = [Job(f'agent {k}', iterate, dict(config=config, seed=k, device=device, iterations=iterations, ready=Path(d)/'ready')) for k in range(workers)]
        out = run_jobs(jobs, workers, progress=False)
    errors = [o.error for o in out if o.error]
    if errors: raise SystemExit(errors[0])
    seconds = sum(o.result[0] for o in out)/workers
    return dict(workers=workers, seconds_per_iteration=seconds, distinct=out[0].result[1], memory_gib=sum(o.result[2] for o in out),
                agents_per_hour=3600*workers/(seconds*PPOConfig().iterations))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 4, 8])
    parser.add_argument('--iterations', type=int, default=4)
    parser.add_argument('--num-envs', type=int, default=256)
    parser.add_argument('--rollout', type=int, default=256)
    parser.add_argument('--full', type=int, default=0, help='whole agents to train at the end')
    parser.add_argument('--out', type=Path, default=Path('bench/gpu.csv'))
    args = parser.parse_args(argv)
    config,rows = replace(PPOConfig(), num_envs=args.num_envs, rollout=args.rollout), []
    for w in args.workers:
        rows.append(measure(config, args.device, w, args.iterations))
        print({k: round(v,3) for k,v in rows[-1].items()}, flush=True)
        write_atomic(args.out, metrics_csv([{k: v if isinstance(v,int) else round(v,4) for k,v in r.items()} for r in rows]))
    if args.full:
        with tempfile.TemporaryDirectory() as d:
            begun = time.perf_counter()
            report = train_population(config, range(args.full), d, max(args.workers), device=args.device)
            print(f'{len(report.finished)} whole agents: {3600*len(report.finished)/(time.perf_counter()-begun):.0f} an hour')


if __name__ == '__main__': sys.exit(main())
