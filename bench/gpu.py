"""The paper's population on one GPU: is it right, how fast is it, and as many whole agents as the time allows.

    python bench/gpu.py [--device cuda] [--seconds 540] [--parts check speed population] [--out bench/gpu]

Parts, each writing what it found as soon as it is there:

check       seconds: a round on the device against the plain loop on the CPU, in float32; an agent alone and among others,
            byte for byte; each way to run the network against the plain one
speed       seconds per iteration and agent, and agents per hour, for several numbers of agents side by side, with an
            untrained policy and with the trained one that ships; beside them one agent of the loop of `agents.ppo` on the
            device, and a gradient step that looks at every frame (`every_frame`, as a CUDA graph). Frames a second are distinct
            frames forward and backward; steps a second count what deduplication saves
exact       exact-advantage agents for half a minute: how many an hour?
population  whole agents until the time is up, each asked its questions exactly on the device: `table.csv`, `metrics/`, and
            packs of finished agents that fit 16 MB. Whoever is not finished keeps its checkpoint, and goes on in the next run

On `--device cpu` with `--tiny` the same code is a test of itself.
"""
import argparse
import json
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from goalmisgen.agents.examples import load_example
from goalmisgen.agents.impala import Policy
from goalmisgen.agents.parallel import ParallelPPO, PlainNetwork, train_parallel
from goalmisgen.agents.population import agent_dir, agents_of
from goalmisgen.agents.ppo import PPO, PPOConfig, ppo_loss
from goalmisgen.agents.training import Seeds, metrics_csv
from goalmisgen.agents.exact_ppo import ExactPPOConfig
import goalmisgen.agents.parallel_exact  # noqa: F401  (teaches `train_parallel` exact-advantage PPO)
from goalmisgen.core import read_json, write_atomic
from goalmisgen.evaluation.device import DeviceSetting
from goalmisgen.evaluation.results import to_row, write_results

QUESTIONS = ('red line vs yellow gem', 'green line vs yellow gem', 'blue line vs yellow gem', 'green line vs red line',
             'yellow line vs yellow gem', 'yellow line vs black gem')
NETWORKS = dict(plain=PlainNetwork)
try:
    from goalmisgen.agents.fused import FusedNetwork
    NETWORKS['fused'] = FusedNetwork
except ImportError: pass  # without Triton there is only the plain way
PACK_BYTES = 15_500_000


def synchronize(device):
    if torch.device(device).type=='cuda': torch.cuda.synchronize()


def say(**what):
    print(' '.join(f'{k}={v:.4g}' if isinstance(v, float) else f'{k}={v}' for k,v in what.items()), flush=True)


def first_gradient(parallel):
    "A function that gives the first gradient that this trainer computes, once it has learned"
    bench, taken = parallel.benches[0], []
    backward = bench.network.backward
    def spy(slope, grad):
        backward(slope, grad)
        if not taken: taken.append(grad.clone())
    bench.network.backward = spy
    bench.run = lambda what, *args: getattr(bench, what)(*args) # unrecorded
    return lambda: taken[0].cpu()


