"""The networks in PyTorch compute what ours do."""

import copy
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model, list_families
from aggnets_jax.connectivity.topology import make_topology
from aggnets_jax.errors import UserError
from tests.marks import slow_but
from tests.models.straight_line import jit
from tests.models.tiny import TINY
from tests.models.variables import random_variables
from tests.patterns import one_line_error

torch = pytest.importorskip("torch")

from aggnets_jax.benchmark.torch_networks import create, load_variables, published  # noqa: E402
from aggnets_jax.benchmark.torch_networks.parts import Stage, add  # noqa: E402

LABELS = np.array([0, 1, 2, 3])
# Of a class each, where they compile soon.
QUICK = ("dsnet_cifar_bn", "fractalnet", "highway", "sparsenet_bc", "sparsenet_sum", "wrn")
# Other arguments than those that names give.
VARIANTS = [
    ("densenet", {"topology": "windowed", "topology_args": {"window": 2}}),
    ("densenet", {"topology": "random", "groups": 2}),
    ("dpn", {"topology": "sparse", "head_activation": "elu"}),
    ("ds2net_cifar", {"shortcut_norm": "batch", "topology": "sparse"}),
    ("ds2net_cifar", {"shortcut_norm": "instance", "shortcut_weights": False}),
    ("fractalnet", {"stage_depths": (2, 4)}),
    ("fractalnet", {"topology": "dense"}),
    ("hardnet", {"depthwise": True}),
    ("hcgnet", {"gate_activation": "relu", "update_reductions": (4, 2), "multiplier": 3}),
    ("highway", {"topology": "sparse"}),
    ("log_densenet_v2", {"topology": "sparse"}),
    ("mdnet", {"growing": False, "final_relu": False, "topology": "sparse"}),
    ("mixnet", {"topology": "sparse"}),
    ("mixnet", {"k1": 0}),
    ("preact_resnet", {"topology": "plain"}),
    ("preact_resnet", {"topology": "windowed", "topology_args": {"window": 3}}),
    ("pyramidnet", {"topology": "dense"}),
    ("res2net", {"scale_topology": "dense"}),
    ("res2net", {"opening_pool": False, "attention": "cbam"}),
    ("resnet", {"block": "basic", "width": 50}),
    ("resnet_cifar", {"topology": "sparse", "aggregation": "mean"}),
    ("resnet_cifar", {"topology": "windowed", "shortcut_sources": "blocks"}),
    ("seqresnet", {"topology": "random"}),
    ("sparsenet_imagenet", {"pool": "global"}),
    ("wrn", {"widening": 2, "topology": "dense"}),
]
# One by its name of each class, and the size of its images.
NAMED = {
    "densenet40_k12": 32,
    "dpn68": 64,
    "dsnet50_cifar_w25": 32,
    "efficientnet_b0": 64,
    "fractalnet20_w16": 32,
    "hardnet68": 64,
    "hcgnet_a1": 32,
    "highway19": 32,
    "mdnet30_a64": 32,
    "mixnet105": 64,
    "preact_resnet56": 32,
    "pyramidnet110_a48": 32,
    "res2net50_26w_4s": 64,
    "resnet110_cifar": 32,
    "seqresnet_k8_r4_n1": 32,
    "sparsenet_bc100_k12": 32,
    "sparsenet121_k32": 64,
    "wrn40_1": 32,
}


def make(name, size, classes, dtype, channels=3, **arguments):
    """Our network, its variables, images, and the module with these variables in it."""
    model = create_model(name, classes, **arguments, dtype=dtype)
    variables = random_variables(model, size, dtype, channels)
    images = np.random.default_rng(1).standard_normal((4, size, size, channels)).astype(dtype)
    module = create(name, classes, **arguments, input_shape=(size, size, channels))
    module = module.to(torch.from_numpy(images).dtype)
    load_variables(module, variables)
    return model, variables, images, module


def tiny(name, **overrides):
    arguments, size = TINY[name]
    return make(name, size, 5, np.float64, **{**arguments, **overrides})


def torch_logits(module, images, train):
    return module.train(train)(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))


def jax_logits(model, variables, images, train):
    """With them, the variables afterwards."""
    (logits, _), after = model.apply(variables, images, train=train, mutable=["batch_stats"])
    return logits, after


