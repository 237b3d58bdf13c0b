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


def load(folder, dtype=torch.float32):
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager",
                                             experts_implementation="eager").eval()
    assert model.config._attn_implementation == "eager" and model.config._experts_implementation == "eager"
    if config.model_type == "qwen3_next":
        from transformers.models.qwen3_next import modeling_qwen3_next as module
        assert module.torch_chunk_gated_delta_rule.__module__ == module.__name__
        assert module.causal_conv1d_fn.__module__ == module.__name__
    state = checkpoint.read(folder)
    if config.tie_word_embeddings:
        assert "lm_head.weight" not in state
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    model.tie_weights()
    return model.to(dtype)


class Routers:
    """Catches router logits and the chosen experts, layer by layer, of every pass."""

    def __init__(self, model):
        self.layers, self.model = len(model.model.layers), model
        for i, layer in enumerate(model.model.layers):
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_hook(lambda _, __, out, i=i: self.take(i, out))
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
        """Router logit of the last chosen expert minus that of the first one left out; 99 for dense layers."""
        out = torch.full((self.layers, count), 99.0)
        for layer, logits in self.logits.items():
            top = logits.topk(top_k + 1).values
            out[layer] = top[:, -2] - top[:, -1]
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
