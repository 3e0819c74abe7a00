"""On a card: is the fused network right, and how fast? python bench_fused.py [check] [time] [kernels] [exact] [name=conf.key:value,key:value ...]
Each `name=...` is a variant of CONFIG, e.g. a=back1.PY:2,back1.G:132,back1.maxnreg:0"""
import sys, time
import numpy as np, torch
from torch import nn
import torch.nn.functional as tF
import goalmisgen_fused_draft as F

class Res(nn.Module):
    def __init__(self, c): super().__init__(); self.conv1,self.conv2 = nn.Conv2d(c,c,3,padding=1), nn.Conv2d(c,c,3,padding=1)
    def forward(self, x): return self.conv2(self.conv1(x.relu()).relu())+x
class Block(nn.Module):
    def __init__(self, i, c): super().__init__(); self.conv,self.res1,self.res2 = nn.Conv2d(i,c,3,padding=1), Res(c), Res(c)
    def forward(self, x): return self.res2(self.res1(tF.max_pool2d(self.conv(x), 3, 2, 1)))
class Cnn(nn.Module):
    def __init__(self): super().__init__(); self.block1,self.block2,self.block3,self.fc = Block(3,16), Block(16,32), Block(32,32), nn.Linear(2048,256)
    def forward(self, x): return self.fc(self.block3(self.block2(self.block1(x))).relu().flatten(1)).relu()
class Net(nn.Module):
    def __init__(self): super().__init__(); self.embedder,self.fc_policy,self.fc_value = Cnn(), nn.Linear(256,15), nn.Linear(256,1)
    def forward(self, f):
        x = f.permute(0,3,1,2)
        x = x.to(torch.bfloat16 if torch.is_autocast_enabled('cuda') else self.fc_value.weight.dtype)/255
        h = self.embedder(x)
        return torch.cat([self.fc_policy(h), self.fc_value(h)], 1).float()

def net(seed=0):
    torch.manual_seed(seed)
    p = Net()
    for m in p.modules():
        if isinstance(m, (nn.Conv2d,nn.Linear)): nn.init.xavier_uniform_(m.weight); nn.init.normal_(m.bias, 0, .05)
    assert list(p.state_dict())==list(F.SHAPES) and [tuple(q.shape) for q in p.state_dict().values()]==list(F.SHAPES.values())
    return p.cuda()

def views(flat): return {n: flat[F.STARTS[n]:F.STARTS[n]+int(np.prod(s))].view(s) for n,s in F.SHAPES.items()}
def flatten(p): return torch.cat([q.detach().reshape(-1) for q in p.state_dict().values()])

def frames(S=4000, seed=0):
    "Half noise, half flat shapes on black, as mazes are"
    g = np.random.default_rng(seed)
    x = g.integers(0, 256, (S,64,64,3), dtype=np.uint8)
    for i in range(S//2, S):
        x[i] = 0
        for _ in range(8):
            a,b = g.integers(0, 52, 2); x[i,a:a+12,b:b+12] = g.integers(0, 256, 3)
    return torch.from_numpy(x[g.permutation(S)]).cuda()

def reference(p, x, dout, chunk=250, amp=False):
    p.zero_grad()
    out = []
    for f,d in zip(x.split(chunk), dout.split(chunk)):
        with torch.autocast('cuda', torch.bfloat16, enabled=amp): o = p(f)
        o.backward(d); out.append(o.detach())
    return torch.cat(out), torch.cat([q.grad.reshape(-1) for q in p.parameters()])

FP32 = {**{k: dict(BM=32, maxnreg=0, prec='ieee') for k in ('back1','back2','back3')}, **{k: dict(BM=32, PM=32, prec='ieee') for k in ('unpool2','unpool3')}, 'dfeat': dict(BM=32, BK=32)}

def check(dtype, capacity, counts, table, limit, config=None):
    p = net()
    with torch.no_grad():
        for q in p.parameters(): q.copy_(q.to(dtype).float())
    f = F.FusedImpala(capacity, 'cuda', dtype, config)
    flat,fg = flatten(p), torch.empty(F.NUMBER, device='cuda')
    w,grads,g = views(flat), views(fg), torch.Generator('cuda').manual_seed(1)
    first = None
    for n in counts:
        ids = torch.randint(0, len(table), (capacity,), device='cuda', generator=g)
        dout = torch.randn(capacity,16, device='cuda', generator=g)/n; dout[n:] = 0
        count = torch.tensor(n, dtype=torch.int32, device='cuda')
        fg.fill_(float('nan')); f.out.fill_(float('nan'))
        out = f.forward(w, table, ids, count).clone(); f.backward(dout, grads)
        g1 = fg.clone(); fg.fill_(float('nan'))
        again = f.forward(w, table, ids, count).clone(); f.backward(dout, grads)
        same = bool((out==again).all()) and bool((g1==fg).all())
        ro,rg = reference(p, table[ids[:n]], dout[:n])
        err = lambda o,g: {'answers': float((o[:n]-ro).norm()/ro.norm()), **{k: float((a-b).norm()/b.norm().clamp_min(1e-20)) for (k,a),b in zip(views(g).items(), views(rg).values())}}
        errs = err(out, g1)
        plain = err(*reference(p, table[ids[:n]], dout[:n], amp=True)) if dtype==torch.bfloat16 else {k: 0. for k in errs} # The same frames in PyTorch's bfloat16
        bad = {k: f'{v:.1e} (plain {plain[k]:.1e})' for k,v in errs.items() if not v<=limit+1.5*plain[k]}
        k = max(errs, key=lambda k: errs[k] if errs[k]==errs[k] else 9e9)
        one = f.forward(w, table, ids[n-1:n].repeat(capacity), torch.tensor(1, dtype=torch.int32, device='cuda'))[0]
        alone,zero = bool((one==out[n-1]).all()), bool((out[n:]==0).all())
        total = float((g1-rg).norm()/rg.norm())
        print(f"{'ok ' if not bad and same and alone and zero else 'BAD'} {str(dtype)[6:]} count {n}: answers {errs['answers']:.1e} (plain {plain['answers']:.1e}), gradient {total:.1e}, worst {k} {errs[k]:.1e} (plain {plain[k]:.1e}), same bits twice {same}, alone {alone}, zeros {zero}", flush=True)
        if bad: print('    ', bad)

def graph(fn):
    s = torch.cuda.Stream(); s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        for _ in range(3): fn()
    torch.cuda.current_stream().wait_stream(s)
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g): fn()
    return g.replay

