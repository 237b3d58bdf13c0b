#!/usr/bin/env python3
"""Trains the demo model on one GPU within a wall-clock budget.

Owns: the optimiser, the schedule and a fast forward pass over the reference model's own parameters.  The
model is transformers' Qwen3NextForCausalLM; its forward is replaced here by one that computes the same with
fewer and larger kernels (--probe checks it; the delta rule's kernels are checked at every start).  In the last
part of the run the forward sees NF4-rounded weights, so that the published 4-bit model is the one that was trained.

    train.py --data PACKDIR --out DIR --budget SECONDS [--probe]
"""
import argparse, functools, gc, json, lzma, math, os, sys, time

import numpy as np
import torch
import torch._dynamo
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from shape import CONFIG, model_config

START = time.perf_counter()
EPS = CONFIG["rms_norm_eps"]
E, K = CONFIG["num_experts"], CONFIG["num_experts_per_tok"]
KH, VH, DK, DV = (CONFIG["linear_num_key_heads"], CONFIG["linear_num_value_heads"], CONFIG["linear_key_head_dim"],
                  CONFIG["linear_value_head_dim"])
QH, KVH, HD = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"], CONFIG["head_dim"]
ROT = int(HD * CONFIG["partial_rotary_factor"])
COMPILE = [False]                      # switched on for training; the check at the start runs without


def say(*a):
    print(f"[{time.perf_counter() - START:6.1f}]", *a, flush=True)


def fused(f):
    compiled = torch.compile(f, dynamic=False)
    return functools.wraps(f)(lambda *a: compiled(*a) if COMPILE[0] else f(*a))


# ------------------------------------------------------------------ gated delta rule
def dqkwg(q, k, v, do, h, dh, w=None, g=None, dv=None, scale=None, chunk_size=64, **_):
    """Gradients of a chunk's output and state update for q, k, w and g.

    Stands in for one kernel of flash-linear-attention that its authors switch off on Hopper with the Triton
    in use.  g is the running sum of log2 decays inside a chunk; h and dh are the state before the chunk and the
    gradient of the state after it.
    """
    B, T, H, DK_ = k.shape
    HV, N = v.shape[2], T // chunk_size
    dq, dk, dw, dg = _dqkwg(q, k, v, do, h.view(B, N, HV, DK_, -1), dh.view(B, N, HV, DK_, -1), g, dv, scale, chunk_size)
    return dq, dk, dw, dg


@fused
def _dqkwg(q, k, v, do, h, dh, g, dv, scale: float, C: int):
    B, T, H, Kd = k.shape
    HV, V, N = v.shape[2], v.shape[3], T // C
    r = HV // H

    def chunks(x):                       # [B, T, HV, D] -> [B, N, HV, C, D]
        return x.view(B, N, C, HV, x.shape[-1]).transpose(2, 3).float()

    def back(x):
        return x.transpose(2, 3).reshape(B, T, HV, x.shape[-1])

    q_, k_ = chunks(q.repeat_interleave(r, dim=2)), chunks(k.repeat_interleave(r, dim=2))
    v_, do_, dv_ = chunks(v), chunks(do), chunks(dv)
    h_, dh_ = h.float(), dh.float()
    g_ = g.float().view(B, N, C, HV).transpose(2, 3)                 # [B, N, HV, C]
    last = g_[..., -1:]
    decay = torch.exp2((g_.unsqueeze(-1) - g_.unsqueeze(-2)).clamp(max=0)).tril() * scale
    ds = (do_ @ v_.transpose(-1, -2)) * decay
    dq = ds @ k_ + (do_ @ h_.transpose(-1, -2)) * (torch.exp2(g_) * scale).unsqueeze(-1)
    dk_state = (v_ @ dh_.transpose(-1, -2)) * torch.exp2(last - g_).unsqueeze(-1)
    dk = ds.transpose(-1, -2) @ q_ + dk_state
    dw = -(dv_ @ h_.transpose(-1, -2))
    dg = (dq * q_).sum(-1) - (dk * k_).sum(-1)
    end = (dk_state * k_).sum((-1, -2)) + (h_ * dh_).sum((-1, -2)) * torch.exp2(last.squeeze(-1))
    dg = torch.cat([dg[..., :-1], dg[..., -1:] + end.unsqueeze(-1)], dim=-1)
    dq, dk = back(dq), back(dk)
    if r > 1:
        dq, dk = dq.view(B, T, H, r, Kd).sum(3), dk.view(B, T, H, r, Kd).sum(3)
    return dq.to(q.dtype), dk.to(k.dtype), back(dw).to(v.dtype), dg.transpose(2, 3).reshape(B, T, HV)


