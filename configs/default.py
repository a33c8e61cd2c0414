"""Every field of a config, with its default and its meaning.

A config is a Python file with a function `get_config()`. It returns the differences from this file,

    return ml_collections.ConfigDict({"lr": 0.05, "model": {"name": "sparsenet40_k24"}})

or a changed `aggnets_jax.config.default_config()`. The command line can set any field:
`--config.lr=0.2 --config.model.topology=windowed --config.model.topology_args.window=3`. A field
that is not in this file is an error.

If None or 0 has a special meaning, the comment on the field says so.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # "classification", "multilabel" or "detection", see docs/tasks.md
    config.task = "classification"
    config.task_args = ml_collections.ConfigDict()  # arguments of the task

    # All random numbers (initialisation, data order, augmentation, dropout) depend on the seed.
    config.seed = 0
    config.num_seeds = 1  # networks that train at once: with the seeds `seed`, `seed` + 1, ...

    # ---- length of the run and of its intervals, in steps; a step updates the parameters once
    # Set one of these two; the other is then unset. An epoch is a pass over the training split.
    config.total_steps = placeholder(int)
    config.total_epochs = placeholder(float)
    config.total_steps = 10_000
    config.log_every_steps = 50  # log training metrics, averaged over these steps
    config.eval_every_steps = 1_000  # evaluate on the whole evaluation split; also at the end
    config.checkpoint_every_steps = 1_000  # save the state; also at the end
    config.keep_checkpoints = 2  # latest checkpoints to keep; the best network is kept besides
    # Number of steps that may be undone between two lines of the log, because a loss, gradient or
    # parameter is NaN or infinite. One more such step stops the run.
    config.skip_nonfinite_steps = 0
    config.profile_steps = ()  # (first, last): trace these steps for TensorBoard's profiler

    # Services that get the metrics, too: tensorboard | wandb | mlflow | clu. tracker_args has the
    # arguments of each, such as {"wandb": {"project": "digits"}}: docs/training.md
    config.trackers = ("tensorboard",)
    config.tracker_args = ml_collections.ConfigDict()

    # ---- batches
    config.batch_size = 64  # images of an update, over all devices
    config.eval_batch_size = 256  # over all devices; changes results only by rounding
    config.accumulation_steps = 1  # number of parts in which a batch is computed, to save memory
    # Steps in one program, if the data is on the devices; 0: 10 on a CPU, else 50.
    config.steps_per_dispatch = 0
    # Batch normalisation uses the statistics of
    #   "global": the whole batch;
    #   "global_shifted": the same; also on several devices accurate for features far from zero;
    #   "device": the part of the batch on each device;
    #   "group:8": the parts on 8 neighbouring devices (or another number).
    config.batch_norm = "global"
    # Parameters and optimiser state: "replicated" (a copy on each device) or "fsdp" (a part).
    config.sharding = "replicated"
    # Groups of devices with a slower network between them; "fsdp" divides only within a group.
    # 0: the TPU slices as they are.
    config.slices = 0

    # ---- optimisation: SGD, as in all of the papers
    # sgd | adamw | lamb | lars | lion | rmsprop | adafactor | muon | schedule_free_sgd |
    # schedule_free_adamw: docs/training.md
    config.optimizer = "sgd"
    config.optimizer_args = ml_collections.ConfigDict()  # its arguments, besides those below
    config.lr = 0.1  # the highest learning rate of the schedule
    config.lr_batch_size = 0  # scale lr by batch_size / lr_batch_size; 0: don't scale
    # constant | step | linear | cosine | warmup_cosine | sgdr: docs/training.md
    config.schedule = "cosine"
    config.schedule_args = ml_collections.ConfigDict()  # arguments of the schedule
    # Factors of the learning rate for parameters whose path matches a regular expression, such as
    # (("stem.*", 0.0), ("classifier/.*", 10.0)). The first match counts; 0 freezes a parameter.
    config.lr_factors = ()
    config.layer_decay = 1.0  # factor of the learning rate from each layer to the layer before it
    config.momentum = 0.9  # for sgd, lars and rmsprop
    config.nesterov = True  # for the same
    # sgd, lars, rmsprop and schedule_free_sgd add it to the gradient, all others to the update.
    config.weight_decay = 1e-4
    config.weight_decay_on = "all"  # all parameters, or "kernels": without norms and biases
    config.grad_clip_norm = 0.0  # clip the gradient to this global norm; 0: don't clip
    # SAM: take the gradient at this distance, where the loss is highest; 0: at the parameters
    config.sam_radius = 0.0
    # cross_entropy | squared_hinge | binary_cross_entropy | focal | binary_focal: docs/training.md.
    # None: the loss of the network or of the task
    config.loss = placeholder(str)
    config.loss_args = ml_collections.ConfigDict()  # arguments of the loss
    config.label_smoothing = 0.0  # probability that is taken from the right class and shared
    config.label_smoothing_over = "all"  # share it among "all" classes, or the "others"
    config.ema_decay = 0.0  # decay of averaged weights, which are then evaluated; 0: no averages
    config.ema_warmup = False  # limit the decay to (1 + t) / (10 + t) after t updates
    # Scale images down in training to these sides, each from a fraction of the run on, such as
    # ((0.0, 128), (0.4, 176), (0.8, 224)); (): don't
    config.progressive = ()
    config.dtype = "float32"  # of the computation: float32 | bfloat16; parameters are float32

    # Strength of a regularisation inside the network that changes during training (DropBlock,
    # dynamic regularisation): docs/networks.md. The network decides what is regularised.
    config.strength = 0.0  # the highest strength; 0: no such regularisation
    config.strength_schedule = "constant"  # constant | fade | sawtooth | dynamic | dynamic_gaussian
    config.strength_args = ml_collections.ConfigDict()  # arguments of the schedule

    # ---- weights to start from; None: random initialisation
    config.init_from = placeholder(str)  # workdir of a run, a file of weights, hf-hub:USER/NAME
    config.init_checkpoint = "latest"  # checkpoint of the workdir: latest | best | number of a step

    # ---- a teacher, whose outputs are targets beside the labels: docs/distillation.md
    config.teacher = placeholder(str)  # workdir of a trained classifier; None: no teacher
    config.teacher_checkpoint = "latest"  # checkpoint of the teacher: latest | best | step
    config.teacher_args = ml_collections.ConfigDict()  # such as {"temperature": 2.0}

    # ---- modules of your own that register patterns, units, families, data sets: docs/plugins.md
    config.plugins = ()  # names of modules, such as ("my_networks",)

    # ---- the network, see aggnets_jax.list_models() and docs/networks.md
    config.model = ml_collections.ConfigDict()
    config.model.name = "sparsenet_bc100_k24"
    # Which earlier outputs a layer reads: the name of a pattern (plain | dense | sparse | log_dense
    # | windowed | fractal | harmonic | random | custom, or your own); a list of links (layer,
    # source); or one of these for each stage. None: as in the network's paper. docs/topologies.md
    config.model.topology = placeholder(object)
    # Arguments of the topology, such as {"base": 3}; or one mapping for each stage.
    config.model.topology_args = placeholder(object)
    # concat | sum | mean. None: as in the network's paper.
    config.model.aggregation = placeholder(str)
    # The next three change results only by rounding; scan also draws other initial values:
    # docs/performance.md.
    # What to recompute for the gradient instead of storing it: "none"; each whole "layer"; "norm",
    # concatenation, normalisation and activation; "auto", that is "norm" where it is faster.
    config.model.remat = "auto"
    config.model.scan = False  # compile equal layers once, as the body of a loop
    config.model.shared_statistics = True  # compute a feature's statistics once for all its readers
    # Links of patterns of your own; filled in when a run starts.
    config.model.patterns = ml_collections.ConfigDict()
    # Further arguments of the family: depth, growth_rate, dropout, pool, ...
    config.model.args = ml_collections.ConfigDict()

    # ---- data, see docs/data.md
    config.data = ml_collections.ConfigDict()
    config.data.name = "cifar10"  # a TFDS data set, aggnets_digits, image_folder, coco_folder, ...
    config.data.data_dir = placeholder(str)  # folder, local or in a bucket. None: TFDS's folder
    config.data.train_split = "train"
    config.data.eval_split = placeholder(str)  # None: "test", "validation" or "val"
    # Side of the network's square input; images are cropped and resized. None: images as they are.
    config.data.image_size = placeholder(int)
    config.data.crop_padding = 4  # black pixels on each side before a random crop; 0: no crop
    config.data.flip = True  # mirror one image in two, left to right
    config.data.flip_alternately = False  # with flip: mirror one half of the images, then the other
    config.data.repeats = 1  # copies of each image in a batch, each with its own augmentation
    config.data.policy = "none"  # none | autoaugment_cifar | autoaugment_imagenet | randaugment
    config.data.policy_args = ml_collections.ConfigDict()  # such as {"num_ops": 2, "magnitude": 9}
    config.data.color_jitter = 0.0  # brightness, contrast, saturation: factors of 1 +- this
    config.data.lighting = 0.0  # standard deviation of noise along the colours' principal axes
    config.data.cutout = 0  # side of a square that is set to 0; 0: no cutout
    config.data.erasing = 0.0  # probability that noise replaces a random rectangle
    config.data.mixup = 0.0  # alpha of the Beta distribution of the mixing ratio; 0: no mixup
    config.data.cutmix = 0.0  # the same for pasted rectangles; with mixup, half of the batches each
    config.data.mix_ratio_per = "batch"  # draw one ratio per "batch", or per "sample"
    config.data.mean = ()  # of each channel, on the scale 0..1. (): the data set's
    config.data.std = ()
    # Images and records that can't be read: "stop" the run, or "skip" and count them.
    config.data.damaged = "stop"
    config.data.resident = "auto"  # keep images on the devices: auto (if they fit), always, never

    # ---- the experiment that a config reproduces; these fields change no result
    config.file = ""  # config file and row of its sweep; filled in when it is read
    config.paper = ml_collections.ConfigDict()
    config.paper.source = ""  # paper, table and row; "": no paper
    config.paper.error = placeholder(float)  # printed top-1 error, in %
    config.paper.error_top5 = placeholder(float)
    config.paper.remark = ""
    return config
