"""Attention that MONAI writes out, by einsum and with scaled queries: its SNR computed again.

Queries and keys are taken from what the layer ``qkv`` returns, by the library's own order of axes,
and quantized by the slow reference.
"""

import numpy as np
import pytest
from oracles import nvfp4
from sites import foreign

import qprobe
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.sites import Sampling
from qprobe.sites.dataflow import first_tensor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # theirs are not ours to fix
]
EVERY = Sampling(samples=None, heads=None, queries=None)


def quantized(x):
    """``x`` in blocks of sixteen along the last axis, as the reference decodes it."""
    return nvfp4.quantize(x.reshape(-1, x.shape[-1])).dequant.reshape(x.shape)


def snr_db(before, after):
    before, noise = (x - x.mean(-1, keepdims=True) for x in (before, after - before))
    return 10 * np.log10((before**2).sum() / (noise**2).sum())


@pytest.mark.parametrize("make", [foreign.unetr, foreign.swin_unetr])
def test_the_snr_of_logits_is_that_of_an_own_computation(make):
    model, batch = foreign.made(make, "none")
    returned = {}
    for path, module in model.named_modules():
        if path.endswith(".qkv"):
            kept = lambda _, __, y, path=path: returned.update({path: y.detach()})  # noqa: E731
            module.register_forward_hook(kept)
    probes = [AttentionLogits("nvfp4", EVERY)]
    with qprobe.attach(model.eval(), probes=probes, example=batch) as session:
        first_tensor(model(**batch)).square().mean().backward()
        session.step()
    records = {(r.site, r.key): r.value for r in session.records() if r.probe == probes[0].name}
    sites = {site for site, _ in records}
    assert len(sites) == len(returned) >= 4
    for site in sites:
        path = site.partition("/")[0]
        heads = model.get_submodule(path).num_heads
        y = returned[f"{path}.qkv"].unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = y[0].numpy(), y[1].numpy()
        q, k, q_hat, k_hat = (x.astype(np.float64) for x in (q, k, quantized(q), quantized(k)))
        expected = snr_db(q @ k.swapaxes(-1, -2), q_hat @ k_hat.swapaxes(-1, -2))
        assert records[site, "snr_qk_db"] == pytest.approx(expected, abs=0.01), site
        assert records[site, "proj_available"] == 1.0
        assert {f"head{head}.snr_proj_db" for head in range(heads)} <= {
            key for at, key in records if at == site
        }
