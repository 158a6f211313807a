"""What the probes of attention cost, as a share of a training step of the same process.

A transformer of 9 blocks (dim 192, 6 heads, 197 tokens, batch 16) trains in float32; after each
step the probes look at all its attentions, 4 samples, 1 head and 32 queries each. A share is the
median over steps of the probe's time / the step's, in CPU time of this thread.

    OMP_NUM_THREADS=1 python benchmarks/attention_probes.py [--steps 8]
"""

import argparse
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from interleaved import machine, seconds
from torch import Tensor, nn

from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.base import Probe, SiteView, State
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.records.schema import Role
from qprobe.sites import Attended, Site
from qprobe.sites.projection import Projections

DIM, DEPTH, HEADS, TOKENS, BATCH = 192, 9, 6, 197, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        #: Input of the projection, its output, queries and keys of the last pass.
        self.seen: tuple[Tensor, Tensor, Tensor, Tensor]

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        out = self.qkv(normed)
        q, k, v = out.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        self.seen = (normed, out, q, k)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def attended(model: nn.Sequential, *, projections: bool) -> list[Attended]:
    found = []
    for block in model:
        normed, out, q, k = block.seen
        calls = Projections()
        calls.note(block.qkv, normed, out)
        found.append(Attended(q=q, k=k, projections=calls.of(q, k) if projections else None))
    return found


def look(probe: Probe, role: Role, seen: list[Attended], turn: int, kept: dict[str, State]) -> None:
    with torch.no_grad():
        for number, one in enumerate(seen):
            site = Site(str(number), role, "attention")
            state = probe.observe(SiteView(site=site, module=None, attended=one, draw=turn))
            if state is not None:
                key = f"{probe.name} {number}"
                kept[key] = kept[key].merge(state) if key in kept else state


def step(model: nn.Sequential, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    model, x = nn.Sequential(*[Block() for _ in range(DEPTH)]), torch.randn(BATCH, TOKENS, DIM)
    train = partial(step, model, x, torch.optim.AdamW(model.parameters()))
    logits, softmax = AttentionLogits("nvfp4"), SoftmaxLevels("nvfp4")
    # The second probe finds what the first has sampled; it comes last, as in a session.
    plans = {
        "attention_logits": (logits, Role.ATTN_LOGITS, False),
        "softmax_levels beside it": (softmax, Role.ATTN_PROBS, False),
        "attention_logits with projections": (logits, Role.ATTN_LOGITS, True),
    }
    shares: dict[str, list[float]] = {name: [] for name in plans}
    states: dict[str, dict[str, State]] = {name: {} for name in plans}
    for turn in range(-1, steps):
        base = seconds(train)
        plain = attended(model, projections=False)
        for name, (probe, role, projected) in plans.items():
            seen = attended(model, projections=True) if projected else plain
            spent = seconds(partial(look, probe, role, seen, turn + 1, states[name]))
            if turn >= 0:
                shares[name].append(spent / base)
    print(
        f"{machine()}\n\n| probe | share of a step, median | lowest | highest |\n|---|---|---|---|"
    )
    for name, found in shares.items():
        cells = (f"{100 * one:.2f} %" for one in (median(found), min(found), max(found)))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
