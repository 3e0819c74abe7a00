"""The paper's PPO as this package runs it against a plain PPO loop, side by side: environment steps per CPU-second.

    python bench/train.py [--agent FOLDER] [--steps 8] [--minibatches 1] [--out bench/train.csv]

The plain side is what published code does: frames are drawn at every step and kept, the network looks at each of them, in
float32 and NCHW, one minibatch of 8,192 in chunks of 256. The other side is `goalmisgen.agents.ppo`, in windows and, as
`in_full`, without them. All sides use one
thread, the same untrained policy (early) and the same trained one (late, and the policies kept along the way where the agent's
folder has them). A whole iteration of the plain loop takes a quarter of an hour, so it is measured on `--steps` of its
256 steps and on `--minibatches` of its 24 minibatches, and multiplied; ours is measured on a whole rollout and as many of
the same minibatches. The two take turns, so that other work on the machine slows both.
"""
import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch

torch.set_num_threads(1)
from goalmisgen.agents.impala import load_policy
from goalmisgen.agents.ppo import PPO, PPOConfig, ppo_loss
from goalmisgen.agents.training import Seeds, metrics_csv
from goalmisgen.core import write_atomic


def plain_play(policy, env, steps):
    "CPU-seconds per step of a rollout that looks at every frame"
    t = time.process_time()
    for _ in range(steps):
        frames = env.frames().clone()
        with torch.no_grad(): logits,_ = policy(frames)
        env.step(torch.multinomial(logits.softmax(1), 1)[:,0])
    return (time.process_time()-t)/steps


def plain_minibatch(policy, optimiser, learner, batch):
    "CPU-seconds of a gradient step that looks at every frame"
    frames = learner.env.draw(batch.ids) # kept since the rollout
    t = time.process_time()
    optimiser.zero_grad()
    for i in torch.arange(len(batch)).split(256):
        loss,_ = ppo_loss(*policy(frames[i]), batch[i], learner.config)
        (loss.sum()/len(batch)).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), .5)
    optimiser.step()
    return time.process_time()-t


def our_minibatch(learner, batch):
    "CPU-seconds of the same gradient step over distinct frames, and how many there were"
    t = time.process_time()
    learner.optimiser.zero_grad(set_to_none=True)
    _,frames = learner.gradient(batch)
    torch.nn.utils.clip_grad_norm_(learner.policy.parameters(), .5)
    learner.optimiser.step()
    return time.process_time()-t, frames


def measure(weights, config, steps, minibatches):
    "One row: both sides with one policy"
    learner = PPO(config, Seeds(0))
    if weights: learner.policy.load_state_dict(load_policy(weights).state_dict())
    plain = PPO(config, Seeds(0)).policy.to(memory_format=torch.contiguous_format)
    plain.load_state_dict(learner.policy.state_dict())
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-6, eps=1e-5)
    for g in learner.optimiser.param_groups: g['lr'] = 1e-6 # the policy stays what it is
    for _ in range(2): learner.play(learner.env) # environments reach the middle of their episodes
    t = time.process_time()
    r = learner.play(learner.env)
    batch = learner.batch(r)
    play = time.process_time()-t
    ours,full,theirs,distinct = [], [], [], []
    in_full = replace(config, windows=False)
    plain_step = plain_play(plain, learner.env, steps)
    for i in torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).split(len(batch)//config.minibatches)[:minibatches]:
        theirs.append(plain_minibatch(plain, optimiser, learner, batch[i]))
        for how,times in ((config,ours),(in_full,full)):
            learner.config = how
            s,frames = our_minibatch(learner, batch[i])
            times.append(s)
        distinct.append(frames/len(i))
    n = config.epochs*config.minibatches
    mean = lambda a: sum(a)/len(a)
    return dict(episode_length=float(r.lengths[r.dones].float().mean()), distinct=mean(distinct), ours_rollout_s=play, ours_minibatch_s=mean(ours),
                in_full_minibatch_s=mean(full), ours_iteration_s=play+n*mean(ours), in_full_iteration_s=play+n*mean(full),
                plain_step_s=plain_step, plain_minibatch_s=mean(theirs), plain_iteration_s=config.rollout*plain_step+n*mean(theirs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--agent', type=Path, help='folder of an agent of the paper\'s PPO; default the one that ships with the package')
    parser.add_argument('--steps', type=int, default=8, help='environment steps of the plain rollout that are measured')
    parser.add_argument('--minibatches', type=int, default=1, help='minibatches that are measured')
    parser.add_argument('--out', type=Path, default=Path('bench/train.csv'))
    args = parser.parse_args()
    if args.agent is None:
        from goalmisgen.agents.examples import example_dir
        args.agent = example_dir('ppo-0')
    config,rows = PPOConfig(), []
    stages = [(0, None)] + sorted((int(p.stem[5:]), p) for p in args.agent.glob('step-*.safetensors') if p.stem!='step-0')
    for step,weights in [*stages, (5_046_272, args.agent)]:
        row = dict(env_steps=step, **measure(weights, config, args.steps, args.minibatches))
        n = config.num_envs*config.rollout
        row |= dict(ours_steps_per_cpu_s=n/row['ours_iteration_s'], plain_steps_per_cpu_s=n/row['plain_iteration_s'])
        row['ratio'] = row['ours_steps_per_cpu_s']/row['plain_steps_per_cpu_s']
        rows.append(row)
        print({k: round(v,3) for k,v in row.items()}, flush=True)
    # a whole run: seconds per iteration between two measured policies are taken to change linearly
    total = lambda k: sum((b['env_steps']-a['env_steps'])/n*(a[k]+b[k])/2 for a,b in zip(rows,rows[1:]))
    ours,full,plain = (total(f'{side}_iteration_s') for side in ('ours','in_full','plain'))
    print(f'whole run: ours {ours/60:.0f} CPU-minutes, in full {full/60:.0f}, plain {plain/3600:.1f} CPU-hours')
    print(f'ratio {plain/ours:.1f}, in full {plain/full:.1f}')
    write_atomic(args.out, metrics_csv([{k: v if isinstance(v,int) else round(v,4) for k,v in r.items()} for r in rows]))


if __name__ == '__main__': sys.exit(main())