def logits_of_both(model, variables, images, module):
    """By mode, those of JAX and of PyTorch."""
    apply = jit(jax_logits, static_argnums=(0, 3))
    modes = {"eval": False, "train": True}
    with torch.no_grad():
        theirs = {m: torch_logits(module, images, train).numpy() for m, train in modes.items()}
    return {m: (apply(model, variables, images, t)[0], theirs[m]) for m, t in modes.items()}


# Families of cells and and-or graphs, which are not compared with PyTorch's speed.
MISSING = {
    "amoebanet_a_cifar",
    "amoebanet_b_cifar",
    "aognet",
    "enasnet_cifar",
    "enasnet_cifar_nao",
    "nasnet_a_cifar",
    "nasnet_a_imagenet",
    "pnasnet_cifar",
    "pnasnet_cifar_nao",
}


def test_there_is_a_network_of_every_other_family():
    for name in list_families():
        arguments, size = TINY[name]
        if name not in MISSING:
            create(name, 5, **arguments, input_shape=(size, size, 3))
            continue
        with pytest.raises(UserError, match=f"there is no '{name}' in PyTorch here"):
            create(name, 5, **arguments, input_shape=(size, size, 3))


@pytest.mark.parametrize("name", slow_but(sorted(set(TINY) - MISSING), QUICK))
def test_logits_and_gradients_are_ours(name):
    with jax.enable_x64(True):
        model, variables, images, module = tiny(name)

        def losses(params):
            rest = {**variables, "params": params}
            logits, after = jax_logits(model, rest, images, True)
            logs = jax.nn.log_softmax(logits)[jnp.arange(len(LABELS)), LABELS]
            return -logs.sum(), (logits, after)

        def both(params):
            evaluated, _ = jax_logits(model, variables, images, False)
            return evaluated, jax.value_and_grad(losses, has_aux=True)(params)

        evaluated, ((_, (trained, after)), gradients) = jit(both)(variables["params"])

    with torch.no_grad():
        logits = torch_logits(module, images, False).numpy()
    np.testing.assert_allclose(logits, evaluated, atol=1e-9)
    logits = torch_logits(module, images, True)
    np.testing.assert_allclose(logits.detach().numpy(), trained, atol=1e-9)

    torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), reduction="sum").backward()
    ours = copy.deepcopy(module)
    load_variables(ours, {"params": gradients, "batch_stats": after.get("batch_stats", {})})
    largest = max(gradient.abs().max().item() for gradient in ours.parameters())
    for key, gradient in ours.named_parameters():
        difference = (module.get_parameter(key).grad - gradient).abs().max().item()
        assert difference <= 1e-9 * max(1, largest), key
    for key, mean in ours.named_buffers():
        if key.endswith("running_mean"):
            np.testing.assert_allclose(module.get_buffer(key), mean, atol=1e-9, err_msg=key)


def test_running_variances_are_unbiased_in_pytorch():
    with jax.enable_x64(True):
        model, variables, images, module = tiny("sparsenet_bc")
        _, after = jit(jax_logits, static_argnums=(0, 3))(model, variables, images, True)
    torch_logits(module, images, True)
    before = variables["batch_stats"]["head_norm"]["var"]
    ours = (np.asarray(after["batch_stats"]["head_norm"]["var"]) - 0.9 * before) / 0.1
    theirs = (module.head_norm.running_var.numpy() - 0.9 * before) / 0.1
    values = 4 * 2 * 2  # images of 8x8, halved twice
    np.testing.assert_allclose(theirs, ours * values / (values - 1), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_other_arguments(name, overrides):
    with jax.enable_x64(True):
        for ours, theirs in logits_of_both(*tiny(name, **overrides)).values():
            np.testing.assert_allclose(theirs, ours, atol=1e-9)


def test_images_of_one_channel():
    with jax.enable_x64(True):
        made = make("sparsenet", 8, 5, np.float64, channels=1, depth=10, growth_rate=4)
        for ours, theirs in logits_of_both(*made).values():
            np.testing.assert_allclose(theirs, ours, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), NAMED.items())
