"""The fused network against the plain one under Triton's interpreter, a few frames at a time: python test_fused.py"""
import os, sys, time
os.environ['TRITON_INTERPRET'] = '1'
import numpy as np, torch
from goalmisgen.agents.impala import Policy
import goalmisgen_fused_draft as F

import triton.runtime.interpreter as I
_convert = I._convert_float

def _rounding(x, a, b, mode):
    "The interpreter cuts float32 off to bfloat16; the card rounds to nearest, and so do the tests"
    if (str(a),str(b))!=('fp32','bf16'): return _convert(x, a, b, mode)
    u = np.frombuffer(x.tobytes(), np.uint32).astype(np.uint64)
    return ((u + 0x7fff + ((u>>16)&1)) >> 16).astype(np.uint16).reshape(x.shape)
I._convert_float = _rounding

SMALL = {k: dict(G=2) for k,v in F.CONFIG.items() if 'G' in v}

def noise(n, seed=0): return torch.randint(0, 256, (n,64,64,3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

def real(n, background='black'):
    from goalmisgen.env.maze import MazeEnv
    from goalmisgen.env.levels import MazeSpec
    env = MazeEnv(n, MazeSpec(size=5), background, 100, seed=0, device='cpu', objects=('yellow line',))
    return env.draw(env.ids)

def policy(seed):
    "A policy with biases that are not zero and a policy head of some size"
    p,g = Policy(seed), torch.Generator().manual_seed(seed+100)
    with torch.no_grad():
        for n,q in p.named_parameters():
            if n.endswith('bias'): q.copy_(torch.randn(q.shape, generator=g)*.1)
            if n.startswith('fc_policy'): q.copy_(torch.randn(q.shape, generator=g)*.1)
    return p

def reference(p, x, dout, dtype):
    "Answers and gradients of the plain network in float64, its weights rounded to dtype first; None where its maximum is a near tie"
    with torch.no_grad():
        for q in p.parameters(): q.copy_(q.to(dtype).to(q.dtype))
    p = p.double()
    logits,value = p(x)
    out = torch.cat([logits, value[:,None]], 1)
    out.backward(dout.double())
    return out.detach(), {n: q.grad for n,q in p.named_parameters()}

def flat_views(p, like):
    at,out = 0, {}
    for k,q in p.state_dict().items(): out[k],at = like[at:at+q.numel()].view(q.shape), at+q.numel()
    return out

def fused(x, dtype=torch.float32, capacity=6, seed=0, config=SMALL, f=None, device='cpu'):
    "Runs the fused network on frames x: (network, answers, flat gradient, dout)"
    p,n = policy(seed), len(x)
    table = torch.cat([x.flip(0), noise(1, 9)])
    ids = torch.full((capacity,), n)
    ids[:n] = torch.arange(n).flip(0)
    dout = torch.zeros(capacity,16); dout[:n] = torch.randn(n,16, generator=torch.Generator().manual_seed(seed))
    f = f or F.FusedImpala(capacity, device, dtype, config)
    flat = torch.cat([q.detach().reshape(-1) for q in p.state_dict().values()]).to(device)
    fg = torch.full_like(flat, float('nan'))
    out = f.forward(flat_views(p, flat), table.to(device), ids.to(device), torch.tensor(n, dtype=torch.int32, device=device)).clone()
    f.backward(dout.to(device), flat_views(p, fg))
    return f, out, fg, dout

def compare(name, x, dtype=torch.float32, limit=1e-4, seed=0, **kw):
    t0 = time.time()
    f,out,fg,dout = fused(x, dtype, seed=seed, **kw)
    n,p = len(x), policy(seed)
    ro,rg = reference(p, x, dout[:n], dtype)
    err = lambda a,b: float((a.double().cpu()-b).norm()/b.norm().clamp_min(1e-30))
    got = flat_views(p, fg)
    errs = {'answers': err(out[:n], ro), **{k: err(got[k], rg[k]) for k in rg}}
    worst = sorted(((v,k) for k,v in errs.items()), reverse=True)
    print(f'{name}: {n} frames of {len(out)}, {dtype}, {time.time()-t0:.0f} s; worst', ', '.join(f'{k} {v:.2g}' for v,k in worst[:3]), flush=True)
    assert torch.isfinite(fg).all() and (out[n:]==0).all(), name
    assert worst[0][0]<limit, worst[:5]
    return f, out, fg

def main(only=None):
    if only=='rest': return rest()
    f,a,ga = compare('noise', noise(3))
    _,b,gb,_ = fused(noise(3), f=f)
    assert (a==b).all() and (ga==gb).all(), 'the same twice'
    _,b,_,_ = fused(noise(3)[2:], f=f) # A frame's answer is the same bits whatever comes with it; old frames leave no trace
    assert (b[0]==a[2]).all(), 'alone'
    _,_,gb,_ = fused(noise(3), capacity=9)
    assert (ga==gb).all(), 'whatever the capacity'
    compare('one after three', noise(1, 5), f=f)
    rest()

def rest():
    if not os.environ.get('SKIP'): compare('real', real(2), seed=1)
    compare('bfloat16', noise(2), torch.bfloat16, .2) # Plain PyTorch in bfloat16: .14
    alt = {**SMALL, **{k: dict(SMALL[k], PY=3-F.CONFIG[k]['PY']) for k in ('res1','back1')}}
    compare('other patches', noise(2), config=alt)
    print('ok')

if __name__=='__main__': main(*sys.argv[1:])
