"""What a capture promises, over the whole zoo, and that each tensor is the right one."""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from sites.zoo import ZOO, Checkpointed, Gate, Residual, UNet, hooks_of, loss_of
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from qprobe.errors import InputError
from qprobe.models import build
from qprobe.quant import ScaledDotProduct, convert
from qprobe.records.schema import Role
from qprobe.sites import Capture, Sampling, Site, Tap, discover, select, trace

ANIMALS = pytest.mark.parametrize("name", list(ZOO))
FEW = Sampling(samples=2, heads=1, queries=3)


class Collected(list):
    """A receiver that keeps copies."""

    def __call__(self, site, tensor):
        assert not tensor.requires_grad
        assert not torch.is_grad_enabled()
        self.append((site, tensor.clone()))

    def of(self, text):
        return [tensor for site, tensor in self if str(site) == text]

    def one(self, text):
        (tensor,) = self.of(text)
        return tensor


def everything(model, args, kwargs):
    """All sites that there are, and the trace that they need."""
    found = trace(model, *args, **kwargs)
    return [*discover(model), *found.sites], found


def train(model, args, kwargs, steps=2):
    """Outputs of a few steps of training, and all that a model then is."""
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(*args, **kwargs)
        loss_of(output).backward()
        seen += [t.detach().clone() for t in tree_leaves(output) if torch.is_tensor(t)]
        seen += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
    state = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    return [*seen, *state, torch.random.get_rng_state()]


def assert_same_bits(one, other):
    assert len(one) == len(other)
    assert all(map(torch.equal, one, other))


@ANIMALS
def test_training_has_the_same_bits_and_every_site_is_seen(name):
    args, kwargs = ZOO[name].inputs()
    plain = train(ZOO[name].model(), args, kwargs)
    model = ZOO[name].model()
    sites, found = everything(model, args, kwargs)
    seen = Collected()
    with Capture(model, sites, seen, trace=found, sampling=FEW) as capture:
        watched = train(model, args, kwargs)
        capture.read_weights()
    assert_same_bits(plain, watched)
    assert capture.missed == ()
    assert hooks_of(model) == 0
    assert not torch.overrides._is_torch_function_mode_enabled()
    assert {site for site, _ in seen} >= set(sites)


# Hooks take PyTorch's encoder layer off its fused path: it has a test of its own.
@pytest.mark.parametrize("name", [name for name in ZOO if name != "multihead"])
def test_evaluation_without_gradients(name):
    args, kwargs = ZOO[name].inputs()
    model = ZOO[name].model().eval()
    sites, found = everything(model, args, kwargs)
    with torch.no_grad():
        plain = model(*args, **kwargs)
        with Capture(model, sites, Collected(), trace=found) as capture:
            watched = model(*args, **kwargs)
    assert_same_bits(tree_leaves(plain), tree_leaves(watched))
    gradients = {Role.GRAD_OUTPUT, Role.BRANCH, Role.WEIGHT, Role.GRAD_WEIGHT}
    assert {site.role for site in capture.missed} <= gradients
    assert hooks_of(model) == 0


def test_the_encoder_layer_leaves_its_fused_path_in_evaluation():
    args, _ = ZOO["multihead"].inputs()
    model = ZOO["multihead"].model().eval()
    with torch.no_grad():
        plain = model(*args)
        with Capture(model, discover(model), Collected()):
            torch.testing.assert_close(model(*args), plain, rtol=1e-5, atol=1e-6)


def test_no_hook_stays_after_an_exception():
    model = Residual()
    found = trace(model, torch.randn(1, 3, 6, 6))

    def failing(site, tensor):
        raise RuntimeError("no more")

    capture = Capture(model, [*discover(model), *found.sites], failing, trace=found)
    with pytest.raises(RuntimeError, match="no more"), capture:
        model(torch.randn(1, 3, 6, 6))
    assert hooks_of(model) == 0
    assert not torch.overrides._is_torch_function_mode_enabled()
    model(torch.randn(1, 3, 6, 6)).sum().backward()


def test_gradients_that_come_after_leaving_are_not_seen():
    model, seen = Residual(), Collected()
    x = torch.randn(1, 3, 6, 6)
    found = trace(model, x)
    with Capture(model, [*discover(model), *found.sites], seen, trace=found):
        output = model(x)
    before = len(seen)
    output.sum().backward()
    assert len(seen) == before


