"Networks and losses for tests of what a network answers and learns"

import torch

from goalmisgen.agents.impala import Policy


def lively(seed=3, scale=1):
    "A policy whose every weight matters"
    policy = Policy(seed, scale)
    with torch.no_grad():
        policy.fc_policy.weight *= 50
        for name, p in policy.named_parameters():
            if name.endswith('bias'):
                p.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return policy


def some_loss(logits, values, weigh):
    "A loss that depends on all answers"
    return (logits.log_softmax(1) * weigh).sum() + (values**2).sum()
