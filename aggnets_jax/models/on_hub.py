"""The network that a repository on the Hugging Face Hub describes."""

from typing import Any

from aggnets_jax import config as config_lib
from aggnets_jax import hub
from aggnets_jax.arguments import check_whole_number
from aggnets_jax.errors import UserError


def network_on_hub(name: str) -> tuple[str, int | None, dict[str, Any]]:
    """Return the network of a repository for `create_model`: name, classes and other arguments.

    The number of classes is None if it is not told.

    Raises:
      UserError: if there is no such repository, or its `config.json` describes no network.
    """
    content = hub.read_config(name)
    if hub.OWN in content:
        if not isinstance(own := content[hub.OWN], dict):
            raise UserError(f"{hub.CONFIG} of {name} is damaged: {hub.OWN} must be a config")
        config = config_lib.resolve({**own, "plugins": ()})  # nobody else's modules are imported
        network, arguments = config.model.name, config_lib.model_arguments(config)
    elif content["architecture"].startswith("tf_"):  # timm's, which pad as TensorFlow does
        network, arguments = content["architecture"].removeprefix("tf_"), {"padding": "same"}
    else:
        network, arguments = content["architecture"], {}
    if (classes := content.get("num_classes")) is not None:
        check_whole_number(f"num_classes in {hub.CONFIG} of {name}", classes, 1)
    return network, classes, arguments
