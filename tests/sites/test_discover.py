from collections import Counter

import pytest
import torch
from sites.zoo import ZOO
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from qprobe.errors import InputError
from qprobe.models import build
from qprobe.quant import ScaledDotProduct, convert
from qprobe.records.schema import Role
from qprobe.sites import Site, Tap, aliases, discover, select

PASSING = [Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT]
LEARNED = [Role.WEIGHT, Role.GRAD_WEIGHT]


def found(module):
    sites = discover(nn.ModuleDict({"m": module}))
    assert {site.path for site in sites} <= {"m"}
    return {site.kind for site in sites}, [site.role for site in sites]


@pytest.mark.parametrize(
    ("module", "kind", "roles"),
    [
        (nn.Linear(2, 2), "linear", PASSING + LEARNED),
        (nn.Conv1d(2, 2, 1), "conv1d", PASSING + LEARNED),
        (nn.Conv2d(2, 2, 1), "conv2d", PASSING + LEARNED),
        (nn.Conv3d(2, 2, 1), "conv3d", PASSING + LEARNED),
        (nn.ConvTranspose1d(2, 2, 1), "conv_transpose1d", PASSING + LEARNED),
        (nn.ConvTranspose2d(2, 2, 1), "conv_transpose2d", PASSING + LEARNED),
        (nn.ConvTranspose3d(2, 2, 1), "conv_transpose3d", PASSING + LEARNED),
        (nn.Embedding(2, 2), "embedding", PASSING[1:] + LEARNED),
        (nn.EmbeddingBag(2, 2), "embedding", PASSING[1:] + LEARNED),
        (nn.LayerNorm(2), "norm", PASSING + LEARNED),
        (nn.LayerNorm(2, elementwise_affine=False), "norm", PASSING),
        (nn.BatchNorm2d(2), "norm", PASSING + LEARNED),
        (nn.SyncBatchNorm(2), "norm", PASSING + LEARNED),
        (nn.InstanceNorm3d(2), "norm", PASSING),
        (nn.GroupNorm(1, 2), "norm", PASSING + LEARNED),
        (nn.RMSNorm(2), "norm", PASSING + LEARNED),
        (ScaledDotProduct(), "attention", [Role.INPUT] * 3 + PASSING[1:] + [*Role][5:7]),
    ],
)
def test_kinds_and_roles(module, kind, roles):
    assert found(module) == ({kind}, roles)


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Dropout(), nn.Softmax(-1), nn.Identity()])
def test_what_has_no_sites(module):
    assert found(module) == (set(), [])


def test_multihead_attention_and_its_projections():
    sites = discover(nn.ModuleDict({"a": nn.MultiheadAttention(4, 2)}))
    assert [str(site) for site in sites] == [
        "attention a attn_logits",
        "attention a attn_probs",
        "linear a.in_proj input",
        "linear a.in_proj weight",
        "linear a.in_proj grad_weight",
        "linear a.out_proj output",
        "linear a.out_proj grad_output",
        "linear a.out_proj weight",
        "linear a.out_proj grad_weight",
    ]
    separate = discover(nn.MultiheadAttention(4, 2, kdim=3))
    assert Site("in_proj", Role.WEIGHT, "linear") not in separate


@pytest.mark.parametrize("architecture", ["cnn", "vit", "swin"])
@pytest.mark.parametrize("recipe", ["nvfp4", "int4-tensor"])
def test_a_converted_model_has_the_sites_of_the_plain_one(architecture, recipe):
    model = build(architecture, "tiny", image=32)
    plain = discover(model)
    convert(model, recipe, layers="all")
    assert discover(model) == plain


def test_a_written_norm_of_another_library_is_a_norm():
    class OwnRMSNorm(nn.Module):
        pass

    class PreNorm(nn.Sequential):
        """Holds a norm and is none."""

    assert found(OwnRMSNorm())[0] == {"norm"}
    assert {site.path for site in discover(PreNorm(nn.Linear(1, 1)))} == {"0"}


def test_a_weight_that_is_computed_has_no_sites():
    assert found(weight_norm(nn.Linear(2, 2)))[1] == PASSING


def test_a_shared_module_is_named_once_and_its_other_names_are_known():
    model = ZOO["twice"].model()
    assert Counter(site.path for site in discover(model)) == {"layer": 5, "head": 5}
    assert aliases(model) == {"head": ("alias",)}
    assert aliases(ZOO["multihead"].model()) == {"embed.weight": ("head.weight",)}


def test_taps_are_named_after_what_holds_them():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(1, 1), Tap("x")), "t": Tap("x")})
    assert [str(site) for site in discover(model) if site.kind == "tap"] == [
        "tap a/x output",
        "tap a/x grad_output",
        "tap ./x output",
        "tap ./x grad_output",
    ]


def test_two_taps_of_one_name_are_refused():
    with pytest.raises(InputError, match=r"two taps are named '\./x'"):
        discover(nn.Sequential(Tap("x"), Tap("x")))


def test_selection():
    sites = discover(build("cnn", "tiny"))
    picked = select(sites, "decoder.*", kind="norm", role=Role.OUTPUT)
    assert [site.path for site in picked] == [f"decoder.{n}.norm" for n in range(3)]
    assert select(discover(nn.Linear(1, 1)), ".", role=Role.WEIGHT)[0].path == ""


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"glob": "nowhere*"}, r"a path like 'nowhere\*'; there are linear \(5\), norm \(5\)"),
        ({"kind": "conv2d"}, "no site has the kind 'conv2d'"),
        ({"kind": "norm", "role": Role.BRANCH}, "the kind 'norm' and the role 'branch'"),
    ],
)
def test_a_selection_of_nothing_says_what_there_is(asked, message):
    sites = discover(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    with pytest.raises(InputError, match=message):
        select(sites, **asked)
    with pytest.raises(InputError, match="there are none at all"):
        select([])


def test_sites_are_found_without_memory_for_the_model():
    with torch.device("meta"):
        assert len(discover(nn.Sequential(nn.Linear(10**6, 10**6)))) == 5