def test_no_graph_is_kept_alive():
    model, x = Residual(), torch.randn(1, 3, 6, 6)
    found = trace(model, x)
    kept = []
    with Capture(model, [*discover(model), *found.sites], lambda *_: None, trace=found) as capture:
        for _ in range(3):
            output = model(x)
            output.sum().backward()
            kept.append(weakref.ref(output))
            del output
        gc.collect()
        assert [ref() for ref in kept] == [None] * 3
        model(x)
        # Handles of finished steps are dropped when the next begins.
        assert len(capture._gradients) < 30


def residual_gradients(model, x):
    """The gradients of the residual zoo model's branches, by autograd on a copy of its forward."""
    stem = model.stem(x)
    deep, skip = stem.clone(), stem.clone()
    y = model.conv2(model.act(model.norm(model.conv1(deep)))) + model.down(skip)
    y = F.relu(y)
    last, plain = y.clone(), y.clone()
    out = F.relu(model.last(last) + plain)
    return torch.autograd.grad(loss_of(out), [deep, skip, last, plain, stem, y])


def test_branches_of_additions_have_the_gradient_where_they_leave_the_shared_tensor():
    torch.manual_seed(0)
    model, x, seen = Residual(), torch.randn(2, 3, 6, 6), Collected()
    found = trace(model, x)
    deep, skip, last, plain, stem, joined = residual_gradients(model, x)
    with Capture(
        model, [*found.sites, Site("stem", Role.GRAD_OUTPUT, "conv2d")], seen, trace=found
    ):
        loss_of(model(x)).backward()
    expected = {"./add.0 branch[0]": deep, "./add.0 branch[1]": skip}
    expected |= {"./add.1 branch[0]": last, "./add.1 branch[1]": plain}
    for name, gradient in expected.items():
        torch.testing.assert_close(seen.one(f"add {name}"), gradient)
    # The shared tensor's gradient is that of its branches together.
    total = seen.one("conv2d stem grad_output")
    torch.testing.assert_close(total, stem)
    torch.testing.assert_close(total, deep + skip)
    torch.testing.assert_close(joined, last + plain)
    assert not torch.allclose(deep, skip)


def test_a_branch_that_leaves_in_several_calls_has_their_sum():
    class Handwritten(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.q, self.k = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            x = self.stem(x)
            return x + self.q(x * x).tanh() * self.k(x).sigmoid()

    torch.manual_seed(0)
    model, x, seen = Handwritten(), torch.randn(3, 4), Collected()
    found = trace(model, x)
    site = Site("./add.0", Role.BRANCH, "add", 1)
    loss_of(model(x)).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with Capture(model, [site], seen, trace=found):
        loss_of(model(x)).backward()
    assert len(found.fusions[1].branches[1].exits) == 3
    assert_same_bits(plain, [p.grad for p in model.parameters()])
    shared = model.stem(x).detach().requires_grad_()
    inner = model.q(shared * shared).tanh() * model.k(shared).sigmoid()
    (expected,) = torch.autograd.grad(loss_of(model.stem(x) + inner), shared)
    torch.testing.assert_close(seen.one(str(site)), expected)


def test_branches_of_concatenations_and_gates_have_the_gradient_of_their_operand():
    torch.manual_seed(0)
    model, seen = UNet(), Collected()
    image = torch.randn(2, 3, 8, 8)
    found = trace(model, image=image)
    sites = [*found.sites, Site("head", Role.GRAD_OUTPUT, "conv2d")]
    with Capture(model, sites, seen, trace=found):
        loss_of(model(image=image)).backward()
    grad = seen.one("conv2d head grad_output")
    joined = F.conv_transpose2d(grad, model.head.weight)
    torch.testing.assert_close(seen.one("cat ./cat.0 branch[0]"), joined[:, :4])
    torch.testing.assert_close(seen.one("cat ./cat.0 branch[1]"), joined[:, 4:])


def test_a_gate_and_a_tap():
    torch.manual_seed(0)
    model, x, seen = Gate(), torch.randn(3, 4), Collected()
    found = trace(model, x)
    sites = [*select(found.sites, "./mul.3"), *select(discover(model), kind="tap")]
    with Capture(model, sites, seen, trace=found):
        loss_of(model(x)).backward()
    grad = seen.one("tap ./fused grad_output")
    h = model.value(x) * model.control(x).sigmoid()
    h = h * h.sigmoid()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)
    a, b = model.glu(h).chunk(2, -1)
    torch.testing.assert_close(seen.one("gate ./mul.3 branch[1]"), grad * F.silu(a))
    torch.testing.assert_close(seen.one("gate ./mul.3 branch[0]"), grad * b)
    torch.testing.assert_close(seen.one("tap ./fused output"), F.silu(a) * b)