def median(fn, n=20):
    for _ in range(3): fn()
    ev = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(n)]
    for a,b in ev: a.record(); fn(); b.record()
    torch.cuda.synchronize()
    return float(np.median([a.elapsed_time(b) for a,b in ev]))

def times(table, counts, capacity=3072, config=None, name='fused', kernels=False):
    p = net()
    f = F.FusedImpala(capacity, 'cuda', torch.bfloat16, config)
    flat,fg = flatten(p), torch.empty(F.NUMBER, device='cuda')
    w,grads = views(flat), views(fg)
    ids,dout,count = torch.randint(0, len(table), (capacity,), device='cuda'), torch.randn(capacity,16, device='cuda'), torch.zeros((), dtype=torch.int32, device='cuda')
    count.fill_(37)
    t0 = time.time()
    f.forward(w, table, ids, count); f.backward(dout, grads); torch.cuda.synchronize()
    t0 = time.time()-t0
    runs = dict(forward=graph(lambda: f.forward(w, table, ids, count)), backward=graph(lambda: f.backward(dout, grads)),
                step=graph(lambda: (f.forward(w, table, ids, count), f.backward(dout, grads))))
    for n in counts:
        count.fill_(n)
        ms = {k: median(r) for k,r in runs.items()}
        print(f"{name:10s} count {n:5d}: " + ', '.join(f'{k} {v:.3f} ms = {v*1000/n:.3f} us/frame' for k,v in ms.items()), f'(compile {t0:.0f} s)', flush=True)
    if not kernels: return
    # Each kernel on its own, at the counts: replay a graph of 5 launches of it
    calls,old = [], F.triton.runtime.jit.JITFunction.run
    def run(self, *a, **k):
        calls.append((self, a, k)); return old(self, *a, **k)
    F.triton.runtime.jit.JITFunction.run = run
    f.forward(w, table, ids, count); f.backward(dout, grads)
    F.triton.runtime.jit.JITFunction.run = old
    rows = []
    for fn,a,k in calls:
        def five():
            for _ in range(5): old(fn, *a, **k)
        r = graph(five)
        t = []
        for n in counts: count.fill_(n); t.append(median(r, 10)/5*1000)
        what = ' '.join(f'{q}{int(k[q])}' for q in ('H','C','CI','CD','CX','RES','UNPOOL') if q in k)
        rows.append((fn.__name__, what, t))
    print('us a launch, at counts', counts)
    for name,what,t in rows: print(f'{name:12s} {what:34s}', ' '.join(f'{x:8.1f}' for x in t))
    print(f"{'sum':47s}", ' '.join(f'{sum(r[2][i] for r in rows):8.1f}' for i in range(len(counts))))

def plain(table, counts):
    p = net().to(memory_format=torch.channels_last)
    for n in counts:
        x,dout = table[:n].contiguous(), torch.randn(n,16, device='cuda')
        for q in p.parameters(): q.grad = torch.zeros_like(q)
        def forward():
            with torch.no_grad(), torch.autocast('cuda', torch.bfloat16, cache_enabled=False): p(x)
        def step():
            for q in p.parameters(): q.grad.zero_()
            with torch.autocast('cuda', torch.bfloat16, cache_enabled=False): o = p(x)
            o.backward(dout)
        ms = {k: median(graph(fn)) for k,fn in (('forward',forward), ('step',step))}
        print(f"{'pytorch':10s} count {n:5d}: " + ', '.join(f'{k} {v:.3f} ms = {v*1000/n:.3f} us/frame' for k,v in ms.items()), flush=True)

def main():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    a,t0 = sys.argv[1:], time.time()
    what = [x for x in a if '=' not in x] or ['check','time','kernels','exact']
    table,counts = frames(), (950, 2000, 3000)
    print(torch.cuda.get_device_name(), torch.__version__, F.triton.__version__)
    if 'check' in what:
        check(torch.bfloat16, 3072, (1, 37, 950, 3000), table, 5e-3)
        print(f'{time.time()-t0:.0f} s', flush=True)
    if 'time' in what:
        times(table, counts, kernels='kernels' in what)
        for x in a:
            if '=' in x:
                name,rest = x.split('=', 1)
                conf = {}
                for y in rest.split(','):
                    k,v = y.split(':'); k,q = k.split('.'); conf.setdefault(k, {})[q] = int(v)
                try: times(table, counts, config=conf, name=name, kernels='kernels' in what and len(a)<4)
                except Exception as e: print(name, 'failed:', str(e)[:200])
        plain(table, counts)
        print(f'{time.time()-t0:.0f} s', flush=True)
    if 'exact' in what: # Its kernels take long to compile
        check(torch.float32, 3072, (1, 37, 950, 3000), table, 1e-4, FP32)
        print(f'{time.time()-t0:.0f} s', flush=True)

if __name__=='__main__': main()