def choose_delta_rule(device):
    """flash-linear-attention where it works, else the reference's own PyTorch."""
    if device == "cuda":
        try:
            if os.environ.get("FLA_PATH") and os.environ["FLA_PATH"] not in sys.path:
                sys.path.append(os.environ["FLA_PATH"])
            import fla.ops.gated_delta_rule.chunk as chunk
            from fla.modules.causal_conv1d import causal_conv1d
            chunk.chunk_bwd_dqkwg = dqkwg
            trim_autotuning()

            def rule(q, k, v, g, beta):
                return chunk.chunk_gated_delta_rule(q, k, v, g=g, beta=beta, use_qk_l2norm_in_kernel=True)[0]

            def conv(x, w):
                y = causal_conv1d(x, w, activation="silu")
                return y[0] if isinstance(y, tuple) else y
            return "fla", torch.compiler.disable(rule), torch.compiler.disable(conv)
        except Exception as e:
            say("no flash-linear-attention:", repr(e))
    import transformers.models.qwen3_next.modeling_qwen3_next as ref

    def rule(q, k, v, g, beta):
        r = v.shape[2] // q.shape[2]
        return ref.torch_chunk_gated_delta_rule(q.repeat_interleave(r, 2), k.repeat_interleave(r, 2), v, g=g, beta=beta,
                                                use_qk_l2norm_in_kernel=True)[0]

    def conv(x, w):
        y = F.conv1d(x.transpose(1, 2), w.unsqueeze(1), padding=3, groups=w.shape[0])[:, :, : x.shape[1]]
        return F.silu(y).transpose(1, 2)
    return "reference", rule, conv