def test_module_sites_are_the_tensors_of_the_layer():
    torch.manual_seed(0)
    model, x, seen = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True)), torch.randn(2, 4), []
    seen = Collected()
    with Capture(model, discover(model), seen) as capture:
        model(x).sum().backward()
        capture.read_weights()
    y = F.linear(x, model[0].weight, model[0].bias)
    assert torch.equal(seen.one("linear 0 input"), x)
    assert torch.equal(seen.one("linear 0 output"), y)  # before it is overwritten
    assert torch.equal(seen.one("linear 0 grad_output"), (y > 0).float())
    assert torch.equal(seen.one("linear 0 weight"), model[0].weight)
    assert torch.equal(seen.one("linear 0 grad_weight"), model[0].weight.grad)


def test_calls_of_one_module_are_numbered_in_every_pass():
    args, _ = ZOO["twice"].inputs()
    model, seen = ZOO["twice"].model(), Collected()
    sites = [Site("layer", role, "linear") for role in (Role.INPUT, Role.GRAD_OUTPUT)]
    with Capture(model, sites, seen):
        for _ in range(2):
            loss_of(model(*args)).backward()
    names = [str(site) for site, _ in seen]
    one = ["input", "input[1]", "grad_output[1]", "grad_output"]
    assert names == [f"linear layer {name}" for name in one * 2]
    assert torch.equal(seen.of("linear layer input")[0], args[0])


def selective(x, block):
    def policy(_, op, *args, **kwargs):
        saved = op in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )


class Selective(Checkpointed):
    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = selective(x, block)
        return x


@pytest.mark.parametrize("kind", ["none", "plain", "reentrant", "selective"])
def test_nothing_is_counted_twice_under_checkpointing(kind):
    def make():
        torch.manual_seed(0)
        if kind == "selective":
            return Selective()
        model = Checkpointed(reentrant=kind == "reentrant")
        return model if kind != "none" else nn.Sequential(model.stem, *model.blocks)

    def receive(site, tensor):
        seen(site, torch.addmm(torch.zeros(()), tensor, tensor.mT))  # which selective ones count

    x, seen = torch.randn(3, 4), Collected()
    model = make()
    found = trace(model, x)
    assert len(found.fusions) == (0 if kind == "reentrant" else 2)
    sites = [site for site in discover(model) if site.role not in (Role.WEIGHT, Role.GRAD_WEIGHT)]
    plain = train(make(), (x,), {})
    with Capture(model, [*sites, *found.sites], receive, trace=found) as capture:
        watched = train(model, (x,), {})
    assert_same_bits(plain, watched)
    assert capture.missed == ()
    assert len(seen) == 2 * len(set(sites) | set(found.sites))


def test_gradient_accumulation_numbers_each_pass_by_itself():
    model, x, seen = Checkpointed(), torch.randn(3, 4), Collected()
    found = trace(model, x)
    sites = [*select(found.sites, kind="add"), Site("stem", Role.GRAD_OUTPUT, "linear")]
    with Capture(model, sites, seen, trace=found):
        (loss_of(model(x)) + loss_of(model(2 * x))).backward()
    assert len(seen) == 2 * len(sites)
    assert {site for site, _ in seen} == set(sites)


def masked(kind):
    q, k, v = (torch.randn(3, 2, 5, 4, requires_grad=True) for _ in range(3))
    bias = {"none": None, "bool": torch.rand(5, 5) > 0.3, "added": torch.randn(3, 1, 5, 5)}[kind]
    if kind == "bool":
        bias |= torch.eye(5, dtype=torch.bool)
    return q, k, v, bias


