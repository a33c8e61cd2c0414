"""Parameters and operations of a detector, counted without running it.

Operations are counted as in mmdetection's `tools/get_flops.py`, which gave the numbers of HCGNet,
Table 4: for one image, 1000 RoIs in the box head and 100 in the mask head.

* a convolution: multiply-adds, and one addition for each value of the output if it has a bias;
* the transposed convolution: as if all weights applied at each position of the output, which is
  four times its work;
* a linear layer: multiply-adds; batch normalisation: two for each value;
* a ReLU that is a module in mmdetection: one for each value; pooling: one for each input value;
* RoIAlign, upsampling, additions, softmax: none.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.detection.detector import Detector
from aggnets_jax.detection.heads import Upsample
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.models.flops import Count, equations
from aggnets_jax.models.hcgnet import HCGNet
from aggnets_jax.models.levels import read_by

ROIS, MASKS = 1000, 100

# Networks in whose reference code ReLU is a function, which the counter doesn't see.
_FUNCTIONAL_RELU = (HCGNet,)


def count_detector(
    detector: Detector, image_size: Sequence[int]
) -> tuple[int, int, dict[str, int], dict[str, Count]]:
    """Count a detector.

    Args:
      detector: the detector.
      image_size: (height, width) of the image.

    Returns:
      Number of scalars of all parameters; number of scalars of the trainable parameters; operations
      by kind (conv, conv_bias, linear, norm, relu, pool); costs of each part, with the true cost of
      the transposed convolution.
    """
    shape = detector.backbone.image_shape
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    variables = jax.eval_shape(detector.init, jax.random.key(0), images, sizes)
    params = variables["params"]
    scalars = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}
    frozen = sum(
        x.size
        for path, x in jax.tree.leaves_with_path(params["backbone"])
        if tuple(key.key for key in path) in detector.backbone.frozen_paths
    )
    total, parts = Counter(), {name: Count(number, 0, 0) for name, number in scalars.items()}
    for method, inputs in _calls(detector, image_size, shape[2]):
        total += _count(detector, variables, method, inputs, parts)
    every = sum(scalars.values())
    return every, every - frozen, dict(total), parts


def _calls(
    detector: Detector, image_size: Sequence[int], channels: int
) -> list[tuple[Callable[..., Any], jax.ShapeDtypeStruct]]:
    """Return the parts that compute, as functions of a bound detector, and their inputs."""
    features = detector.sizes.pyramid
    calls = [
        (
            lambda bound, images: bound.rpn(bound.features(images)),
            jax.ShapeDtypeStruct((1, *image_size, channels), jnp.float32),
        ),
        (
            lambda bound, rois: bound.box_head(rois),
            jax.ShapeDtypeStruct((ROIS, 7, 7, features), jnp.float32),
        ),
    ]
    if detector.masks:
        rois = jax.ShapeDtypeStruct((MASKS, 14, 14, features), jnp.float32)
        calls.append((lambda bound, rois: bound.mask_head(rois), rois))
    return calls


def _count(
    detector: Detector,
    variables: Any,
    method: Callable[..., Any],
    inputs: jax.ShapeDtypeStruct,
    parts: dict[str, Count],
) -> Counter:
    """Return the operations of a method by kind, and add its costs to the detector's parts."""
    total = Counter()
    unused = detector.backbone.unused
    functional = isinstance(detector.backbone.network, _FUNCTIONAL_RELU)

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output, module = call(*args, **kwargs), context.module
        # A backbone is applied on its own, so its paths begin anew.
        inside = ("params", *module.path, "kernel") not in unused
        if context.method_name == "__call__" and inside:
            counts = _module_operations(module, args[0], output)
            total.update(counts)
            if work := counts.get("conv", 0) + counts.get("linear", 0):
                root = module.path[0] if module.path else ""
                name = root if root in parts else "backbone"
                macs = work // 4 if isinstance(module, Upsample) else work
                part, features = parts[name], args[0].size + output.size
                parts[name] = Count(part.params, part.macs + macs, part.features + features)
        return output

    def run(variables: Any, inputs: jax.Array) -> Any:
        return detector.apply(variables, inputs, method=method)

    with nn.intercept_methods(record):
        program = jax.make_jaxpr(run)(variables, inputs).jaxpr
    has_image = inputs.shape[0] == 1
    read = read_by(program, program.outvars)
    computed = [each for each in program.eqns if not read.isdisjoint(each.outvars)]
    for equation in equations(program.replace(eqns=computed)):
        kind, number = _elementwise(equation)
        # The RPN's ReLU is a function, too; it follows the backbone's.
        if kind == "pool" or (kind == "relu" and not (has_image and functional)):
            total[kind] += number
    if has_image and not functional:
        total["relu"] -= _rpn_rectified(detector, inputs.shape[1:3])
    return total


def _rpn_rectified(detector: Detector, image_size: Sequence[int]) -> int:
    """Return the values that the RPN rectifies in an image."""
    cells = sum(
        -(-image_size[0] // stride) * -(-image_size[1] // stride) for stride in detector.strides
    )
    return cells * detector.sizes.pyramid


def _module_operations(module: nn.Module, inputs: Any, output: Any) -> dict[str, int]:
    """Return the operations of one call of a bound module, by kind."""
    if isinstance(module, Upsample):
        kernel = module.variables["params"]["kernel"]
        return {"conv": _positions(output) * kernel.size, "conv_bias": output.size}
    if isinstance(module, nn.Conv):
        kernel = module.variables["params"]["kernel"]
        counts = {"conv": _positions(output) * kernel.size}
        return counts | ({"conv_bias": output.size} if module.use_bias else {})
    if isinstance(module, nn.Dense):
        return {"linear": output.size * inputs.shape[-1]}
    if isinstance(module, BatchNorm):
        return {"norm": 2 * output.size}
    return {}


def _positions(output: Any) -> int:
    return output.size // output.shape[-1]


def _elementwise(equation: Any) -> tuple[str, int]:
    """Return the kind of an equation and its number of operations; "" for all others."""
    if equation.params.get("name") == "relu":
        return "relu", equation.outvars[0].aval.size
    name = equation.primitive.name
    if name in ("reduce_window_sum", "reduce_window_max"):
        return "pool", equation.invars[0].aval.size
    # A sum over the positions of one channel is a softmax's.
    inputs = equation.invars[0].aval if equation.invars else None
    sums = name == "reduce_sum" and equation.params["axes"] == (1, 2)
    if sums and inputs.shape[-1] > 1:
        return "pool", inputs.size
    return "", 0
