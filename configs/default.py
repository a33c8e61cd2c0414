"""The default recipe: every field there is, and what it means.

A config is a Python file with a function `get_config()` that says what differs, either as

    config = ml_collections.ConfigDict({"lr": 0.05, "model": {"name": "sparsenet40_k24"}})

or by changing `aggnets_jax.config.default_config()`. Any field can be set on the command line:
`--config.lr=0.2 --config.model.topology=windowed --config.model.topology_args.window=3`. A field
that is not in this file is an error.

A field that is None by default has a meaning of its own when not set, which is told beside it.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # What the network is trained for: classification or detection, see docs/tasks.md
    config.task = "classification"
    config.task_args = ml_collections.ConfigDict()  # arguments of the task

    # Everything random (initialisation, data order, augmentation, dropout) follows from the seed.
    config.seed = 0
    config.num_seeds = 1  # of networks that train at once, of seeds seed, seed + 1, ...

    # ---- length of the run, in updates of the parameters, and what happens on the way
    # One of the two; setting one unsets the other. An epoch is a pass over the training split.
    config.total_steps = placeholder(int)
    config.total_epochs = placeholder(float)
    config.total_steps = 10_000
    config.log_every_steps = 50  # training metrics, averaged over these steps
    config.eval_every_steps = 1_000  # the whole evaluation split; always at the end, too
    config.checkpoint_every_steps = 1_000  # always at the end, too; the best evaluation is kept
    config.keep_checkpoints = 2  # of the latest
    # Steps between two lines of the log that may be undone because a loss, gradient or parameter
    # is NaN or infinite; at one more the run stops.
    config.skip_nonfinite_steps = 0
    config.profile_steps = ()  # (first, last): a profiler trace of these steps, for TensorBoard

    # ---- batches
    config.batch_size = 64  # over all devices, in one update
    config.eval_batch_size = 256  # over all devices; changes nothing but rounding
    config.accumulation_steps = 1  # parts of a batch that are computed one after another
    config.steps_per_dispatch = 0  # of resident data, in one program; 0: 10 on CPU, else 50
    # Statistics of batch normalisation: of the "global" batch; "global_shifted", the same with
    # digits also far from zero on several devices; of each "device"'s part of the batch; or of the
    # parts of "group:N" neighbouring devices, N being a number.
    config.batch_norm = "global"
    # Of parameters and optimiser: "replicated", on every device; or "fsdp", a part on each.
    config.sharding = "replicated"
    # Groups of devices that a slower network joins, within which "fsdp" divides; 0: TPU slices.
    config.slices = 0

    # ---- optimisation: SGD, as in all of the papers
    config.lr = 0.1  # the highest learning rate of the schedule
    config.lr_batch_size = 0  # lr is for batches of this size, and grows with them; 0: of any size
    config.schedule = "cosine"  # constant | step | cosine | warmup_cosine | sgdr: docs/training.md
    config.schedule_args = ml_collections.ConfigDict()  # arguments of the schedule
    # Factors of the learning rate, by regular expression of a parameter's path; 0 freezes it:
    # (("stem.*", 0.0), ("classifier/.*", 10.0)). The first that matches counts.
    config.lr_factors = ()
    config.momentum = 0.9
    config.nesterov = True
    config.weight_decay = 1e-4  # added to the gradient, before momentum
    config.weight_decay_on = "all"  # all parameters, or "kernels": no norms and biases
    config.grad_clip_norm = 0.0  # largest global norm of the gradient; 0: any
    config.label_smoothing = 0.0  # probability that is taken from the right class and shared
    config.label_smoothing_over = "all"  # classes, the right one included, or the "others"
    config.ema_decay = 0.0  # of averaged weights, which are then evaluated; 0: none
    config.ema_warmup = False  # whether the decay is at most (1 + t) / (10 + t) after t updates
    config.dtype = "float32"  # of the computation: float32 | bfloat16; parameters are float32

    # Strength of a regularisation inside the network that changes in training (DropBlock, dynamic
    # regularisation), see aggnets_jax/training/regularisation_schedules.py. The network decides
    # what is regularised.
    config.strength = 0.0  # the highest
    config.strength_schedule = "constant"  # constant | sawtooth | dynamic
    config.strength_args = ml_collections.ConfigDict()  # arguments of that schedule

    # ---- where to start from; None: from the initialisation
    config.init_from = placeholder(str)  # workdir of a run, a file of weights, hf-hub:USER/NAME
    config.init_checkpoint = "latest"  # of that workdir: latest | best | the number of a step

    # ---- modules of your own, which register patterns, units, families, data sets: docs/plugins.md
    config.plugins = ()  # names of modules, such as ("my_networks",)

    # ---- the network, see aggnets_jax.list_models() and docs/networks.md
    config.model = ml_collections.ConfigDict()
    config.model.name = "sparsenet_bc100_k24"
    # Who reads whom; one name, or one for each stage. None: that of the named network.
    # plain | dense | sparse | log_dense | windowed | fractal | harmonic | random | custom
    config.model.topology = placeholder(object)
    # Or a list of links (layer, source), or the name of a pattern of your own: docs/topologies.md
    # Arguments of the topology, such as {"base": 3}; or one mapping for each stage.
    config.model.topology_args = placeholder(object)
    # concat | sum | mean. None: that of the named network.
    config.model.aggregation = placeholder(str)
    # How the stages are computed, which changes nothing but rounding: docs/performance.md.
    # Recomputed for the gradient, rather than kept: "none", each "layer", or what is between
    # convolutions, concatenation, normalisation and activation ("norm"). "auto": "norm" where that
    # is faster.
    config.model.remat = "auto"
    config.model.scan = False  # equal layers are compiled once, as the body of a loop
    config.model.shared_statistics = True  # of a feature, for all that normalise it
    # Links of patterns of your own; filled in when a run starts.
    config.model.patterns = ml_collections.ConfigDict()
    # Further arguments of the family: depth, growth_rate, dropout, pool, ...
    config.model.args = ml_collections.ConfigDict()

    # ---- data, see docs/data.md
    config.data = ml_collections.ConfigDict()
    config.data.name = "cifar10"  # in TFDS, or "aggnets_digits", "image_folder"; docs/data.md
    config.data.data_dir = placeholder(str)  # local or bucket. None: that of TFDS
    config.data.train_split = "train"
    config.data.eval_split = placeholder(str)  # None: "test", "validation" or "val"
    # Side of the square that the network sees, cut from larger images. None: images as they are.
    config.data.image_size = placeholder(int)
    config.data.crop_padding = 4  # black pixels on each side before a random crop; 0: no crop
    config.data.flip = True  # left to right, one image in two
    # Of learnt or random policies: none | autoaugment_cifar | autoaugment_imagenet | randaugment
    config.data.policy = "none"
    config.data.policy_args = ml_collections.ConfigDict()  # such as {"num_ops": 2, "magnitude": 9}
    config.data.color_jitter = 0.0  # brightness, contrast, saturation by a factor of 1 +- this
    config.data.lighting = 0.0  # standard deviation of noise along the colours' principal axes
    config.data.cutout = 0  # side of a square that is blanked; 0: none
    config.data.erasing = 0.0  # probability that a random rectangle is filled with noise
    config.data.mixup = 0.0  # alpha of the Beta distribution of the mixing ratio; 0: no mixup
    config.data.cutmix = 0.0  # the same for pasted rectangles; with mixup, one or the other a batch
    config.data.mix_ratio_per = "batch"  # one ratio for a "batch", or one for each "sample"
    config.data.mean = ()  # of each channel, on the scale 0..1. (): that of the data set
    config.data.std = ()
    # Images and records that can't be read: "stop" and name them, or "skip" and count them.
    config.data.damaged = "stop"
    config.data.resident = "auto"  # images live on the devices: auto (if they fit), always, never

    # ---- what a config reproduces; changes no result
    config.file = ""  # config file, and row of its sweep, filled in when it is read
    config.paper = ml_collections.ConfigDict()
    config.paper.source = ""  # paper, table and row; "": none
    config.paper.error = placeholder(float)  # printed top-1 error, in %
    config.paper.error_top5 = placeholder(float)
    config.paper.remark = ""
    return config