@pytest.mark.parametrize("kind", ["none", "bool", "added"])
@pytest.mark.parametrize("recipe", [None, "nvfp4"])
def test_logits_of_our_attention_give_its_output(kind, recipe):
    torch.manual_seed(0)
    model, seen = nn.Sequential(ScaledDotProduct()), Collected()
    if recipe:
        model.append(nn.Linear(4, 4))
        convert(model, recipe, layers="all")
    q, k, v, bias = masked(kind)
    product = model[0]
    sampling = Sampling(samples=None, heads=None, queries=None)
    with Capture(model, select(discover(model), "0"), seen, sampling=sampling):
        output = product(q, k, v, bias)
        output.sum().backward()
    probabilities = seen.one("attention 0 attn_probs")
    torch.testing.assert_close(probabilities @ v, output)
    assert torch.equal(seen.one("attention 0 input[2]"), v)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("extra", [{}, {"add_zero_attn": True, "add_bias_kv": True}, {"kdim": 6}])
@pytest.mark.parametrize("mask", [None, "added", "heads", "padding"])
def test_probabilities_of_multihead_attention_are_its_own(batch_first, extra, mask):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, **extra)
    model, seen = nn.ModuleDict({"attn": layer}), Collected()
    query, value = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    key = torch.randn(3, 7, extra.get("kdim", 8))
    masks = {
        None: {},
        "added": {"attn_mask": torch.randn(5, 7)},
        "heads": {"attn_mask": torch.rand(6, 5, 7) > 0.9},
        "padding": {"key_padding_mask": torch.arange(7).expand(3, 7) > 4},
    }[mask]
    inputs = [x if batch_first else x.transpose(0, 1) for x in (query, key, value)]
    sampling = Sampling(samples=None, heads=None, queries=None)
    with Capture(model, discover(model), seen, sampling=sampling):
        output, weights = layer(*inputs[:2], value=inputs[2], average_attn_weights=False, **masks)
        output.sum().backward()
    torch.testing.assert_close(seen.one("attention attn attn_probs"), weights)
    assert torch.equal(seen.one("linear attn.in_proj input"), inputs[0])
    assert torch.equal(seen.one("linear attn.out_proj output"), output)
    assert torch.equal(seen.one("linear attn.out_proj grad_output"), torch.ones_like(output))


def test_plain_attention_hands_over_what_it_computes():
    torch.manual_seed(0)
    model, x, seen = ZOO["plain attention"].model().eval(), torch.randn(3, 5, 6), Collected()
    found = trace(model, x)
    sampling = Sampling(samples=None, heads=None, queries=None)
    sites = select(found.sites, kind="attention")
    with Capture(model, sites, seen, trace=found, sampling=sampling):
        output = model(x)
    q, k, v = (seen.one(f"attention ./matmul.0 input{n}") for n in ("", "[1]", "[2]"))
    logits = seen.one("attention ./matmul.0 attn_logits")
    torch.testing.assert_close(logits, q @ k.mT + model.table)
    p = seen.one("attention ./matmul.0 attn_probs")
    torch.testing.assert_close(p, logits.softmax(-1))
    heads = (p @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(output, model.embed(x) + model.proj(heads))


def test_tied_weights_and_calls_outside_the_model_are_fine():
    model, seen = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}), Collected()
    with Capture(model, select(discover(model), role=Role.OUTPUT), seen) as capture:
        model["b"](model["a"](torch.ones(1, 4)))
    assert capture.missed == ()


def test_what_did_not_happen_is_said():
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "idle": nn.Linear(4, 4)})
    sites = select(discover(model), role=Role.OUTPUT)
    with Capture(model, sites, Collected()) as capture:
        model["used"](torch.ones(1, 4))
    assert [str(site) for site in capture.missed] == ["linear idle output"]


def test_autocast_hands_over_what_the_layer_was_given():
    model, seen = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), Collected()
    with Capture(model, discover(model), seen), torch.autocast("cpu", torch.bfloat16):
        model(torch.ones(2, 4)).float().sum().backward()
    assert seen.one("linear 0 input").dtype is torch.float32
    assert seen.one("linear 1 input").dtype is torch.bfloat16
    assert seen.one("linear 1 grad_output").dtype is torch.bfloat16


