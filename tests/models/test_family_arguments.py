"""Arguments of families, their meanings, and the words of timm for them."""

import inspect
import re

import pytest

from aggnets_jax import create_model, list_families, list_models, model_info
from aggnets_jax.main import main
from aggnets_jax.models.family_arguments import list_arguments
from aggnets_jax.models.registry import find_family
from tests.patterns import one_line_error


def test_arguments_have_types_defaults_and_meanings():
    arguments = model_info("densenet_bc16_k4").arguments
    assert arguments["dropout"] == ("float", 0.0, arguments["dropout"].meaning)
    assert arguments["topology"].default == "dense"  # of this family
    assert arguments["depth"].type == "int | None"
    assert (
        arguments["pool"].meaning == '"global", or "flatten" for the head of Table 4\'s networks.'
    )
    assert arguments["num_classes"].default is inspect.Parameter.empty


@pytest.mark.parametrize("family", list_families())
def test_every_argument_of_every_family_is_explained(family):
    arguments = list_arguments(find_family(family).build)
    assert {"num_classes", "dtype"} <= arguments.keys()
    for argument in arguments.values():
        assert argument.meaning
        # A reader of the list sees no code, only the other arguments and configs.
        named = re.findall(r"`([^`]+)`", argument.meaning)
        assert all(name in {*arguments, "None"} or name.startswith("config.") for name in named)
        assert not re.search(
            r"see above|see the|likewise|as the (next|others|rest)", argument.meaning
        )


def test_types_are_written_as_in_the_code():
    arguments = list_arguments(find_family("densenet").build)
    types = {name: argument.type for name, argument in arguments.items()}
    assert types["topology"] == "TopologyLike" and types["topology_args"] == "TopologyArgs"
    assert types["dtype"] == "DTypeLike" and types["num_classes"] == "int"
    assert types["unit"] == "str | Callable[..., Module] | None"
    assert types["growth_rate"] == "int | Sequence[int]"


def test_a_network_is_described_with_its_arguments(capsys):
    assert main(["models", "densenet_bc16_k4"]) == 0
    out = capsys.readouterr().out
    assert "arguments of densenet_bc, for create_model" in out
    assert "\n  dropout: float = 0.0\n      probability of dropping a channel" in out
    assert "\n  num_classes: int\n" in out and "\n  dtype: DTypeLike = float32\n" in out


@pytest.mark.parametrize(
    ("word", "value", "here"),
    [
        ("pretrained", True, "weights are read by aggnets convert"),
        ("in_chans", 1, "the images at model.init have the channels"),
        ("img_size", 224, "the images at model.init have the size"),
        ("drop_rate", 0.1, "the family drops no features"),
        ("drop_path_rate", 0.1, "here it is 'stochastic_depth'"),
        ("global_pool", "avg", "the head averages over positions"),
    ],
)
def test_words_of_timm_are_pointed_to_ours(word, value, here):
    message = one_line_error(create_model, "resnet18", **{word: value})
    assert message.startswith(f"resnet18 has no argument {word!r} of timm: ") and here in message


def test_other_families_have_other_words():
    message = one_line_error(create_model, "densenet_bc16_k4", drop_rate=0.1)
    assert message.endswith("here it is 'dropout'")
    message = one_line_error(create_model, "efficientnet_b0", drop_path_rate=0.1)
    assert message.endswith("here it is 'drop_connect'")
    assert "endpoints['pre_logits']" in one_line_error(create_model, "resnet18", 0)


def test_an_unknown_argument_lists_what_there_is():
    message = one_line_error(create_model, "resnet18", zzz=0.1, topology="dense")
    assert message.startswith("resnet18 has no argument 'zzz'; it has: ")
    assert "stochastic_depth" in message
    message = one_line_error(create_model, "resnet18", topolgy="dense")
    assert "; nearest: topology" in message and "; it has: " in message


def test_several_patterns_list_each_network_once():
    both = list_models("sparsenet40*", "sparsenet4*", "resnet18")
    assert both == sorted({*list_models("sparsenet4*"), *list_models("resnet18")})
    assert list_models() == list_models("*")
    assert list_models(["sparsenet4*", "resnet18"]) == both


def test_a_name_that_is_not_there_lists_names(capsys):
    assert "allowed: " in one_line_error(create_model, "qqqqqqqq")
    assert main(["models", "qq*", "zz*"]) == 2
    assert "no network is named like 'qq*', 'zz*'" in capsys.readouterr().err
