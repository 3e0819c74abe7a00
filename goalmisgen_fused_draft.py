"""The IMPALA network's forward and backward pass in a few fused Triton kernels (draft; will move into a notebook).

Maps are channels-last with a border of zeros that neighbours share: pixel (n, y, x) of a map H x H is number
`n*S*S + (y+1)*S + x+1`, S = H+1, so that a 3x3 window never needs a mask. A row of every matrix product is a
patch of PY x 2 pixels: its window of PY+2 rows of 4 pixels is read as PY+2 contiguous pieces of 4*C numbers, and
the 3x3 weights become PY+2 matrices (4*Cin, PY*2*Cout) with zeros where a pixel of the window is none of a
pixel's nine neighbours. Memory between two stages of one program (unpooled maps, unpooled gradients) is a small
scratch area per program that stays in the cache.
"""
import os, numpy as np, torch, triton, triton.language as tl

_ASM = tl.constexpr(os.environ.get('TRITON_INTERPRET')!='1') # The interpreter knows no assembly

# Launch configurations: programs G (fixed, so that sums have one order), rows BM of a product, warps, pipeline stages
CONFIG = dict(
    conv1=dict(G=132*4, BM=64, PM=128, warps=4),             # frame to pooled map of block 1
    pool2=dict(G=132*3, BM=64, PM=128, warps=4),             # convolution + pool of block 2
    pool3=dict(G=132*3, BM=64, PM=64, warps=4),
    res1=dict(G=132*4, BM=64, PY=2, warps=4),               # residual convolutions of block 1 (16 channels, 32x32)
    res2=dict(G=132*2, BM=64, PY=1, warps=4),               # (32 channels, 16x16)
    res3=dict(G=132*2, BM=64, PY=1, warps=4),               # (32 channels, 8x8)
    back1=dict(G=132*2, BM=128, PY=1, warps=8, maxnreg=128),# their gradients
    back2=dict(G=132, BM=128, PY=1, warps=8),
    back3=dict(G=132, BM=128, PY=1, warps=8),
    unpool3=dict(G=132, BM=128, PM=64, PY=1, warps=8),      # gradients of the convolutions before a pool
    unpool2=dict(G=132, BM=128, PM=128, PY=1, warps=8),
    grad1=dict(G=132*2, BM=128, PM=128, warps=8),            # weight gradient of the first convolution
    fc=dict(BM=64, BN=64, BK=64, warps=4, stages=3),
    head=dict(BM=64, warps=4),
    dhead=dict(G=66, BM=32, warps=8),
    dfc=dict(BM=64, BN=64, BK=64, warps=4, stages=3),
    dfeat=dict(G=33, BM=64, BK=64, warps=8),
    reduce=dict(BE=256, BR=8, warps=4))

def _options(c): return dict(num_warps=c['warps'], num_stages=c.get('stages', 1), **({'maxnreg': c['maxnreg']} if c.get('maxnreg') else {}))

# ---------------------------------------------------------------- kernels

@triton.jit
def _dot(a, b, acc, PREC:tl.constexpr):
    "a b + acc; the interpreter cannot multiply bfloat16"
    if _ASM: y = tl.dot(a, b, acc, input_precision=PREC)
    else: y = tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    return y

@triton.jit
def _gather(flat, idx, out, n, BLOCK:tl.constexpr):
    "out[i] = flat[idx[i]], or 0 where idx is negative"
    i = tl.program_id(0)*BLOCK + tl.arange(0, BLOCK)
    at = tl.load(idx+i, mask=i<n, other=-1)
    v = tl.load(flat+at, mask=at>=0, other=0.)
    tl.store(out+i, v.to(out.dtype.element_ty), mask=i<n)