def test_a_site_that_the_model_has_not_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"has no site 'conv2d head input'.*pass the trace"):
        Capture(model, [Site("head", Role.INPUT, "conv2d")], Collected())


def test_branches_of_a_compiled_model_are_refused():
    model = Residual()
    found = trace(model, torch.randn(1, 3, 6, 6))
    model.conv1.compile(backend="eager")
    with pytest.raises(InputError, match=r"'conv1' is compiled; put a qprobe\.sites\.Tap"):
        Capture(model, found.sites, Collected(), trace=found)


def test_a_capture_can_be_entered_again():
    model, seen = nn.Linear(2, 2), Collected()
    capture = Capture(model, select(discover(model), role=Role.OUTPUT), seen)
    for _ in range(2):
        with capture:
            model(torch.ones(1, 2))
        model(torch.ones(1, 2))
    assert len(seen) == 2


def test_both_halves_of_our_networks_are_reached():
    model, x = build("vit", "tiny", image=32), torch.randn(2, 3, 32, 32)
    found, seen = trace(model, x), Collected()
    with Capture(model, found.sites, seen, trace=found):
        model(x).sum().backward()
    assert len(seen) == 16


def test_taps_see_only_what_flows_through_them():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.tap = nn.Linear(2, 2), Tap("inner")

        def forward(self, x):
            x = self.stem(x)
            return 3 * x + 2 * self.tap(x)

    model, seen = Model(), Collected()
    with Capture(model, discover(model), seen):
        model(torch.ones(1, 2)).sum().backward()
    assert seen.one("tap ./inner grad_output").tolist() == [[2.0, 2.0]]
    assert seen.one("linear stem grad_output").tolist() == [[5.0, 5.0]]


@pytest.mark.parametrize(
    "layer", [nn.InstanceNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), Tap("x")]
)
def test_gradients_before_an_activation_in_place(layer):
    model, seen, x = nn.Sequential(layer, nn.ReLU(inplace=True)), Collected(), torch.randn(3, 4, 4)
    x = x if isinstance(layer, nn.Conv2d) else x.unsqueeze(0)
    x.requires_grad_()
    with Capture(model, select(discover(model), role=Role.GRAD_OUTPUT), seen) as capture:
        output = model(x)
        output.sum().backward()
    assert capture.missed == ()
    assert torch.equal(seen[0][1], (output > 0).float())


@pytest.mark.parametrize(
    ("begin", "gradient"),
    [
        (lambda s: F.relu(s.clone(), inplace=True), lambda s: (s > 0).float()),
        (lambda s: s.clone().mul_(2), lambda s: torch.full_like(s, 2.0)),
    ],
)
def test_branches_that_begin_in_place(begin, gradient):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
            nn.init.eye_(self.inner.weight)

        def forward(self, x):
            s = self.stem(x)
            return s + self.inner(begin(s))

    model, seen, x = Model(), Collected(), torch.randn(3, 4)
    found = trace(model, x)
    with Capture(model, found.sites, seen, trace=found) as capture:
        model(x).sum().backward()
    assert capture.missed == ()
    torch.testing.assert_close(seen.one("add ./add.0 branch[1]"), gradient(model.stem(x)))
    assert torch.equal(seen.one("add ./add.0 branch[0]"), torch.ones(3, 4))


def test_gradients_of_two_devices_know_their_passes():
    """Backward has a thread for each device; what one hands over is no matter of the other."""
    entered, left, seen = threading.Event(), threading.Event(), []

    def receive(site, tensor):
        first = not seen
        seen.append(capture.passing)
        if first:
            other.start()
            entered.wait(0.2)  # unless it has to wait
        else:
            entered.set()
            left.wait(0.2)

    model = nn.Sequential(nn.Linear(2, 2))
    site = Site("0", Role.GRAD_OUTPUT, "linear")
    gradient = torch.ones(1, 2)
    with Capture(model, [site], receive) as capture:
        capture.passing = 7
        other = threading.Thread(target=capture._deliver_of, args=(site, 4, None, gradient))
        capture._deliver_of(site, 3, None, gradient)
        left.set()
        other.join()
        assert (seen, capture.passing) == ([3, 4], 7)