def check(args, config, rows):
    "Is what the device computes what it should be?"
    small = replace(config, num_envs=64, rollout=64, minibatches=2, epochs=1, env_steps=64*64*100)
    learner = PPO(replace(small, precision='float32'), Seeds(1))
    batch = learner.batch(learner.play(learner.env))
    luck = torch.randperm(len(batch), generator=learner.rng)[:len(batch)//2]
    learner.gradient(batch[luck])
    want = torch.cat([p.grad.reshape(-1) for p in learner.policy.parameters()])
    for name in args.networks:
        for precision in ('float32', args.precision) if name=='plain' else (args.precision,): # compiling kernels for float32 takes a minute
            parallel = ParallelPPO(replace(small, precision=precision), args.device, slots=2, streams=1, network=NETWORKS[name])
            parallel.enter(0, PPO(small, Seeds(1)))
            found = first_gradient(parallel)
            parallel.learn()
            rows.append(dict(part='check', what=f'{name}: first gradient in {precision} against the plain loop on the CPU in float32', value=float((found()-want).norm()/want.norm()),
                             same_actions=float((parallel.batch.actions[0].cpu()==batch.actions).float().mean())))
            say(**rows[-1])
            if not rows[-1]['value']<(1e-3 if precision=='float32' else .4): raise SystemExit('the device computes something else')
    for name in args.networks[-1:]:
        weights = [trained_alone_or_not(args, config, name, company) for company in (False, True)]
        rows.append(dict(part='check', what=f'{name}: parameters that differ alone and among others', value=float((weights[0]!=weights[1]).sum())))
        say(**rows[-1])


def trained_alone_or_not(args, config, name, company):
    "Weights of agent 5 after two rounds, alone or in the last of the slots beside others"
    slots = 3
    parallel = ParallelPPO(config, args.device, slots, streams=2, network=NETWORKS[name])
    for k in range(slots-1) if company else (): parallel.enter(k, PPO(config, Seeds(100+k)))
    slot = slots-1 if company else 0
    parallel.enter(slot, PPO(config, Seeds(5)))
    for _ in range(2): parallel.learn()
    return parallel.flat[slot].cpu()


def learner_of(config, seed, trained):
    learner = PPO(config, Seeds(seed))
    if trained: learner.policy.load_state_dict(load_example('ppo-0').state_dict())
    return learner


def seconds_per_round(parallel, config, device, trained, rounds):
    "Seconds of a round, after one to warm up; distinct share of a minibatch"
    for slot in range(parallel.slots): parallel.enter(slot, learner_of(config, 1000+slot, trained))
    for _ in range(2 if trained else 1): parallel.learn() # a trained policy's environments get out of step with each other
    synchronize(device)
    begun = time.perf_counter()
    for _ in range(rounds): found = parallel.learn()
    synchronize(device)
    return (time.perf_counter()-begun)/rounds, sum(m['distinct'] for m in found)/len(found)


def speed(args, config, rows):
    "Agents per hour, side by side"
    steps, updates = config.num_envs*config.rollout, config.epochs*config.minibatches
    for name in args.networks:
        for slots, streams in args.shapes:
            parallel = ParallelPPO(config, args.device, slots, streams, NETWORKS[name])
            both = {}
            for trained in (False, True):
                took, distinct = seconds_per_round(parallel, config, args.device, trained, args.rounds)
                frames = distinct*steps/config.minibatches*updates
                both[trained] = took/slots
                memory = torch.cuda.max_memory_allocated()/2**30 if torch.device(args.device).type=='cuda' else 0.
                rows.append(dict(part='speed', what=name, slots=slots, streams=streams, trained=trained, seconds=took/slots, distinct=distinct,
                                 frames_per_s=frames*slots/took, steps_per_s=steps*slots/took, agents_per_hour=3600*slots/(took*config.iterations), gib=memory))
                say(**rows[-1])
                save_rows(args, rows)
            rows.append(dict(part='speed', what=f'{name}, mean of early and late', slots=slots, streams=streams,
                             agents_per_hour=3600/(config.iterations*(both[False]+both[True])/2)))
            say(**rows[-1])
            del parallel
    baselines(args, config, rows)


def baselines(args, config, rows):
    "One agent in the loop of `agents.ppo` on the device, and a gradient step that looks at every frame"
    learner = learner_of(config, 0, False)
    learner = PPO(config, Seeds(0), args.device)
    learner.learn()
    synchronize(args.device)
    begun = time.perf_counter()
    learner.learn()
    synchronize(args.device)
    took = time.perf_counter()-begun
    rows.append(dict(part='speed', what='agents.ppo, one process', slots=1, trained=False, seconds=took, agents_per_hour=3600/(took*config.iterations)))
    say(**rows[-1])
    took = every_frame(args, config, learner)
    updates = config.epochs*config.minibatches
    rows.append(dict(part='speed', what='gradient steps on every frame, CUDA graph', slots=1, seconds=took*updates,
                     agents_per_hour=3600/(took*updates*config.iterations)))
    say(**rows[-1])


def every_frame(args, config, learner):
    "Seconds of a gradient step on a whole minibatch, each step's frame looked at; rollouts left out"
    from goalmisgen.agents.parallel import Recorded
    batch = learner.batch(learner.play(learner.env))
    batch = batch[torch.arange(len(batch)//config.minibatches, device=args.device)]
    frames, params = learner.env.draw(batch.ids), list(learner.policy.parameters())
    for p in params: p.grad = torch.zeros_like(p)
    def step():
        with learner.autocast(): logits, value = learner.policy(frames)
        loss, _ = ppo_loss(logits, value, batch, config)
        loss.mean().backward()
    run = Recorded(step, [p.grad for p in params], torch.cuda.Stream() if torch.device(args.device).type=='cuda' else None)
    run(); synchronize(args.device)
    begun = time.perf_counter()
    for _ in range(3): run()
    synchronize(args.device)
    return (time.perf_counter()-begun)/3


def population(args, config, rows):
    "Whole agents until the time is up"
    home = args.home/args.name
    settings = [DeviceSetting(q, args.levels, args.device) for q in args.questions]
    asked, policy, times = [], Policy(0).to(args.device).eval(), []
    def finished(learner):
        policy.load_state_dict(learner.policy.state_dict())
        begun = time.perf_counter()
        asked.extend(to_row(s.evaluate(policy), args.name, learner.seeds.agent, learner.env_steps, learner.algorithm) for s in settings)
        times.append(time.perf_counter()-begun)
        if asked: write_results(args.out/'table.csv', asked)
    begun = time.perf_counter()
    name, (slots, streams) = quickest(args, rows)
    network = NETWORKS[name]
    report = train_parallel(config, range(args.first, args.first+args.agents), home, args.device, slots, streams, progress=True, network=network,
                            save_every=1e9, stop=lambda: time.perf_counter()-args.zero>args.seconds, finished=finished)
    took = time.perf_counter()-begun
    rows.append(dict(part='population', what=f'{len(report.finished)} whole agents', slots=slots, streams=streams, seconds=took,
                     agents_per_hour=3600*len(report.finished)/took, value=sum(times)))
    say(**rows[-1])
    if report.failed: print('failed:', report.failed)


def exact(args, config, rows):
    "Exact-advantage agents for `--exact-seconds`, none kept: how many an hour?"
    import tempfile
    config = ExactPPOConfig(goal=args.goal, **(dict(size=3, updates=4, updates_per_solve=2, batch_size=16) if args.tiny else {}))
    for name in args.networks:
        begun, done = time.perf_counter(), []
        slots, streams = args.exact_shape
        with tempfile.TemporaryDirectory() as folder:
            report = train_parallel(config, range(args.agents), folder, args.device, slots, streams, progress=False, network=NETWORKS[name], save_every=1e9,
                                    stop=lambda: time.perf_counter()-begun>args.exact_seconds, finished=lambda l: done.append(time.perf_counter()), keep_unfinished=False)
            lengths = sorted(read_json(agent_dir(folder, n)/'manifest.json')['training_levels']['episode_length'] for n in report.finished)
        first, n = done[0] if done else begun, len(done)-slots # graphs are recorded before the first are done
        rows.append(dict(part='exact', what=f'{name}: {len(done)} exact-advantage agents, median {lengths[len(lengths)//2] if lengths else 0:.2f} steps', slots=slots,
                         streams=streams, seconds=time.perf_counter()-begun, agents_per_hour=3600*n/(done[-1]-first) if n>0 else 0.))
        say(**rows[-1])


def quickest(args, rows):
    "Network and shape for the population: as asked for, or the quickest that was measured"
    measured = [r for r in rows if 'mean of early and late' in r['what'] and args.use in (None, r['what'].split(',')[0])]
    if args.population_shape!='auto': return args.use or args.networks[-1], tuple(map(int, args.population_shape.split('x')))
    if not measured: return args.use or args.networks[-1], (8, 2)
    best = max(measured, key=lambda r: r['agents_per_hour'])
    return best['what'].split(',')[0], (best['slots'], best['streams'])


def pack(args, first=0, most=100):
    "Finished agents in zip files of at most 16 MB, as many as `most` files take; returns the number of agents packed"
    home, count, n, z = args.home/args.name, 0, 0, None
    for number, folder in list(agents_of(home).items())[first:]:
        files = [folder/f for f in ('manifest.json','metrics.csv','model.safetensors')]
        size = sum(f.stat().st_size for f in files)
        if z is None or used+size>PACK_BYTES:
            if z: z.close()
            if n==most: return count
            z, used, n = zipfile.ZipFile(args.packs/f'agents-{first+count:04d}.zip', 'w', zipfile.ZIP_DEFLATED, compresslevel=1), 0, n+1
        for f in files: z.write(f, f'{folder.name}/{f.name}')
        used += size
        count += 1
    if z: z.close()
    return count


def save_rows(args, rows):
    keys = list(dict.fromkeys(k for r in rows for k in r))
    rounded = [{k: (round(v,6) if isinstance(v,float) else v) if (v := r.get(k)) is not None else '' for k in keys} for r in rows]
    write_atomic(args.out/'gpu.csv', metrics_csv(rounded))


PARTS = dict(check=check, speed=speed, exact=exact, population=population)


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--seconds', type=float, default=540, help='when the population stops, from the start of the program')
    parser.add_argument('--parts', nargs='*', default=list(PARTS), choices=list(PARTS))
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument('--use', choices=list(NETWORKS), help='which of them trains the population; default the last')
    parser.add_argument('--shapes', nargs='+', default=['1x1','8x1','8x2','8x4'], help='agents x streams whose speed is measured')
    parser.add_argument('--population-shape', default='auto', help='agents x streams; default the quickest of those measured')
    parser.add_argument('--exact-shape', default='32x4')
    parser.add_argument('--exact-seconds', type=float, default=30)
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--agents', type=int, default=1000, help='most agents of the population')
    parser.add_argument('--first', type=int, default=0, help='number of the first')
    parser.add_argument('--name', default='ppo-yellow-line-black')
    parser.add_argument('--goal', default='yellow line')
    parser.add_argument('--questions', nargs='*', default=list(QUESTIONS), help='asked of each agent on the device; about .2 s each')
    parser.add_argument('--out', type=Path, default=Path('bench/gpu'))
    parser.add_argument('--home', type=Path, help='where the agents go; default OUT/population')
    parser.add_argument('--packs', type=Path, help='where packs of agents go; none are made without')
    parser.add_argument('--pack-first', type=int, default=0)
    parser.add_argument('--pack-files', type=int, default=4)
    parser.add_argument('--tiny', action='store_true', help='a world of 3 by 3 and few steps: a test of this program')
    args = parser.parse_args(argv)
    shape = lambda s: tuple(map(int, s.split('x')))
    args.home = args.home or args.out/'population'
    args.shapes = [shape(s) for s in args.shapes]
    args.exact_shape = shape(args.exact_shape)
    return args


def main(argv=None):
    args, rows = arguments(argv), []
    args.zero = time.perf_counter()
    config, args.levels, args.precision = PPOConfig(goal=args.goal), 'published', 'auto'
    if args.tiny:
        config = replace(config, size=3, num_levels=1000, num_envs=16, rollout=16, minibatches=2, env_steps=16*16*2, precision='float32')
        args.levels = range(100000, 100004)
    args.out.mkdir(parents=True, exist_ok=True)
    if torch.device(args.device).type=='cuda': print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    for part in args.parts:
        begun = time.perf_counter()
        PARTS[part](args, config, rows)
        save_rows(args, rows)
        say(part=part, seconds=time.perf_counter()-begun, so_far=time.perf_counter()-args.zero)
    if args.packs:
        args.packs.mkdir(parents=True, exist_ok=True)
        print('packed', pack(args, args.pack_first, args.pack_files), 'agents')
    (args.out/'gpu.json').write_text(json.dumps(dict(torch=torch.__version__, device=args.device), indent=1))


if __name__ == '__main__': sys.exit(main())
