"""The fused network against the plain one, under Triton's interpreter: TRITON_INTERPRET=1 python test_fused.py"""
import os, sys, time
os.environ.setdefault('TRITON_INTERPRET', '1')
import numpy as np, torch
from goalmisgen.agents.impala import Policy
import goalmisgen_fused_draft as F

SMALL = {k: dict(G=2) for k,v in F.CONFIG.items() if 'G' in v}

def frames(kind, n, seed=0):
    if kind=='noise': return torch.randint(0, 256, (n,64,64,3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    from goalmisgen.env.levels import generate, TRAIN
    from goalmisgen.env.render import Renderer
    r = Renderer()
    return r.draw(generate(TRAIN, np.arange(n))) if hasattr(r,'draw') else None

def weights(seed, scale=.1):
    p = Policy(seed)
    g = torch.Generator().manual_seed(seed+100)
    with torch.no_grad():
        for n,q in p.named_parameters():
            if n.endswith('bias'): q.copy_(torch.randn(q.shape, generator=g)*scale)
            if n.startswith('fc_policy'): q.copy_(torch.randn(q.shape, generator=g)*.1)
    return p

def reference(p, x, dout, dtype):
    "Answers and gradients of the plain network in float64, weights rounded to dtype first"
    with torch.no_grad():
        for q in p.parameters(): q.copy_(q.to(dtype).to(q.dtype))
    p = p.double()
    p.zero_grad()
    logits,value = p(x)
    out = torch.cat([logits, value[:,None]], 1)
    out.backward(dout.double())
    return out.detach(), {n: q.grad for n,q in p.named_parameters()}

def compare(x, dtype=torch.float32, capacity=6, seed=0, config=SMALL, device='cpu', quiet=False):
    p = weights(seed)
    n = len(x)
    g = torch.Generator().manual_seed(seed)
    table = torch.cat([x.flip(0), x[:1]])
    ids = torch.full((capacity,), len(table)-1)
    ids[:n] = torch.arange(n).flip(0)
    dout = torch.zeros(capacity,16); dout[:n] = torch.randn(n,16, generator=g)
    f = F.FusedImpala(capacity, device, dtype, config)
    for m in [*f.maps.values()]: pass
    flat = torch.cat([q.detach().reshape(-1) for q in p.state_dict().values()]).to(device)
    w,grads,at = {}, {}, 0
    fg = torch.full_like(flat, float('nan'))
    for k,q in p.state_dict().items(): w[k],grads[k],at = flat[at:at+q.numel()].view(q.shape), fg[at:at+q.numel()].view(q.shape), at+q.numel()
    t0 = time.time()
    out = f.forward(w, table.to(device), ids.to(device), torch.tensor(n, dtype=torch.int32, device=device))
    f.backward(dout.to(device), grads)
    t1 = time.time()
    ro,rg = reference(p, x, dout[:n], dtype)
    err = lambda a,b: float((a.double().cpu()-b).norm()/b.norm().clamp_min(1e-30))
    errs = {'out': err(out[:n], ro), **{k: err(grads[k], rg[k]) for k in rg}}
    assert torch.isfinite(fg).all() and (out[n:]==0).all()
    if not quiet:
        print(f'{n} frames of {capacity}, {dtype}: {t1-t0:.1f} s; worst', sorted(((round(v,7),k) for k,v in errs.items()), reverse=True)[:4])
    return f, out, fg, errs

if __name__=='__main__':
    x = frames('noise', 2)
    f,out,fg,errs = compare(x)
    for k,v in errs.items():
        if v>1e-4: print('BAD', k, v)
