"""Adapters such as LoRA, wrapped around layers of a model that nobody here wrote."""

import warnings

import numpy as np
import pytest
import torch
from sites.foreign import transformers
from torch import nn

import qprobe
from qprobe.sites import discover

#: Of layers that a frozen model has no gradient of, and from inside PEFT.
pytestmark = [
    pytest.mark.filterwarnings("ignore:planned and never seen:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Adapted(nn.Module):
    """As PEFT wraps a layer."""

    def __init__(self, layer, inputs, outputs):
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, 4, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(4, outputs, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + 2.0 * self.lora_B["default"](self.lora_A["default"](x))


def gpt2():
    hf = transformers()
    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return hf.GPT2LMHeadModel(config)


def adapted_by_hand():
    model = gpt2().requires_grad_(False)
    torch.manual_seed(1)
    for block in model.transformer.h:
        block.attn.c_attn = Adapted(block.attn.c_attn, 32, 96)
        block.attn.c_proj = Adapted(block.attn.c_proj, 32, 32)
    return model


def with_peft(kind):
    try:
        peft = pytest.importorskip("peft", reason="PEFT is not installed")
    except RuntimeError as error:  # of a library that PEFT looks for
        pytest.skip(f"PEFT cannot be imported: {error}")
    layers = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    if kind == "ia3":
        config = peft.IA3Config(**layers, feedforward_modules=["c_proj"])
    else:
        config = peft.LoraConfig(**layers, r=4, use_dora=kind == "dora")
    torch.manual_seed(1)
    model = peft.get_peft_model(gpt2(), config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            nn.init.normal_(parameter, std=0.1)
    if kind == "merged":
        model.merge_adapter()
    return model


MAKE = {
    "by hand": adapted_by_hand,
    **{kind: lambda kind=kind: with_peft(kind) for kind in ("lora", "dora", "ia3", "merged")},
}


def trained(model, session=None):
    torch.manual_seed(2)
    ids = torch.randint(0, 64, (2, 12))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    kept = []
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids).loss
        if loss.requires_grad:
            loss.backward()
        kept += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
        optimizer.zero_grad()
        if session is not None:
            session.step(loss=loss)
    return kept


@pytest.mark.parametrize("make", MAKE)
def test_adapters_train_to_the_same_bits(make):
    plain = trained(MAKE[make]())
    model = MAKE[make]()
    with qprobe.attach(model, every=1) as session:
        seen = trained(model, session)
    assert len(plain) == len(seen)
    assert all(map(torch.equal, plain, seen))


@pytest.mark.parametrize("make", MAKE)
def test_an_attention_stays_one_when_its_projections_are_adapted(make):
    def attentions(model):
        return {site.path.split("transformer.")[1] for site in sites_of(model)}

    def sites_of(model):
        return [site for site in discover(model) if site.kind == "attention"]

    assert attentions(MAKE[make]()) == attentions(gpt2()) == {"h.0.attn", "h.1.attn"}


@pytest.mark.parametrize("make", MAKE)
def test_numbers_of_adapters_are_those_of_what_they_are_given(make):
    model = MAKE[make]().eval()
    given: dict[str, list[np.ndarray]] = {}
    for path, module in model.named_modules():
        if path.endswith((".base_layer", ".default")) and hasattr(module, "weight"):
            module.register_forward_hook(
                lambda _, args, __, path=path: given.setdefault(path, []).append(
                    args[0].detach().double().numpy().ravel()
                )
            )
    kinds = {site.path for site in discover(model)}
    with (
        warnings.catch_warnings(),
        qprobe.attach(model, probes=["moments"], every=1, evaluation=True) as session,
    ):
        with torch.no_grad():
            model(input_ids=torch.arange(24).view(2, 12))
        session.step()
    found = {(r.site, r.key): r.value for r in session.records() if r.role == "input"}
    seen = {path: np.concatenate(values) for path, values in given.items() if path in kinds}
    assert len([path for path in seen if path.endswith("base_layer")]) >= 4
    for path, values in seen.items():
        assert found[path, "n"] == values.size
        assert found[path, "std"] == pytest.approx(values.std(), rel=1e-5)
        assert found[path, "absmax"] == pytest.approx(np.abs(values).max(), rel=1e-6)