@triton.jit
def _rows(frames, id, y0, r):
    "Rows y0+r of a uint8 frame, as (row, 64*4); zeros outside and in the fourth channel"
    k = tl.arange(0, 256)
    ok = ((y0+r>=0) & (y0+r<64))[:,None] & (k%4<3)[None,:]
    return tl.load(frames + id*12288 + (y0+r)[:,None]*192 + (k//4*3+k%4)[None,:], mask=ok, other=0)

@triton.jit
def _stage(frames, id, x, y0, MORE:tl.constexpr):
    "Rows y0 .. y0+16+MORE-1 of a uint8 frame to scratch (16+MORE, 66, 4), as whole numbers"
    k,r,s = tl.arange(0, 256), tl.arange(0, 16), 16+tl.arange(0, MORE)
    a,b = _rows(frames, id, y0, r), _rows(frames, id, y0, s)
    tl.store(x + (r*264)[:,None] + (4+k)[None,:], a.to(tl.float32).to(x.dtype.element_ty))
    tl.store(x + (s*264)[:,None] + (4+k)[None,:], b.to(tl.float32).to(x.dtype.element_ty))

@triton.jit
def _pool(u, at, row0, py, px, W:tl.constexpr, C:tl.constexpr):
    "Maximum and its place (3*row+column) in windows 3x3 of scratch u (rows, W, C): conv row 2*py-1 is scratch row row0"
    c = tl.arange(0, C)
    base = (row0*W + 2*px-1)*C
    best = tl.full((at.shape[0], C), float('-inf'), tl.float32)
    place = tl.zeros((at.shape[0], C), tl.int32)
    for r in tl.static_range(3):
        for s in tl.static_range(3):
            ok = (px>=0)
            if r==0: ok = ok & (py>0)
            if s==0: ok = ok & (px>0)
            v = tl.load(u + (base+(r*W+s)*C)[:,None] + c[None,:], mask=ok[:,None], other=float('-inf')).to(tl.float32)
            more = v>best
            best = tl.where(more, v, best)
            place = tl.where(more, 3*r+s, place)
    return best, place

@triton.jit
def _conv1(frames, ids, w, b, out, arg, count, scratch, SCRATCH, G, BM:tl.constexpr, PM:tl.constexpr, PREC:tl.constexpr):
    "Convolution 3 to 16 and pool of uint8 frames (S, 64, 64, 3): a strip of 8 pooled rows at a time"
    pid,count = tl.program_id(0), tl.load(count)
    x = scratch + pid.to(tl.int64)*SCRATCH
    u = x + 22*264
    k,n = tl.arange(0, 64), tl.arange(0, 64)
    wk = tl.load(w + k[:,None]*64 + n[None,:])
    bias = tl.load(b + n%16).to(tl.float32)
    for unit in range(pid, count*4, G):
        f,s = unit//4, unit%4
        _stage(frames, tl.load(ids+f).to(tl.int64), x, 16*s-2, 4)
        tl.debug_barrier()
        for t in range(320//BM):
            m = t*BM + tl.arange(0, BM)
            q,j = m//32, m%32
            a = tl.load(x + (q*528 + j*8)[:,None] + (k//16*264 + k%16)[None,:])
            acc = _dot(a, wk, None, PREC)*(1/255) + bias[None,:]
            tl.store(u + (q*2048 + j*32)[:,None] + (n//32*1024 + n%32)[None,:], acc.to(u.dtype.element_ty))
        tl.debug_barrier()
        for t in range(256//PM):
            m = t*PM + tl.arange(0, PM)
            i,px = m//32, m%32
            best,place = _pool(u, m, 2*i, 8*s+i, px, 64, 16)
            c = tl.arange(0, 16)
            tl.store(out + ((f*33 + 8*s+i+1)*33 + px+1)[:,None]*16 + c[None,:], best.to(out.dtype.element_ty))
            tl.store(arg + ((f*32 + 8*s+i)*32 + px)[:,None]*16 + c[None,:], place.to(tl.uint8))
        tl.debug_barrier()

@triton.jit
def _conv_pool(x, w, b, out, arg, count, scratch, SCRATCH, G, H:tl.constexpr, CI:tl.constexpr, CO:tl.constexpr, PY:tl.constexpr,
               BM:tl.constexpr, PM:tl.constexpr, PREC:tl.constexpr):
    "Convolution of a padded map (H, H, CI) and pool to (H/2, H/2, CO): a frame at a time"
    S:tl.constexpr = H+1
    P:tl.constexpr = H//2
    K:tl.constexpr = 4*CI
    N:tl.constexpr = 2*PY*CO
    pid,count = tl.program_id(0), tl.load(count)
    u = scratch + pid.to(tl.int64)*SCRATCH
    k,n,c = tl.arange(0, K), tl.arange(0, N), tl.arange(0, CO)
    wk = w + k[:,None]*N + n[None,:]
    w0,w1,w2 = tl.load(wk), tl.load(wk+K*N), tl.load(wk+2*K*N)
    if PY==2: w3 = tl.load(wk+3*K*N)
    bias = tl.load(b + n%CO).to(tl.float32)
    for f in range(pid, count, G):
        for t in range(P*H//(PY*BM)):
            m = t*BM + tl.arange(0, BM)
            ty,tx = m//P*PY, m%P*2
            a = x + (f*S*S + ty*S + tx)[:,None]*CI + k[None,:]
            acc = _dot(tl.load(a), w0, None, PREC)
            acc = _dot(tl.load(a+S*CI), w1, acc, PREC)
            acc = _dot(tl.load(a+2*S*CI), w2, acc, PREC)
            if PY==2: acc = _dot(tl.load(a+3*S*CI), w3, acc, PREC)
            tl.store(u + (ty*H + tx)[:,None]*CO + (n//(2*CO)*(H*CO) + n%(2*CO))[None,:], (acc+bias[None,:]).to(u.dtype.element_ty))
        tl.debug_barrier()
        for t in range(P*P//PM):
            m = t*PM + tl.arange(0, PM)
            py,px = m//P, m%P
            best,place = _pool(u, m, 2*py-1, py, px, H, CO)
            tl.store(out + ((f*(P+1) + py+1)*(P+1) + px+1)[:,None]*CO + c[None,:], best.to(out.dtype.element_ty))
            tl.store(arg + ((f*P + py)*P + px)[:,None]*CO + c[None,:], place.to(tl.uint8))
        tl.debug_barrier()

@triton.jit
def _relu(x):
    "max(x, 0), NaN stays; bfloat16 two at a time, which tl.maximum would do in float32"
    if _ASM and x.dtype==tl.bfloat16: y = tl.inline_asm_elementwise('{ .reg .b32 z; mov.b32 z, 0; max.NaN.bf16x2 $0, $1, z; }', '=r,r', [x], dtype=tl.bfloat16, is_pure=True, pack=2)
    else: y = tl.where(x.to(tl.float32)<0, 0., x.to(tl.float32)).to(x.dtype)
    return y

@triton.jit
def _conv(x, w, b, res, out, count, G, H:tl.constexpr, C:tl.constexpr, PY:tl.constexpr, RELU_IN:tl.constexpr, RELU_OUT:tl.constexpr,
          RES:tl.constexpr, BM:tl.constexpr, PREC:tl.constexpr):
    "out = conv(relu?(x)) + b (+ res), relu?, on padded maps (H, H, C)"
    S:tl.constexpr = H+1
    Q:tl.constexpr = H*H//(2*PY)
    K:tl.constexpr = 4*C
    N:tl.constexpr = 2*PY*C
    pid,count = tl.program_id(0), tl.load(count)
    k,n = tl.arange(0, K), tl.arange(0, N)
    wk = w + k[:,None]*N + n[None,:]
    w0,w1,w2 = tl.load(wk), tl.load(wk+K*N), tl.load(wk+2*K*N)
    if PY==2: w3 = tl.load(wk+3*K*N)
    bias = tl.load(b + n%C).to(tl.float32)
    inner = n//(2*C)*(S*C) + n%(2*C)
    for t in range(pid, tl.cdiv(count*Q, BM), G):
        m = t*BM + tl.arange(0, BM)
        f,r = m//Q, m%Q
        base = (f*S*S + r//(H//2)*(PY*S) + r%(H//2)*2)*C
        a = x + base[:,None] + k[None,:]
        a0,a1 = tl.load(a), tl.load(a+S*C) # The next ones find most of their numbers in the cache
        if RELU_IN: a0,a1 = _relu(a0), _relu(a1)
        acc = _dot(a0, w0, None, PREC)
        a2 = tl.load(a+2*S*C)
        if RELU_IN: a2 = _relu(a2)
        acc = _dot(a1, w1, acc, PREC)
        if PY==2:
            a3 = tl.load(a+3*S*C)
            if RELU_IN: a3 = _relu(a3)
        acc = _dot(a2, w2, acc, PREC)
        if PY==2: acc = _dot(a3, w3, acc, PREC)
        acc += bias[None,:]
        at = (base + (S+1)*C)[:,None] + inner[None,:]
        if RES: acc += tl.load(res+at).to(tl.float32)
        if RELU_OUT: acc = tl.where(acc<0, 0., acc)
        if BM<=Q: tl.store(out+at, acc.to(out.dtype.element_ty))
        else: tl.store(out+at, acc.to(out.dtype.element_ty), mask=(f<count)[:,None])

@triton.jit
def _unpool(d, arg, u, f, t, P:tl.constexpr, C:tl.constexpr, PM:tl.constexpr):
    "Tile t of frame f: gradients of 2x2 pixels each, from padded pooled gradients d (P, P, C) and places arg; as four tiles"
    c = tl.arange(0, C)
    m = t*PM + tl.arange(0, PM)
    py,px = m//P, m%P
    dp = d + ((f*(P+1) + py+1)*(P+1) + px+1)[:,None]*C + c[None,:]
    ap = arg + ((f*P + py)*P + px)[:,None]*C + c[None,:]
    d00,d01,d10,d11 = tl.load(dp), tl.load(dp+C), tl.load(dp+(P+1)*C), tl.load(dp+(P+2)*C)
    a00,a01,a10,a11 = tl.load(ap), tl.load(ap+C), tl.load(ap+P*C), tl.load(ap+(P+1)*C) # Beyond the border d is 0
    z = tl.zeros((PM, C), tl.float32)
    u00 = tl.where(a00==4, d00, z)
    u01 = tl.where(a00==5, d00, z) + tl.where(a01==3, d01, z)
    u10 = tl.where(a00==7, d00, z) + tl.where(a10==1, d10, z)
    u11 = tl.where(a00==8, d00, z) + tl.where(a01==6, d01, z) + tl.where(a10==2, d10, z) + tl.where(a11==0, d11, z)
    return py, px, u00, u01, u10, u11

@triton.jit
def _conv_back(d, x, w, res, dx, arg, part, count, scratch, SCRATCH, G, H:tl.constexpr, CD:tl.constexpr, CX:tl.constexpr, PY:tl.constexpr,
               MASK:tl.constexpr, RES:tl.constexpr, UNPOOL:tl.constexpr, BM:tl.constexpr, PM:tl.constexpr, PREC:tl.constexpr):
    "dx = conv'(d) (* (x>0)) (+ res) and, summed over the program's tiles, the weight gradient and dx's sum over pixels"
    S:tl.constexpr = H+1
    Q:tl.constexpr = H*H//(2*PY)
    K:tl.constexpr = 4*CD
    N:tl.constexpr = 2*PY*CX
    TILES:tl.constexpr = Q//BM if UNPOOL else 1
    pid,count = tl.program_id(0), tl.load(count)
    k,n = tl.arange(0, K), tl.arange(0, N)
    wk = w + k[:,None]*N + n[None,:]
    w0,w1,w2 = tl.load(wk), tl.load(wk+K*N), tl.load(wk+2*K*N)
    g0,g1,g2 = tl.zeros((K, N), tl.float32), tl.zeros((K, N), tl.float32), tl.zeros((K, N), tl.float32)
    if PY==2: w3,g3 = tl.load(wk+3*K*N), tl.zeros((K, N), tl.float32)
    bsum = tl.zeros((N,), tl.float32)
    inner = n//(2*CX)*(S*CX) + n%(2*CX)
    if UNPOOL: units,u = count, scratch + pid.to(tl.int64)*SCRATCH
    else: units,u = tl.cdiv(count*Q, BM), d
    for unit in range(pid, units, G):
        if UNPOOL:
            c = tl.arange(0, CD)
            for t in range(H*H//4//PM):
                py,px,u00,u01,u10,u11 = _unpool(d, arg, u, unit, t, H//2, CD, PM)
                at = u + ((2*py+1)*S + 2*px+1)[:,None]*CD + c[None,:]
                tl.store(at, u00.to(u.dtype.element_ty))
                tl.store(at+CD, u01.to(u.dtype.element_ty))
                tl.store(at+S*CD, u10.to(u.dtype.element_ty))
                tl.store(at+(S+1)*CD, u11.to(u.dtype.element_ty))
            tl.debug_barrier()
        for t in range(TILES):
            if UNPOOL: m,f0 = t*BM + tl.arange(0, BM), unit
            else: m,f0 = unit*BM + tl.arange(0, BM), 0
            f,r = m//Q, m%Q
            origin = r//(H//2)*(PY*S) + r%(H//2)*2
            at = ((f0+f)*S*S + origin + S+1)[:,None]*CX + inner[None,:]
            a = u + (f*S*S + origin)[:,None]*CD + k[None,:]
            ok = (f<count)[:,None]
            if BM<=Q: xq,d0,d1 = tl.load(x+at), tl.load(a), tl.load(a+S*CD)
            else: xq,d0,d1 = tl.load(x+at, mask=ok, other=0.), tl.load(a, mask=ok, other=0.), tl.load(a+S*CD, mask=ok, other=0.)
            xr = _relu(xq) if MASK else xq
            acc = _dot(d0, w0, None, PREC)
            g0 = _dot(tl.trans(d0), xr, g0, PREC)
            if BM<=Q: d2 = tl.load(a+2*S*CD)
            else: d2 = tl.load(a+2*S*CD, mask=ok, other=0.)
            acc = _dot(d1, w1, acc, PREC)
            g1 = _dot(tl.trans(d1), xr, g1, PREC)
            if PY==2:
                if BM<=Q: d3 = tl.load(a+3*S*CD)
                else: d3 = tl.load(a+3*S*CD, mask=ok, other=0.)
            acc = _dot(d2, w2, acc, PREC)
            g2 = _dot(tl.trans(d2), xr, g2, PREC)
            if PY==2:
                acc = _dot(d3, w3, acc, PREC)
                g3 = _dot(tl.trans(d3), xr, g3, PREC)
            if MASK: acc = tl.where(xq.to(tl.float32)>0, acc, 0.)
            if BM<=Q:
                if RES: acc += tl.load(res+at).to(tl.float32)
                tl.store(dx+at, acc.to(dx.dtype.element_ty))
            else:
                if RES: acc += tl.load(res+at, mask=ok, other=0.).to(tl.float32)
                tl.store(dx+at, acc.to(dx.dtype.element_ty), mask=ok)
            bsum += tl.sum(acc, 0)
        if UNPOOL: tl.debug_barrier()
    p = part + pid*((PY+2)*K*N+N)
    pk = p + k[:,None]*N + n[None,:]
    tl.store(pk, g0)
    tl.store(pk+K*N, g1)
    tl.store(pk+2*K*N, g2)
    if PY==2: tl.store(pk+3*K*N, g3)
    tl.store(p+(PY+2)*K*N+n, bsum)

@triton.jit
def _conv1_back(frames, ids, d, arg, part, count, scratch, SCRATCH, G, BM:tl.constexpr, PM:tl.constexpr, PREC:tl.constexpr):
    "Weight gradient of the first convolution: sums over patches of 2x2 pixels of (window 4x4x4) x (gradients 2x2x16)"
    pid,count = tl.program_id(0), tl.load(count)
    x = scratch + pid.to(tl.int64)*SCRATCH
    u = x + 18*264
    k,c = tl.arange(0, 64), tl.arange(0, 16)
    g = tl.zeros((64, 64), tl.float32)
    for unit in range(pid, count*4, G):
        f,s = unit//4, unit%4
        _stage(frames, tl.load(ids+f).to(tl.int64), x, 16*s-1, 2)
        for t in range(256//PM):
            py,px,u00,u01,u10,u11 = _unpool(d, arg, u, f, s*(256//PM)+t, 32, 16, PM)
            at = u + ((py-8*s)*32+px)[:,None]*64 + c[None,:]
            tl.store(at, u00.to(u.dtype.element_ty))
            tl.store(at+16, u01.to(u.dtype.element_ty))
            tl.store(at+32, u10.to(u.dtype.element_ty))
            tl.store(at+48, u11.to(u.dtype.element_ty))
        tl.debug_barrier()
        for t in range(256//BM):
            m = t*BM + tl.arange(0, BM)
            a = tl.load(x + (m//32*528 + m%32*8)[:,None] + (k//16*264 + k%16)[None,:])
            dq = tl.load(u + m[:,None]*64 + k[None,:])
            g = _dot(tl.trans(a), dq, g, PREC)
        tl.debug_barrier()
    tl.store(part + pid*4096 + k[:,None]*64 + k[None,:], g*(1/255))

@triton.jit
def _fc(x, w, b, h, count, BM:tl.constexpr, BN:tl.constexpr, BK:tl.constexpr, PREC:tl.constexpr, STAGES:tl.constexpr):
    "h = relu(relu(x) w + b): padded maps (8, 8, 32) to (256,)"
    count = tl.load(count)
    m0 = tl.program_id(0)*BM
    if m0>=count: return
    m,n,k = m0+tl.arange(0, BM), tl.program_id(1)*BN+tl.arange(0, BN), tl.arange(0, BK)
    ok = (m<count)[:,None]
    acc = tl.zeros((BM, BN), tl.float32)
    for i in tl.range(2048//BK, num_stages=STAGES):
        row = i//(256//BK)
        off = (row+1)*288 + 32 + i%(256//BK)*BK
        a = tl.load(x + m[:,None]*2592 + (off+k)[None,:], mask=ok, other=0.)
        wk = tl.load(w + (i*BK+k)[:,None]*256 + n[None,:])
        acc = _dot(_relu(a), wk, acc, PREC)
    acc += tl.load(b+n).to(tl.float32)[None,:]
    acc = tl.where(acc<0, 0., acc)
    tl.store(h + m[:,None]*256 + n[None,:], acc.to(h.dtype.element_ty), mask=ok)

@triton.jit
def _head(h, w, b, out, count, capacity, BM:tl.constexpr, PREC:tl.constexpr):
    "out (capacity, 16) = h w + b, zeros beyond count"
    count = tl.load(count)
    m,n,k = tl.program_id(0)*BM+tl.arange(0, BM), tl.arange(0, 16), tl.arange(0, 256)
    a = tl.load(h + m[:,None]*256 + k[None,:], mask=(m<count)[:,None], other=0.)
    acc = _dot(a, tl.load(w + k[:,None]*16 + n[None,:]), None, PREC) + tl.load(b+n).to(tl.float32)[None,:]
    tl.store(out + m[:,None]*16 + n[None,:], tl.where((m<count)[:,None], acc, 0.), mask=(m<capacity)[:,None])

@triton.jit
def _head_back(dout, h, w, dh, part, count, G, BM:tl.constexpr, PREC:tl.constexpr):
    "dh = (dout w') * (h>0), and sums: dout' h (16, 256), dout (16,), dh (256,)"
    pid,count = tl.program_id(0), tl.load(count)
    n,k = tl.arange(0, 16), tl.arange(0, 256)
    wk = tl.load(w + k[None,:]*16 + n[:,None])
    g,gb,gh = tl.zeros((16, 256), tl.float32), tl.zeros((16,), tl.float32), tl.zeros((256,), tl.float32)
    for t in range(pid, tl.cdiv(count, BM), G):
        m = t*BM + tl.arange(0, BM)
        ok = (m<count)[:,None]
        d = tl.load(dout + m[:,None]*16 + n[None,:], mask=ok, other=0.)
        hk = tl.load(h + m[:,None]*256 + k[None,:], mask=ok, other=0.)
        dd = d.to(h.dtype.element_ty)
        acc = tl.where(hk.to(tl.float32)>0, _dot(dd, wk, None, PREC), 0.)
        tl.store(dh + m[:,None]*256 + k[None,:], acc.to(dh.dtype.element_ty), mask=ok)
        g = _dot(tl.trans(dd), hk, g, PREC)
        gb += tl.sum(d, 0)
        gh += tl.sum(acc, 0)
    p = part + pid*4368
    tl.store(p + n[:,None]*256 + k[None,:], g)
    tl.store(p+4096+n, gb)
    tl.store(p+4112+k, gh)

@triton.jit
def _fc_weight(dh, x, out, count, BM:tl.constexpr, BN:tl.constexpr, BK:tl.constexpr, PREC:tl.constexpr, STAGES:tl.constexpr):
    "Gradient of the weights: out (256, 2048), columns in the order (c, y, x), = dh' relu(x)"
    count = tl.load(count)
    m,j,k = tl.program_id(0)*BM+tl.arange(0, BM), tl.program_id(1)*BN+tl.arange(0, BN), tl.arange(0, BK)
    off = (j//256+1)*288 + 32 + j%256
    acc = tl.zeros((BM, BN), tl.float32)
    for i in tl.range(tl.cdiv(count, BK), num_stages=STAGES):
        f = i*BK+k
        ok = (f<count)[:,None]
        a = tl.load(dh + f[:,None]*256 + m[None,:], mask=ok, other=0.)
        b = tl.load(x + f[:,None]*2592 + off[None,:], mask=ok, other=0.)
        acc = _dot(tl.trans(a), _relu(b), acc, PREC)
    tl.store(out + m[:,None]*2048 + (j%32*64 + j//32)[None,:], acc)

@triton.jit
def _fc_back(dh, w, x, dx, part, count, G, BM:tl.constexpr, BK:tl.constexpr, PREC:tl.constexpr):
    "dx = (dh w') * (x>0) of one row of 8 pixels, padded maps; and dx's sum over pixels"
    pid,y,count = tl.program_id(0), tl.program_id(1), tl.load(count)
    n,k = tl.arange(0, 256), tl.arange(0, BK)
    total = tl.zeros((256,), tl.float32)
    for t in range(pid, tl.cdiv(count, BM), G):
        m = t*BM + tl.arange(0, BM)
        ok = (m<count)[:,None]
        acc = tl.zeros((BM, 256), tl.float32)
        for i in range(256//BK):
            a = tl.load(dh + m[:,None]*256 + (i*BK+k)[None,:], mask=ok, other=0.)
            wk = tl.load(w + (y*256+n)[None,:]*256 + (i*BK+k)[:,None])
            acc = _dot(a, wk, acc, PREC)
        at = m[:,None]*2592 + ((y+1)*288 + 32 + n)[None,:]
        acc = tl.where(tl.load(x+at, mask=ok, other=0.).to(tl.float32)>0, acc, 0.)
        tl.store(dx+at, acc.to(dx.dtype.element_ty), mask=ok)
        total += tl.sum(acc, 0)
    tl.store(part + (pid*8+y)*256 + n, total)

@triton.jit
def _fold(part, begin, rows, stride, width, to, out, BE:tl.constexpr, BR:tl.constexpr):
    "Block b: out[to[b]:][:width[b]] = sum over rows[b] programs of their partial sums, in a fixed order"
    b = tl.program_id(0)
    begin,rows,stride,width,to = tl.load(begin+b), tl.load(rows+b), tl.load(stride+b), tl.load(width+b), tl.load(to+b)
    e = tl.arange(0, BE)
    acc = tl.zeros((BR, BE), tl.float32)
    for r0 in range(0, rows, BR):
        r = r0 + tl.arange(0, BR)
        acc += tl.load(part + begin + r[:,None]*stride + e[None,:], mask=(r<rows)[:,None] & (e<width)[None,:], other=0.)
    tl.store(out+to+e, tl.sum(acc, 0), mask=e<width)

@triton.jit
def _spread(sums, src, dst, out, n, SRC:tl.constexpr, BE:tl.constexpr):
    "out[dst] = sum of up to SRC of the sums"
    e = tl.program_id(0)*BE + tl.arange(0, BE)
    acc = tl.zeros((BE,), tl.float32)
    for s in tl.static_range(SRC):
        at = tl.load(src+s*n+e, mask=e<n, other=-1)
        acc += tl.load(sums+at, mask=at>=0, other=0.)
    tl.store(out + tl.load(dst+e, mask=e<n, other=0), acc, mask=e<n)

# ---------------------------------------------------------------- tables

SHAPES = {} # Parameter shapes by name, in the order of the network's state_dict
for _i,(_ci,_co) in enumerate(((3,16),(16,32),(32,32)), 1):
    SHAPES[f'embedder.block{_i}.conv'] = (_co,_ci,3,3)
    for _r in ('res1','res2'):
        for _c in ('conv1','conv2'): SHAPES[f'embedder.block{_i}.{_r}.{_c}'] = (_co,_co,3,3)
SHAPES.update({'embedder.fc': (256,2048), 'fc_policy': (15,256), 'fc_value': (1,256)})
SHAPES = {f'{k}.{p}': (s if p=='weight' else s[:1]) for k,s in SHAPES.items() for p in ('weight','bias')}

def _starts():
    "Where each parameter begins in the flat vector"
    at,out = 0, {}
    for k,s in SHAPES.items(): out[k],at = at, at+int(np.prod(s))
    return out, at
STARTS,NUMBER = _starts()

def _forward_index(name, py, ci=None):
    "Places (py+2, 4*ci, py*2*co) of a convolution's weights in the flat vector, -1 where there is none"
    co,real,_,_ = SHAPES[name+'.weight']
    ci = ci or real
    j,i,c,a,b,o = np.ix_(*map(np.arange, (py+2,4,ci,py,2,co)))
    ky,kx = j-a, i-b
    at = ((o*real+c)*3+ky)*3+kx + STARTS[name+'.weight']
    ok = (ky>=0)&(ky<3)&(kx>=0)&(kx<3)&(c<real)
    return np.where(ok, at, -1).reshape(py+2, 4*ci, py*2*co)

def _backward_index(name, py):
    "Places (py+2, 4*co, py*2*ci) of the transposed convolution's weights in the flat vector, -1 where there is none"
    co,ci,_,_ = SHAPES[name+'.weight']
    j,i,o,a,b,c = np.ix_(*map(np.arange, (py+2,4,co,py,2,ci)))
    ky,kx = 2-(j-a), 2-(i-b)
    at = ((o*ci+c)*3+ky)*3+kx + STARTS[name+'.weight']
    ok = (ky>=0)&(ky<3)&(kx>=0)&(kx<3)
    return np.where(ok, at, -1).reshape(py+2, 4*co, py*2*ci)

def _sources(index):
    "Of each place in the flat vector that occurs in `index`: (places, their positions in `index` (4, n), -1 where fewer)"
    index = index.ravel()
    where = np.flatnonzero(index>=0)
    where = where[np.argsort(index[where], kind='stable')]
    value = index[where]
    first = np.r_[True, value[1:]!=value[:-1]]
    place,rank = np.cumsum(first)-1, np.arange(len(value))-np.flatnonzero(first)[np.cumsum(first)-1]
    pos = np.full((4, place[-1]+1), -1, np.int64)
    pos[rank,place] = where
    order = np.argsort(pos[0], kind='stable') # Neighbours in memory are summed by neighbours
    return value[first][order], pos[:,order]

# ---------------------------------------------------------------- the network

class FusedImpala:
    "Answers and gradients of the IMPALA network for up to `capacity` frames, in buffers allocated once"
    def __init__(self, capacity:int, device, dtype=torch.bfloat16, config=None, prec=None):
        assert capacity>=1 and (capacity+4)*33*33*16<2**31
        self.capacity,self.device,self.dtype = capacity, torch.device(device), dtype
        self.config = {k: {**v, **(config or {}).get(k, {})} for k,v in CONFIG.items()}
        self.prec = prec or ('tf32x3' if dtype==torch.float32 else 'tf32')
        cap,c = -(-capacity//4)*4, self.config # A product's rows may end beyond the last frame
        zeros = lambda n,dtype=dtype: torch.zeros(n, dtype=dtype, device=self.device)
        maps = lambda h,ch: zeros((cap*(h+1)**2 + 2*h+8)*ch)
        self.maps,self.grad,self.arg = {}, {}, {}
        for i,(h,ch) in enumerate(((32,16),(16,32),(8,32)), 1):
            self.maps[i] = [maps(h,ch) for _ in range(5)]
            self.grad[i] = [maps(h,ch) for _ in range(2)]
            self.arg[i] = zeros((cap*h*h + 2*h)*ch, torch.uint8)
        self.h,self.dh,self.out = zeros(cap*256), zeros(cap*256), zeros((capacity,16), torch.float32)
        self.scratch_sizes = dict(conv1=22*264+20*1024, grad1=18*264+256*64, pool2=32*32*32, pool3=16*16*32, unpool2=34*33*32+64, unpool3=18*17*32+64)
        self.scratch_sizes = {k: -(-v//64)*64 for k,v in self.scratch_sizes.items()}
        # One area serves all kernels but those that count on zeros at a border
        self.scratch = {k: zeros(c[k]['G']*v) for k,v in self.scratch_sizes.items() if k not in ('pool2','pool3')}
        self.scratch['pool2'] = self.scratch['pool3'] = zeros(max(c[k]['G']*self.scratch_sizes[k] for k in ('pool2','pool3')))
        self.flat,self.flat_grad = zeros(NUMBER, torch.float32), zeros(NUMBER, torch.float32)
        self._tables()

    def _tables(self):
        c,index,self.w = self.config, [], {}
        def add(name, i):
            self.w[name] = (sum(x.size for x in index), i.size)
            index.append(np.asarray(i, np.int64).ravel())
        span = lambda name: STARTS[name]+np.arange(int(np.prod(SHAPES[name]))).reshape(SHAPES[name])
        add('f1', _forward_index('embedder.block1.conv', 2, 4))
        back = {} # Layer: (kernel, index of the gradient matrices)
        for b in (1,2,3):
            name = f'embedder.block{b}'
            if b>1:
                add(f'f{b}', _forward_index(name+'.conv', 1))
                back[name+'.conv'] = (f'unpool{b}', _backward_index(name+'.conv', c[f'unpool{b}']['PY']))
                add(f'b{b}', back[name+'.conv'][1])
            for r in ('res1','res2'):
                for k in ('conv1','conv2'):
                    n = f'{name}.{r}.{k}'
                    add('f'+n, _forward_index(n, c[f'res{b}']['PY']))
                    back[n] = (f'back{b}', _backward_index(n, c[f'back{b}']['PY']))
                    add('b'+n, back[n][1])
        add('fc', span('embedder.fc.weight').reshape(256,32,64).transpose(2,1,0)) # (y, x, c), out
        add('head', np.concatenate([span('fc_policy.weight'), span('fc_value.weight')]).T)
        for n in SHAPES:
            if n.endswith('.bias') and n.startswith('embedder'): add(n, span(n))
        add('headb', np.concatenate([span('fc_policy.bias'), span('fc_value.bias')]))
        sizes = [-(-x.size//64)*64 for x in index] # Each begins at a multiple of 64 numbers
        starts = np.cumsum([0]+sizes)
        all = np.full(starts[-1], -1, np.int32)
        for x,s in zip(index, starts): all[s:s+x.size] = x
        for (n,(_,size)),s in zip(list(self.w.items()), starts): self.w[n] = (int(s), size)
        self.index = torch.from_numpy(all).to(self.device)
        self.weights = torch.zeros(len(all), dtype=self.dtype, device=self.device)
        self.w = {n: self.weights[s:s+k] for n,(s,k) in self.w.items()}
        # Gradients: partial sums of each kernel, and who adds what to what
        base,folded,self.part,src,dst,blocks,BE = 0, 0, {}, [], [], [], c['reduce']['BE']
        def partial(name, G, size, *jobs):
            nonlocal base, folded
            self.part[name] = (base, G*size)
            for places,pos in jobs:
                pos = np.concatenate([pos, np.full((4-len(pos), pos.shape[1]), -1)])
                dst.append(places); src.append(np.where(pos>=0, pos+folded, -1))
            blocks.extend((base+e, G, size, min(BE, size-e), folded+e) for e in range(0, size, BE))
            base,folded = base+G*size, folded+size
        def bias(name, C, n, at): return span(name+'.bias'), at + np.arange(n).reshape(n//C, C)
        place,pos = _sources(_forward_index('embedder.block1.conv', 2, 4))
        partial('embedder.block1.conv', c['grad1']['G'], 4096, (place,pos))
        chain = [f'embedder.block{b}.{k}' for b in (1,2,3) for k in ('conv','res1.conv1','res1.conv2','res2.conv1','res2.conv2')]
        for before,name in zip(chain, chain[1:]): # The kernel of a layer also sums the bias gradient of the layer before
            kernel,idx = back[name]
            ch = SHAPES[name+'.weight'][1]
            n = idx.shape[2]
            partial(name, c[kernel]['G'], idx.size+n, _sources(idx), bias(before, ch, n, idx.size))
        G = c['dfeat']['G']*8
        partial('features', G*8, 32, (span(chain[-1]+'.bias'), np.arange(32)[None])) # 8 pixels a row: as 8 programs of 32 numbers each
        heads = np.concatenate([span('fc_policy.weight'), span('fc_value.weight')])
        headb = np.concatenate([span('fc_policy.bias'), span('fc_value.bias')])
        partial('heads', c['dhead']['G'], 4368, (heads.ravel(), np.arange(4096)[None]), (headb, 4096+np.arange(16)[None]),
                (span('embedder.fc.bias'), 4112+np.arange(256)[None]))
        assert base<2**31
        t = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.int32)).to(self.device)
        self.src,self.dst,self.blocks = t(np.concatenate(src, 1)), t(np.concatenate(dst)), [t(a) for a in zip(*blocks)]
        self.sums = torch.zeros(folded, dtype=torch.float32, device=self.device)
        self.partials = torch.zeros(base, dtype=torch.float32, device=self.device)
        self.part = {n: self.partials[s:s+k] for n,(s,k) in self.part.items()}

    def _launch(self, name):
        c = self.config[name]
        return {**{k: c[k] for k in ('BM','PM') if k in c}, 'PREC': c.get('prec', self.prec)}, _options(c), c.get('G')

    def prepare(self, weights):
        "Weights float32 by name, into the kernels' layouts"
        if isinstance(weights, dict): torch.cat([weights[n].reshape(-1) for n in SHAPES], out=self.flat)
        else: self.flat = weights
        n = len(self.index)
        _gather[(triton.cdiv(n, 1024),)](self.flat, self.index, self.weights, n, BLOCK=1024, num_warps=4)

    def forward(self, weights, frames, ids, count):
        "Logits and value float32 (capacity, 16) of frames[ids[:count]], zeros beyond; keeps what `backward` needs"
        self.prepare(weights)
        self.frames,self.ids,self.count = frames, ids, count
        w,p = self.w, self.prec
        k,o,G = self._launch('conv1')
        _conv1[(G,)](frames, ids, w['f1'], w['embedder.block1.conv.bias'], self.maps[1][0], self.arg[1], count, self.scratch['conv1'], self.scratch_sizes['conv1'], G,
                     **k, **o)
        for b,(h,ch) in enumerate(((32,16),(16,32),(8,32)), 1):
            name = f'embedder.block{b}'
            if b>1:
                k,o,G = self._launch(f'pool{b}')
                _conv_pool[(G,)](self.maps[b-1][4], w[f'f{b}'], w[name+'.conv.bias'], self.maps[b][0], self.arg[b], count, self.scratch[f'pool{b}'],
                                 self.scratch_sizes[f'pool{b}'], G, H=2*h, CI=16 if b==2 else 32, CO=32, PY=1, **k, **o)
            k,o,G = self._launch(f'res{b}')
            m = self.maps[b]
            for i,r in enumerate(('res1','res2')):
                x,a,y = m[2*i:2*i+3]
                n = f'{name}.{r}.conv'
                s = dict(H=h, C=ch, PY=self.config[f'res{b}']['PY'], **k, **o)
                _conv[(G,)](x, w[f'f{n}1'], w[f'{n}1.bias'], x, a, count, G, RELU_IN=True, RELU_OUT=True, RES=False, **s)
                _conv[(G,)](a, w[f'f{n}2'], w[f'{n}2.bias'], x, y, count, G, RELU_IN=False, RELU_OUT=False, RES=True, **s)
        c = self.config['fc']
        _fc[(triton.cdiv(self.capacity, c['BM']), 256//c['BN'])](self.maps[3][4], w['fc'], w['embedder.fc.bias'], self.h, count, BM=c['BM'], BN=c['BN'], BK=c['BK'],
                                                                PREC=p, STAGES=c['stages'], num_warps=c['warps'])
        c = self.config['head']
        _head[(triton.cdiv(self.capacity, c['BM']),)](self.h, w['head'], w['headb'], self.out, count, self.capacity, BM=c['BM'], PREC=p, num_warps=c['warps'])
        return self.out

    def backward(self, dout, grads):
        "Write the gradients of all parameters, given those of the answers, float32 (capacity, 16), zeros beyond count"
        w,p,count,part = self.w, self.prec, self.count, self.part
        c = self.config['dhead']
        _head_back[(c['G'],)](dout, self.h, w['head'], self.dh, part['heads'], count, c['G'], BM=c['BM'], PREC=p, num_warps=c['warps'])
        c = self.config['dfc']
        at = STARTS['embedder.fc.weight']
        _fc_weight[(256//c['BM'], 2048//c['BN'])](self.dh, self.maps[3][4], self.flat_grad[at:at+256*2048], count, BM=c['BM'], BN=c['BN'], BK=c['BK'], PREC=p,
                                                  STAGES=c['stages'], num_warps=c['warps'])
        c = self.config['dfeat']
        _fc_back[(c['G'],8)](self.dh, w['fc'], self.maps[3][4], self.grad[3][0], part['features'], count, c['G'], BM=c['BM'], BK=c['BK'], PREC=p, num_warps=c['warps'])
        for b,(h,ch) in reversed(list(enumerate(((32,16),(16,32),(8,32)), 1))):
            name,m,(d,e) = f'embedder.block{b}', self.maps[b], self.grad[b]
            k,o,G = self._launch(f'back{b}')
            s = dict(H=h, CD=ch, CX=ch, PY=self.config[f'back{b}']['PY'], MASK=True, UNPOOL=False, PM=16, **k, **o)
            for i,r in ((1,'res2'),(0,'res1')):
                n = f'{name}.{r}.conv'
                _conv_back[(G,)](d, m[2*i+1], w[f'b{n}2'], d, e, self.arg[b], part[f'{n}2'], count, e, 0, G, RES=False, **s)
                _conv_back[(G,)](e, m[2*i], w[f'b{n}1'], d, d, self.arg[b], part[f'{n}1'], count, d, 0, G, RES=True, **s)
            if b>1:
                k,o,G = self._launch(f'unpool{b}')
                _conv_back[(G,)](d, self.maps[b-1][4], w[f'b{b}'], d, self.grad[b-1][0], self.arg[b], part[name+'.conv'], count, self.scratch[f'unpool{b}'],
                                 self.scratch_sizes[f'unpool{b}'], G, H=2*h, CD=32, CX=16 if b==2 else 32, PY=self.config[f'unpool{b}']['PY'], MASK=False, RES=False,
                                 UNPOOL=True, **k, **o)
        k,o,G = self._launch('grad1')
        _conv1_back[(G,)](self.frames, self.ids, self.grad[1][0], self.arg[1], part['embedder.block1.conv'], count, self.scratch['grad1'], self.scratch_sizes['grad1'], G,
                          **k, **o)
        c,n = self.config['reduce'], len(self.dst)
        _fold[(len(self.blocks[0]),)](self.partials, *self.blocks, self.sums, BE=c['BE'], BR=c['BR'], num_warps=c['warps'])
        _spread[(triton.cdiv(n, 256),)](self.sums, self.src, self.dst, self.flat_grad, n, SRC=4, BE=256, num_warps=4)
        if isinstance(grads, dict): torch._foreach_copy_([grads[n] for n in SHAPES], [self.flat_grad[STARTS[n]:STARTS[n]+int(np.prod(s))].view(s) for n,s in SHAPES.items()])
        else: grads.copy_(self.flat_grad)
