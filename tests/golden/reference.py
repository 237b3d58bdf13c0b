"""Running the reference implementation: prompt logits, chosen experts, greedy continuation, bf16 noise.

This file owns the path taken through transformers, which is: the model class of transformers in float32 on the
CPU, attn_implementation "eager", experts_implementation "eager" (the plain loop over experts), no kernel
packages installed, so the DeltaNet runs transformers' own torch functions in float32: the chunked rule
(torch_chunk_gated_delta_rule, chunks of 64) for prompts and the recurrent rule for cached single steps.
"""
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import checkpoint

STEPS = 32


def text_config(folder):
    return AutoConfig.from_pretrained(folder).get_text_config()


def make(config, **how):
    """The causal language model of a text configuration."""
    if config.model_type == "qwen3_5_moe_text":
        from transformers import Qwen3_5MoeForCausalLM
        return Qwen3_5MoeForCausalLM._from_config(config, **how)
    return AutoModelForCausalLM.from_config(config, **how)


def load(folder, dtype=torch.float32):
    config = text_config(folder)
    for key in ("quantization_config",):
        config.__dict__.pop(key, None)
    model = make(config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    assert model.config._attn_implementation == "eager" and model.config._experts_implementation == "eager"
    if config.model_type in ("qwen3_next", "qwen3_5_moe_text"):
        from transformers.models.qwen3_next import modeling_qwen3_next
        from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe
        module = modeling_qwen3_next if config.model_type == "qwen3_next" else modeling_qwen3_5_moe
        assert module.torch_chunk_gated_delta_rule.__module__ == module.__name__
        assert module.causal_conv1d_fn.__module__ == module.__name__
    state = checkpoint.read(folder)
    if config.tie_word_embeddings:
        assert "lm_head.weight" not in state
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    model.tie_weights()
    return model.to(dtype)


def choice_scores(router, logits):
    """What the router chooses by, [tokens, experts]: logits, or sigmoids with their correction and without the groups
    that lost; and how clearly those lost, [tokens]."""
    if not hasattr(router, "e_score_correction_bias"):
        return logits, torch.full(logits.shape[:1], 99.0)
    scores = logits.sigmoid() + router.e_score_correction_bias.float()
    groups, keep = router.num_group, router.topk_group
    by_group = scores.view(len(scores), groups, -1).topk(2, dim=-1).values.sum(-1)
    if keep == groups:
        return scores, torch.full(logits.shape[:1], 99.0)
    best = by_group.topk(keep + 1).values
    mask = (by_group >= best[:, keep - 1:keep]).repeat_interleave(scores.shape[1] // groups, 1)
    return scores.masked_fill(~mask, float("-inf")), best[:, -2] - best[:, -1]


class Routers:
    """Catches router logits and the chosen experts, layer by layer, of every pass."""

    def __init__(self, model):
        self.layers, self.model, self.routers = len(model.model.layers), model, {}
        for i, layer in enumerate(model.model.layers):
            router = getattr(layer.mlp, "gate", None) or getattr(layer.mlp, "router", None)
            if router is not None:
                self.routers[i] = router
                router.register_forward_hook(lambda _, __, out, i=i: self.take(i, out))
        self.clear()

    def clear(self):
        self.chosen, self.logits = {}, {}

    def take(self, layer, out):
        logits, _, indices = out
        self.chosen[layer] = indices
        self.logits[layer] = logits.float()

    def experts(self, count, top_k):
        out = torch.full((self.layers, count, top_k), -1, dtype=torch.int32)
        for layer, indices in self.chosen.items():
            out[layer] = indices                                     # topk sorts: descending weight
        return out

    def margins(self, count, top_k):
        """Router logit of the last chosen expert minus that of the first one left out (or, with
        sigmoids, what stands for it: choice_scores); 99 for dense layers."""
        out = torch.full((self.layers, count), 99.0)
        for layer, logits in self.logits.items():
            scores, clear = choice_scores(self.routers[layer], logits)
            top = scores.topk(top_k + 1).values
            out[layer] = torch.minimum(top[:, -2] - top[:, -1], clear)
        return out


@torch.no_grad()
def run(model, low, ids):
    """Everything expected of one prompt. low is the same model in bf16."""
    routers, low_routers = model.routers, low.routers
    top_k = model.config.num_experts_per_tok
    routers.clear()
    out = model(torch.tensor([ids]), use_cache=True)
    prompt_logits = out.logits[0].clone()
    experts = routers.experts(len(ids), top_k)
    greedy, rows, cache = [], [out.logits[0, -1]], out.cache
    for _ in range(STEPS):
        greedy.append(int(rows[-1].argmax()))
        out = model(torch.tensor([[greedy[-1]]]), cache=cache, use_cache=True)
        rows.append(out.logits[0, -1])
    step_logits = torch.stack(rows[:STEPS])
    # The same tokens in one pass without a cache must give the same steps.
    routers.clear()
    whole = model(torch.tensor([ids + greedy[:-1]]), use_cache=False).logits[0]
    again = whole[len(ids) - 1:]
    margins = routers.margins(len(whole), top_k)
    assert torch.equal(experts.sort(-1).values, routers.experts(len(whole), top_k)[:, :len(ids)].sort(-1).values)
    scale = whole.abs().max()
    assert torch.equal(again.argmax(-1), torch.tensor(greedy)), "recomputation leaves the cached run"
    drift = float(max((again - step_logits).abs().max(), (whole[:len(ids)] - prompt_logits).abs().max()) / scale)
    assert drift < 3e-5, drift
    low_routers.clear()
    rough = low(torch.tensor([ids + greedy[:-1]]), use_cache=False).logits[0].float()
    noise = (rough - whole).abs()
    router_noise = max(float((low_routers.logits[i] - x).abs().max()) for i, x in routers.logits.items())
    top = step_logits.topk(4)
    return {
        "ids": ids, "greedy": greedy,
        "gaps": [round(float(v[0] - v[1]), 6) for v in top.values],
        "runners_up": [[[int(i), round(float(v[0] - x), 6)] for i, x in zip(ids_[1:], v[1:])]
                       for ids_, v in zip(top.indices, top.values)],
        "bf16_noise": float(noise.max()), "bf16_noise_prompt": float(noise[:len(ids)].max()),
        "router_noise": router_noise, "max_logit": float(prompt_logits.abs().max()), "min_margin": float(margins.min()),
        "drift": drift,
    }, prompt_logits.numpy(), experts.numpy(), margins[:, :len(ids)].numpy()