def test_named_networks_in_float32(name, size):
    logits = logits_of_both(*make(name, size, 10, np.float32))
    # In training each normalisation divides by the deviation of few values, in the gates of HCGNet
    # of four, by which rounding errors grow with depth.
    for mode, tolerance in [("eval", 1e-4), ("train", 2e-2)]:
        ours, theirs = logits[mode]
        np.testing.assert_allclose(theirs, ours, atol=tolerance * np.abs(ours).max())


def test_bfloat16_stays_bfloat16_between_the_layers():
    """Where autocast would go on in float32: N and W of DSNet."""
    arguments, size = TINY["ds2net_cifar"]
    module = create("ds2net_cifar", 5, **arguments, input_shape=(size, size, 3)).train()
    dtypes = set()
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_pre_hook(lambda _, inputs: dtypes.add(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.zeros(2, 3, size, size, dtype=torch.bfloat16))
    assert dtypes == {torch.bfloat16}


def test_a_stage_lets_go_of_outputs_behind_their_last_reader():
    alive = []

    class Layer(torch.nn.Module):
        def forward(self, x):
            alive.append(weakref.ref(x))
            held.append(sum(each() is not None for each in alive))
            return x + 1

    for name, most in [("plain", 1), ("dense", 1), ("sparse", 3)]:
        held = []
        alive.clear()
        stage = Stage(make_topology(name, 8).sources, [Layer() for _ in range(8)], add)
        with torch.no_grad():
            stage(torch.zeros(1, 1, 2, 2))
        assert max(held) <= most + 1


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("densenet", {"dropout": 0.2}, "no dropout, got 0.2"),
        ("densenet", {"aggregation": "mean"}, "the aggregation 'concat' only, got 'mean'"),
        ("fractalnet", {"drop_path": 0.1}, "no drop_path"),
        ("hcgnet", {"dropblock": 2}, "no dropblock"),
        ("mdnet", {"aggregation": "padded_sum"}, "the aggregation 'concat' only"),
        ("googlenet_cifar", {"auxiliary_weight": 0.3}, "no auxiliary_weight, got 0.3"),
        ("dsn_cifar", {"companions": 0.1}, "no companions, got 0.1"),
        ("resnet_cifar", {"attention": "gates"}, "there is no 'resnet_cifar' in PyTorch here"),
        ("densnet", {}, "unknown model 'densnet'; nearest: densenet"),
        ("densenet", {"input_shape": (8, 8)}, "input_shape"),
    ],
)
def test_what_is_not_there_is_refused(name, overrides, message):
    arguments, size = TINY.get(name, ({}, 8))
    arguments = {"input_shape": (size, size, 3), **arguments, **overrides}
    assert message in one_line_error(create, name, 5, **arguments)


def test_variables_that_do_not_fit_are_refused():
    arguments, size = TINY["sparsenet"]
    _, variables, _, module = make("sparsenet", size, 5, np.float32, **arguments)
    params, stats = variables["params"], variables["batch_stats"]
    more = {"params": {**params, "more": {"kernel": np.zeros(1)}}, "batch_stats": stats}
    assert "no place for 'more/kernel'" in one_line_error(load_variables, module, more)
    message = one_line_error(load_variables, module, {"params": params})
    assert "no variable fills 18 places, 'stage1.layer1.norm1.running_mean' first" in message
    kernel = {"kernel": params["stem_conv"]["kernel"][..., :3]}
    other = {"params": {**params, "stem_conv": kernel}, "batch_stats": stats}
    message = one_line_error(load_variables, module, other)
    assert "'stem_conv/kernel' has the shape (3, 3, 3, 3) in PyTorch's order" in message


def test_no_published_network_without_a_library_or_of_another_name(monkeypatch):
    assert published("densenet40_k12") is None
    for library in ("torchvision", "torchvision.models", "timm"):
        monkeypatch.setitem(sys.modules, library, None)
    assert published("resnet50") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["densenet121", "efficientnet_b0", "resnet50", "resnext50_32x4d", "wide_resnet50_2"],
)
def test_published_networks_compute_the_same(name):
    if published(name) is None:
        pytest.skip("neither torchvision nor timm is installed")
    _, variables, images, module = make(name, 64, 1000, np.float32)
    with torch.no_grad():
        ours = torch_logits(module, images, False)
        theirs = torch_logits(published(name, variables), images, False)
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * ours.abs().max())
