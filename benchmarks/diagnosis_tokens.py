"""A small Llama of Hugging Face, and the synthetic language that it is trained on.

A sequence is a motif of a random Markov chain that is repeated to the end. Its first reading can
be predicted as far as the chain is predictable (embeddings and MLPs learn that), the rest exactly
by whoever looks back to where the motif began (attention learns that).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, LENGTH, BATCH = 32, 48, 32
#: Lengths of a motif.
PERIODS = (8, 12, 16)
#: Symbols that may follow a symbol, and how likely each is.
_FOLLOWERS = (0.5, 0.25, 0.15, 0.1)


def sequences(count: int, seed: int) -> Tensor:
    """Sequences of the language ``[count, LENGTH]``; the chain itself is always the same."""
    chain = torch.Generator().manual_seed(0)
    follows = torch.stack([torch.randperm(VOCABULARY, generator=chain) for _ in range(VOCABULARY)])
    drawn = torch.Generator().manual_seed(seed)
    steps = torch.multinomial(
        torch.tensor(_FOLLOWERS), count * LENGTH, replacement=True, generator=drawn
    ).view(count, LENGTH)
    motif = torch.empty(count, LENGTH, dtype=torch.int64)
    motif[:, 0] = torch.randint(VOCABULARY, (count,), generator=drawn)
    for place in range(1, LENGTH):
        motif[:, place] = follows[motif[:, place - 1], steps[:, place]]
    period = torch.tensor(PERIODS)[torch.randint(len(PERIODS), (count,), generator=drawn)]
    return motif.gather(1, torch.arange(LENGTH) % period[:, None])


def losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats, of each sequence: ``[B]``."""
    every = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return every.mean(1)


def llama() -> nn.Module:
    """Three layers, four heads that share two heads of keys, 0.1 M parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def trained(folder: Path, steps: int) -> nn.Module:
    """The trained model; what was trained before is read from ``folder``."""
    kept = folder / f"{steps}-steps.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = llama()
    if kept.exists():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for step in range(steps):
        batch = sequences(BATCH, seed=1000 + step)
        optimizer.zero_grad()
        losses(model(input_ids=batch).logits, batch).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), kept)
    return model.eval()