def trim_autotuning(keep=3):
    """The kernels' autotuners try a dozen variants each; a few are enough and cost less of the budget."""
    from triton.runtime.autotuner import Autotuner
    seen = set()
    for name, mod in list(sys.modules.items()):
        if name.startswith("fla."):
            for v in list(vars(mod).values()):
                while v is not None and id(v) not in seen:
                    seen.add(id(v))
                    if isinstance(v, Autotuner) and len(v.configs) > keep:
                        good = [c for c in v.configs if c.num_warps in (2, 4) and c.num_stages in (2, 3)] or v.configs
                        step = max(1, len(good) // keep)
                        v.configs = good[step // 2::step][:keep]
                    v = getattr(v, "fn", None)


# ------------------------------------------------------------------ the pieces of a layer
def rms(x, w):
    xf = x.float()
    return (xf * torch.rsqrt(xf.pow(2).mean(-1, keepdim=True) + EPS) * (1.0 + w.float())).to(x.dtype)


@fused
def delta_in(x, norm, w_qkvz, w_ba, a_log, dt):
    B, T, _ = x.shape
    h = rms(x, norm)
    r = VH // KH
    m = (h @ w_qkvz.t()).view(B, T, KH, 2 * DK + 2 * r * DV)
    q, k, v, z = m.split([DK, DK, r * DV, r * DV], dim=-1)
    mixed = torch.cat([q.reshape(B, T, -1), k.reshape(B, T, -1), v.reshape(B, T, -1)], dim=-1)
    b, a = (h @ w_ba.t()).view(B, T, KH, 2 * r).split([r, r], dim=-1)
    beta = b.reshape(B, T, VH).float().sigmoid()
    g = -a_log.float().exp() * F.softplus(a.reshape(B, T, VH).float() + dt.float())
    return mixed, z.reshape(B, T, VH, DV), beta, g


@fused
def delta_split(y):
    B, T, _ = y.shape
    q, k, v = y.split([KH * DK, KH * DK, VH * DV], dim=-1)
    return (q.reshape(B, T, KH, DK).contiguous(), k.reshape(B, T, KH, DK).contiguous(),
            v.reshape(B, T, VH, DV).contiguous())


@fused
def delta_out(x, o, z, norm, w_out):
    B, T, _ = x.shape
    of = o.float()
    of = of * torch.rsqrt(of.pow(2).mean(-1, keepdim=True) + EPS) * norm.float() * F.silu(z.float())
    return x + of.to(x.dtype).reshape(B, T, -1) @ w_out.t()


def rotate(x, cos, sin):
    a, b = x[..., :ROT], x[..., ROT:]
    a1, a2 = a.float().chunk(2, dim=-1)
    return torch.cat([(a1 * cos - a2 * sin).to(x.dtype), (a2 * cos + a1 * sin).to(x.dtype), b], dim=-1)


@fused
def attend(x, norm, wq, wk, wv, wo, qn, kn, cos, sin):
    B, T, _ = x.shape
    h = rms(x, norm)
    q, gate = (h @ wq.t()).view(B, T, QH, 2 * HD).chunk(2, dim=-1)
    k, v = (h @ wk.t()).view(B, T, KVH, HD), (h @ wv.t()).view(B, T, KVH, HD)
    q, k = rms(q, qn).transpose(1, 2), rms(k, kn).transpose(1, 2)
    q, k, v = rotate(q, cos, sin), rotate(k, cos, sin), v.transpose(1, 2)
    k, v = k.repeat_interleave(QH // KVH, 1), v.repeat_interleave(QH // KVH, 1)
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    o = o * torch.sigmoid(gate)
    return x + o.reshape(B, T, -1) @ wo.t()


@fused
def moe_in(x, norm, w_router, sg, su, sd, s_gate):
    h = rms(x, norm).reshape(-1, x.shape[-1])
    probs = (h @ w_router.t()).float().softmax(-1)
    top, idx = probs.topk(K, dim=-1)
    top = (top / top.sum(-1, keepdim=True)).to(x.dtype)
    shared = (F.silu(h @ sg.t()) * (h @ su.t())) @ sd.t()
    shared = torch.sigmoid(h @ s_gate.t()) * shared
    used = (idx.unsqueeze(-1) == torch.arange(E, device=x.device)).sum((0, 1))
    aux = (used.float() / h.shape[0] * probs.mean(0)).sum() * E      # K when perfectly balanced
    return h, top, idx, shared, used, aux


@fused
def _gather_sum(y, inv):
    return y[inv.view(-1, K)].sum(1)


@fused
def _combine(y, inv, top, shared, x):
    return x + (shared + (y[inv.view(-1, K)] * top.unsqueeze(-1)).sum(1).to(x.dtype)).view_as(x)


@fused
def _combine_back(d, y, inv, perm, top):
    d2 = d.reshape(-1, d.shape[-1])
    dy = d2[perm // K] * top.reshape(-1)[perm].unsqueeze(-1)
    dtop = (y[inv.view(-1, K)].float() * d2.float().unsqueeze(1)).sum(-1)
    return dy.to(y.dtype), dtop.to(top.dtype), d2


class Dispatch(torch.autograd.Function):
    """Rows of h in expert order; the gradient gathers instead of scattering."""
    @staticmethod
    def forward(ctx, h, perm, inv):
        ctx.save_for_backward(inv)
        return h[perm // K]

    @staticmethod
    def backward(ctx, d):
        return _gather_sum(d, ctx.saved_tensors[0]), None, None


class Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, top, shared, x, perm, inv):
        ctx.save_for_backward(y, top, perm, inv)
        return _combine(y, inv, top, shared, x)

    @staticmethod
    def backward(ctx, d):
        y, top, perm, inv = ctx.saved_tensors
        dy, dtop, dshared = _combine_back(d, y, inv, perm, top)
        return dy, dtop, dshared, d, None, None


@fused
def swiglu(gu):
    g, u = gu.chunk(2, dim=-1)
    return F.silu(g) * u


def grouped(x, w, offs):
    if x.is_cuda:
        return F.grouped_mm(x, w.transpose(-2, -1), offs=offs)
    ends = [0] + offs.tolist()
    return torch.cat([x[ends[e]:ends[e + 1]] @ w[e].t() for e in range(E)])


def experts(x, h, top, idx, shared, used, gate_up, down):
    _, perm = torch.sort(idx.reshape(-1).to(torch.int16 if x.is_cuda else torch.int64), stable=True)
    inv = torch.empty_like(perm)
    inv[perm] = torch.arange(perm.numel(), device=perm.device)
    offs = used.cumsum(0).to(torch.int32)
    y = grouped(swiglu(grouped(Dispatch.apply(h, perm, inv), gate_up, offs)), down, offs)
    return Combine.apply(y, top, shared, x, perm, inv)


@fused
def ce(h, norm, emb, target):
    logits = (rms(h, norm) @ emb.t()).float()
    lse = torch.logsumexp(logits, -1)
    return (lse - logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)).mean()


class Fast:
    """The model's forward over the parameters of the reference class."""

    def __init__(self, model, device):
        self.m = model
        self.kind, self.rule, self.conv = choose_delta_rule(device)
        inv = 1.0 / CONFIG["rope_theta"] ** (torch.arange(0, ROT, 2, device=device).float() / ROT)
        t = torch.arange(CONFIG["max_position_embeddings"], device=device).float()[:, None] * inv
        self.cos, self.sin = t.cos(), t.sin()

    def loss(self, tokens, chunk=65536):
        """tokens [B, T + 1] -> mean cross entropy, mean balance loss, expert counts a layer."""
        x = F.embedding(tokens[:, :-1], self.m.model.embed_tokens.weight)
        T = x.shape[1]
        aux, counts = 0.0, []
        for layer in self.m.model.layers:
            if layer.block_type == "linear_attention":
                d = layer.linear_attn
                mixed, z, beta, g = delta_in(x, layer.input_layernorm.weight, d.in_proj_qkvz.weight, d.in_proj_ba.weight,
                                             d.A_log, d.dt_bias)
                q, k, v = delta_split(self.conv(mixed, d.conv1d.weight.squeeze(1)))
                x = delta_out(x, self.rule(q, k, v, g, beta), z, d.norm.weight, d.out_proj.weight)
            else:
                a = layer.self_attn
                x = attend(x, layer.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight, a.o_proj.weight,
                           a.q_norm.weight, a.k_norm.weight, self.cos[:T], self.sin[:T])
            p = layer.mlp
            s = p.shared_expert
            h, top, idx, shared, used, al = moe_in(x, layer.post_attention_layernorm.weight, p.gate.weight, s.gate_proj.weight,
                                                   s.up_proj.weight, s.down_proj.weight, p.shared_expert_gate.weight)
            x = experts(x, h, top, idx, shared, used, p.experts.gate_up_proj, p.experts.down_proj)
            aux = aux + al
            counts.append(used)
        x, y = x.reshape(-1, x.shape[-1]), tokens[:, 1:].reshape(-1)
        parts = [ce(xc, self.m.model.norm.weight, self.m.model.embed_tokens.weight, yc)
                 for xc, yc in zip(x.split(chunk), y.split(chunk))]
        return torch.stack(parts).mean(), aux / len(counts), counts


def check_against_reference(device):
    """Loss and gradients of the fast forward and of the reference's own, same weights."""
    from transformers import Qwen3NextForCausalLM
    torch.manual_seed(0)
    dt = torch.bfloat16 if device == "cuda" else torch.float32
    model = Qwen3NextForCausalLM(model_config()).to(device)
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "A_log" not in n and "dt_bias" not in n and p.dim() > 1:
                p.mul_(2.0)
            p.copy_(p.to(torch.bfloat16))
    tokens = torch.randint(0, CONFIG["vocab_size"], (4, 257), device=device)
    logits = model(tokens[:, :-1]).logits.float()
    want = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
    want.backward()
    ref = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model = model.to(dt)
    fast = Fast(model, device)
    got, _, _ = fast.loss(tokens)
    got.backward()
    say(f"check ({fast.kind}): loss {got.item():.5f}, reference {want.item():.5f}")
    worst = {}
    for n, p in model.named_parameters():
        e = ((p.grad.float() - ref[n].float()).norm() / (ref[n].float().norm() + 1e-12)).item()
        key = n.split(".", 3)[-1] if "layers" in n else n
        worst[key] = max(worst.get(key, 0), e)
    say("relative gradient error, worst layer:", {k: round(v, 4) for k, v in worst.items()})
    return abs(got.item() - want.item())


def check_rule(rule, device):
    """The delta rule alone: output and gradients in bf16 against the plain recurrence in f32."""
    torch.manual_seed(0)
    T = 192
    q, k, v = (torch.randn(2, T, h, 64, device=device).to(torch.bfloat16) for h in (KH, KH, VH))
    g = -torch.rand(2, T, VH, device=device) * 0.2
    beta = torch.rand(2, T, VH, device=device)
    do = torch.randn(2, T, VH, DV, device=device).to(torch.bfloat16)
    a = [t.clone().requires_grad_(True) for t in (q, k, v, g, beta)]
    o = rule(*a)
    o.backward(do)
    b = [t.float().clone().requires_grad_(True) for t in (q, k, v, g, beta)]
    qn, kn = ((x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)).repeat_interleave(VH // KH, 2) for x in b[:2])
    S, outs = torch.zeros(2, VH, DK, DV, device=device), []
    for t in range(T):
        S = S * b[3][:, t].exp()[..., None, None]
        d = b[4][:, t, :, None] * (b[2][:, t] - (S * kn[:, t, :, :, None]).sum(-2))
        S = S + kn[:, t, :, :, None] * d[:, :, None, :]
        outs.append((S * qn[:, t, :, :, None]).sum(-2) * DK ** -0.5)
    want = torch.stack(outs, 1)
    want.backward(do.float())
    err = [((x.float() - y).norm() / y.norm()).item() for x, y in
           [(o, want)] + [(s.grad, t.grad) for s, t in zip(a, b)]]
    say("delta rule error (o, dq, dk, dv, dg, dbeta):", [round(e, 4) for e in err])
    return max(err)


# ------------------------------------------------------------------ weights, optimiser
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


@fused
def nf4_round(master, levels, mids):
    """Flat f32 weights -> their NF4 values in bfloat16, blocks of 64."""
    b = master.to(torch.bfloat16).float().view(-1, 64)
    scale = b.abs().amax(-1, keepdim=True)
    n = b / (scale + 1e-30)
    return (levels[(n.unsqueeze(-1) > mids).sum(-1)] * scale).to(torch.bfloat16).view(-1)


def newton_schulz(G):
    X = G.to(torch.bfloat16)
    X = X / (X.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(torch.bfloat16)
    for _ in range(5):
        A = X @ X.mT
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X


def is_quantised(name, p):
    return p.dim() >= 2 and not any(k in name for k in ("embed_tokens", "lm_head", "norm", "conv1d", "mlp.gate.",
                                                         "shared_expert_gate"))


class Weights:
    """f32 masters in one flat buffer, bf16 copies the model computes with, Muon for matrices, AdamW for the rest."""

    def __init__(self, model, device, lr_muon, lr_adam, wd):
        named = [(n, p) for n, p in model.named_parameters()]
        self.q = [(n, p) for n, p in named if is_quantised(n, p)]
        self.rest = [(n, p) for n, p in named if not is_quantised(n, p)]
        total = sum(p.numel() for _, p in self.q)
        self.master = torch.empty(total, device=device)
        self.live = torch.empty(total, device=device, dtype=torch.bfloat16)
        self.momentum = torch.zeros(total, device=device)
        self.span, off = {}, 0
        for n, p in self.q:
            self.span[n] = (off, p.numel())
            self.master[off:off + p.numel()] = p.detach().reshape(-1).float()
            p.data = self.live[off:off + p.numel()].view(p.shape)
            off += p.numel()
        self.levels = torch.tensor(NF4, device=device)
        self.mids = (self.levels[1:] + self.levels[:-1]) / 2
        self.adam_masters = []
        for n, p in self.rest:
            self.adam_masters.append(p.detach().float().clone())
            p.data = p.data.to(torch.bfloat16)
        small = [i for i, (n, p) in enumerate(self.rest) if p.dim() < 2 or "gate" in n or "conv1d" in n]
        for m in self.adam_masters:
            m.requires_grad_(True)
        self.adam = torch.optim.AdamW(
            [{"params": [m for i, m in enumerate(self.adam_masters) if i in small], "weight_decay": 0.0, "lr": lr_adam},
             {"params": [m for i, m in enumerate(self.adam_masters) if i not in small], "weight_decay": 0.01, "lr": lr_adam}],
            betas=(0.9, 0.95), eps=1e-10, fused=device == "cuda")
        self.lr_muon, self.lr_adam, self.wd = lr_muon, lr_adam, wd
        # matrices of one shape (up to transposition) go through one batched iteration
        self.groups = {}
        H, I = CONFIG["hidden_size"], CONFIG["moe_intermediate_size"]
        for n, p in self.q:
            shape = (I, H) if n.endswith("experts.gate_up_proj") else tuple(p.shape[-2:])
            self.groups.setdefault((min(shape), max(shape)), []).append((n, p, shape))
        self.refresh(False)

    def refresh(self, rounded):
        if rounded:
            self.live.copy_(nf4_round(self.master, self.levels, self.mids))
        else:
            self.live.copy_(self.master)
        with torch.no_grad():
            torch._foreach_copy_([p.data for _, p in self.rest], [m.detach() for m in self.adam_masters])

    @torch.no_grad()
    def step(self, lr, rounded, beta=0.95):
        for (r, c), members in self.groups.items():
            moms, flips = [], []
            for n, p, shape in members:
                o, k = self.span[n]
                m = self.momentum[o:o + k].view(p.shape)
                g = p.grad.float()
                m.lerp_(g, 1 - beta)
                u = g.lerp(m, beta).reshape(-1, *shape)
                moms.append(u.mT if shape != (r, c) else u)
            upd = newton_schulz(torch.cat(moms))
            scale = 0.2 * math.sqrt(c)
            at = 0
            for (n, p, shape), u in zip(members, moms):
                o, k = self.span[n]
                x = upd[at:at + u.shape[0]]
                at += u.shape[0]
                x = (x.mT if shape != (r, c) else x).reshape(-1)
                w = self.master[o:o + k]
                w.mul_(1 - lr * self.lr_muon * self.wd).add_(x.float(), alpha=-lr * self.lr_muon * scale)
        for group in self.adam.param_groups:
            group["lr"] = lr * self.lr_adam
        for m, (n, p) in zip(self.adam_masters, self.rest):
            m.grad = p.grad.float()
        self.adam.step()
        self.refresh(rounded)
        for _, p in self.q + self.rest:
            p.grad = None

    def state(self):
        out = {n: self.master[o:o + k].view(dict(self.q)[n].shape).to(torch.bfloat16) for n, (o, k) in self.span.items()}
        out.update({n: m.detach().to(torch.bfloat16) for (n, _), m in zip(self.rest, self.adam_masters)})
        return out


# ------------------------------------------------------------------ data
class Data:
    """Windows of the token stream in a fresh random order, and at a fresh offset, every epoch."""

    def __init__(self, path, length, device):
        raw = lzma.open(path).read() if path.endswith(".xz") else open(path, "rb").read()
        self.t = torch.from_numpy(np.frombuffer(raw, dtype=np.uint16).astype(np.int32)).to(device)
        self.length, self.device, self.order, self.at, self.epoch = length, device, None, 0, 0
        self.span = torch.arange(length + 1, device=device)

    def batch(self, n):
        if self.order is None or self.at + n > len(self.order):
            off = torch.randint(0, self.length, (1,)).item()
            starts = torch.arange(off, len(self.t) - self.length - 1, self.length, device=self.device)
            self.order = starts[torch.randperm(len(starts), device=self.device)]
            self.at, self.epoch = 0, self.epoch + 1
        s = self.order[self.at:self.at + n]
        self.at += n
        return self.t[s[:, None] + self.span].long()


def evaluate(fast, held, length, per):
    """Mean loss; run with gradients on, so that nothing has to be compiled anew."""
    n = (len(held) - 1) // length // per * per
    windows = held[: n * length + 1].unfold(0, length + 1, length)
    losses = [fast.loss(windows[i:i + per].long())[0].detach() for i in range(0, n, per)]
    return torch.stack(losses).mean().item()


def save(state, out, files=5):
    from safetensors.torch import save_file
    os.makedirs(out, exist_ok=True)
    bins = [({}, [0]) for _ in range(files)]
    for n, w in sorted(state.items(), key=lambda kv: -kv[1].numel()):
        d, size = min(bins, key=lambda b: b[1][0])
        d[n] = w.contiguous().cpu()
        size[0] += w.numel() * 2
    for i, (d, size) in enumerate(bins):
        save_file(d, f"{out}/bf16-{i}.safetensors")
    say("saved", [size[0] for _, size in bins])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--budget", type=float, default=500, help="seconds from the start of the program to the end of training")
    ap.add_argument("--tokens", type=int, default=131072, help="tokens a step")
    ap.add_argument("--micro", type=int, default=131072, help="tokens a forward")
    ap.add_argument("--length", type=int, default=2048)
    ap.add_argument("--lr-muon", type=float, default=4e-3)
    ap.add_argument("--lr-adam", type=float, default=3e-3)
    ap.add_argument("--wd", type=float, default=0.05)
    ap.add_argument("--warmup", type=int, default=150)
    ap.add_argument("--nf4-from", type=float, default=0.7, help="share of the budget after which the forward sees NF4 weights")
    ap.add_argument("--steps", type=int, default=0, help="stop after so many steps (0: the budget decides)")
    ap.add_argument("--probe", action="store_true", help="check against the reference, measure, profile")
    a = ap.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        say(torch.cuda.get_device_name(0), "torch", torch.__version__)
    torch._dynamo.config.recompile_limit = 64
    from transformers import Qwen3NextForCausalLM
    say("imports done")
    if a.probe:
        try:
            check_against_reference(device)
        except Exception as e:
            import traceback
            traceback.print_exc()
            say("the check failed:", repr(e))
    COMPILE[0] = device == "cuda" and os.environ.get("COMPILE", "1") == "1"
    torch.manual_seed(1234)
    model = Qwen3NextForCausalLM(model_config())
    model = model.to(device=device, dtype=torch.bfloat16)
    model.tie_weights()
    weights = Weights(model, device, a.lr_muon, a.lr_adam, a.wd)
    fast = Fast(model, device)
    worst = check_rule(fast.rule, device)
    if not worst < 0.05:
        sys.exit(f"the delta rule kernels are wrong here: {worst}")
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, delta rule from {fast.kind}")
    path = f"{a.data}/train.u16.xz"
    data = Data(path if os.path.exists(path) else f"{a.data}/train.u16", a.length, device)
    held = torch.from_numpy(np.fromfile(f"{a.data}/heldout.u16", dtype=np.uint16).astype(np.int32)).to(device)
    say(f"{len(data.t):,} training tokens, {len(held):,} held out")
    accum, rows = a.tokens // a.micro, a.micro // a.length
    log, step, seen, first = [], 0, 0, None
    gc.disable()                          # a pause in the collector is a pause of the GPU
    while True:
        now = time.perf_counter()
        if first is None and step == 5:                   # compiled by now
            if device == "cuda":
                torch.cuda.synchronize()
            first = now = time.perf_counter()
            say("first steps done")
        progress = min(1.0, (now - START) / a.budget)
        if progress >= 1.0 or (a.steps and step >= a.steps):
            break
        warm = min(1.0, (step + 1) / a.warmup)
        lr = warm * (1.0 if progress < 0.35 else max(0.0, (1.0 - progress) / 0.65))
        rounded = progress > a.nf4_from
        total, balance = 0.0, 0.0
        for _ in range(accum):
            loss, aux, counts = fast.loss(data.batch(rows))
            ((loss + CONFIG["router_aux_loss_coef"] * aux) / accum).backward()
            total, balance = total + loss.detach() / accum, balance + aux.detach() / accum
        weights.step(lr, rounded)
        step += 1
        seen += a.tokens
        if step <= 3 or step % 20 == 0:
            value = total.item()
            now = time.perf_counter()
            log.append((step, seen, round(now - START, 1), round(value, 4), round(balance.item(), 4), round(lr, 4)))
            if not math.isfinite(value):
                say("loss is not finite, stopping")
                break
        if step <= 3 or step % 200 == 0 or (a.probe and step % 20 == 0):
            rate = (seen - 5 * a.tokens) / (now - first) if first and now > first else 0
            say(f"step {step} tokens {seen / 1e6:.1f}M epoch {data.epoch} loss {value:.4f} balance {balance.item():.3f} lr {lr:.3f} "
                f"{'nf4 ' if rounded else ''}{rate / 1e3:.0f}k tok/s")
    if device == "cuda":
        torch.cuda.synchronize()
        say(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    say(f"trained {step} steps, {seen:,} tokens, {data.epoch} epochs begun")
    if not a.probe:
        save(weights.state(), a.out)
    weights.refresh(False)
    plain = evaluate(fast, held, a.length, rows)
    weights.refresh(True)
    rounded = evaluate(fast, held, a.length, rows)
    say(f"held-out loss: bf16 {plain:.4f}, NF4-rounded {rounded:.4f}")
    os.makedirs(a.out, exist_ok=True)
    json.dump({"args": vars(a), "steps": step, "tokens": seen, "epochs_begun": data.epoch, "heldout_bf16": plain,
               "heldout_nf4": rounded, "seconds": time.perf_counter() - START,
               "columns": ["step", "tokens", "seconds", "loss", "balance", "lr"], "log": log}, open(f"{a.out}/log.json", "w"))
    if a.probe and device == "cuda":
        from torch.profiler import profile, ProfilerActivity
        with profile(activities=[ProfilerActivity.CUDA]) as prof:
            loss, aux, _ = fast.loss(data.batch(rows))
            (loss + aux).backward()
            weights.step(0.0, True)
            torch.cuda.synchronize()
        print(prof.key_averages().table(sort_by="cuda_time_total", row_limit=32, max_name_column_width=70)[:7000])
    say("done")


if __name__ == "__main__":
    main()
