"""The settings themselves, section by section; their defaults are the built-in recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """Which network is trained."""

    name: Literal["3d-lstm-1", "3d-gru-1", "3d-lstm-3", "3d-gru-3", "res3d-gru-3", "alexnet"] = "res3d-gru-3"
    """One of the five networks of the 3D-R2N2 paper, or AlexNet (2012), which names the class of a picture."""
    preset: Literal["released-code", "paper"] = "released-code"
    """3D-R2N2 only: leaky slope and initialisation as the released code has them, or as the paper says."""
    width: float = 0.25
    """Factor on every hidden channel count; 1.0 is the published network, 0.25 has a sixteenth of its arithmetic."""
    voxel_resolution: Literal[32, 64, 128] = 32
    """3D-R2N2 only: side of the voxel grid; 64 and 128 add decoder stages."""
    form: str = "fast"
    """3D-R2N2 only: `fast`: all exact re-expressions; `plain`: written as the paper reads; or some of views, unpool,
    gates, layout and fused, joined by +, to see what each brings."""
    cross: Literal["default"] | tuple[str, ...] | None = "default"
    """A list of stages: two towers, as in AlexNet, of which only these stages read both; null: an ordinary network;
    default: as published (alexnet: conv3, fc6, fc7, fc8; 3D-R2N2: null)."""
    num_classes: int | None = None
    """alexnet only: number of classes; null counts those of the data."""
    weights: str | None = None
    """File to start from: a checkpoint's model.safetensors, or the original's weights.npy."""

    @property
    def classifies(self) -> bool:
        """Whether the network names the class of a picture; the others reconstruct."""
        return self.name == "alexnet"


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures and shapes come from, and how they are varied in training."""

    root: str | None = None
    """Folder with ShapeNetRendering/ and ShapeNetVox32/, or for alexnet one with CLASS/*.png (or .jpg, .jpeg) too; null
    makes and uses the built-in shapes under data/."""
    split: str = "r2n2"
    """`r2n2` (first 80 % of the sorted ids, or files, of each category train, the rest test), or a file like
    ShapeNet.json."""
    validation_fraction: float | None = None
    """Split r2n2 only: share of the training part that is held back for validation (null: 0.1)."""
    categories: tuple[str, ...] | None = None
    """Names or synset ids to use (of CLASS/*.png: names of folders); null uses all that are there."""
    skip_models: tuple[str, ...] = ()
    """Models (or pictures) to leave out, each as synset/model (or CLASS/FILE); the report of broken data prints such a
    list."""
    models_per_category: int | None = None
    """Built-in shapes only: how many to make of each of the 13 categories (null: 40)."""
    shapes_seed: int | None = None
    """Built-in shapes only: the seed they are made from (null: 0)."""
    cache_dir: str | None = None
    """Folder for the decoded cache; null puts it beside the data."""
    random_crop: bool = True
    """Training crops 127x127 (alexnet: 227x227 of 256x256) at a random offset; false takes the centre."""
    flip_probability: float = 0.5
    """Probability that a training picture is mirrored left to right."""
    background: tuple[int, int] = (225, 255)
    """Range, ends included, of the uniform background colour of training pictures, per channel."""
    loader_threads: int = 2
    """Threads a rank that read batches ahead."""
    prefetch_batches: int = 4
    """Batches a rank that are kept ready."""
    damaged_samples: Literal["stop", "replace"] = "stop"
    """What training does about a sample that has been damaged since the start: `stop`, or `replace` it by the next
    whole one of the training part, with a warning and a count. Evaluation always stops."""


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int = 700
    """Optimizer steps of the whole run."""
    batch_size: int = 24
    """Samples a step over all ranks together."""
    accumulation: int = 1
    """Micro-batches that each rank's share of the batch is cut into, one after the other."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Arithmetic; bfloat16 is autocast over float32 weights and gradients."""
    tf32: bool = True
    """GPUs only: products and convolutions of float32 numbers keep 10 of the 23 bits of their mantissas, and add up in
    float32; false keeps all 23, which is several times slower. bfloat16 and float64 are not affected."""
    cuda_graphs: bool = False
    """GPUs only: forward and backward passes are captured once for each number of views, and then started by one call.
    For one device a rank and few numbers of views. Gradients leave for the other ranks only after the backward pass, so
    that communication does not overlap with it."""
    seed: int = 0
    """Seed of weights, order, views and augmentation."""
    min_views: int = 1
    """3D-R2N2 only: fewest views of a step; one number a step is drawn uniformly."""
    max_views: int = 3
    """3D-R2N2 only: most views of a step."""
    clip_norm: float | None = None
    """Largest 2-norm of the whole gradient, which is scaled down to it; null does not clip."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    cpu_threads: int | None = None
    """Threads a rank for arithmetic on the CPU, shared by its devices; null shares the host's cores among its ranks."""
    recompute: bool = False
    """Keep few activations for the backward pass and compute the others again there: less memory, more time."""
    check_every_steps: int = 100
    """Steps between two comparisons of the parameters' hash over all ranks."""
    stall_timeout_s: float = 300.0
    """Seconds that a rank waits for the others, one that is stopped or lost among them, before it ends the job."""
    spike_factor: float | None = None
    """A loss above this many times the median of the last 100 is a spike; null: nothing is."""
    spike_steps: int | None = None
    """Spikes in a row from which on spike_action is taken (null: 1)."""
    spike_action: Literal["stop", "skip"] | None = None
    """`stop` ends training, `skip` leaves the weights as they are in that step (null: stop)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """adam adds weight decay to the gradient (L2, as the original), adamw decays apart, sgd has momentum and L2."""
    learning_rate: float = 4e-4
    """Highest learning rate; for the global batch, and never changed with the number of ranks."""
    scale_learning_rate: Literal["none", "linear", "sqrt"] = "none"
    """Factor on learning_rate from batch_size / base_batch_size; none leaves it as it is."""
    base_batch_size: int | None = None
    """The global batch size that learning_rate was chosen for; needed by linear and sqrt."""
    schedule: Literal["constant", "steps", "cosine"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = 30
    """Steps over which the learning rate rises linearly from zero."""
    milestones: tuple[int, ...] | None = None
    """Schedule steps only: the steps at which the rate is multiplied by decay."""
    decay: float | None = None
    """Schedule steps only: factor at each milestone (null: 0.1)."""
    final_fraction: float | None = None
    """Schedule cosine only: the last rate as a share of the highest (null: 0)."""
    betas: tuple[float, float] | None = None
    """adam and adamw only (null: 0.9, 0.999)."""
    epsilon: float | None = None
    """adam and adamw only (null: 1e-8)."""
    momentum: float | None = None
    """sgd only (null: 0.9)."""
    weight_decay: float = 5e-5
    """Weight decay of weights; biases are never decayed."""


@dataclass(frozen=True)
class SplitConfig:
    """How each rank splits the network's layers over its local devices.

    What is left open is chosen when a run starts and kept in its checkpoints. A resumed run takes the same again,
    unless this section, the ranks, their devices, train.accumulation, train.recompute or model.form are others now.
    """

    strategy: Literal["none", "pipeline", "kernel", "spatial", "auto"] = "none"
    """`pipeline`: consecutive layers on each device; `kernel`: a part of every layer's output channels on each;
    `spatial`: a slab of the volume on each; `auto`: what `python -m hvd_r2n2.plan` finds best; `none`: one device."""
    devices: tuple[str, ...] | None = None
    """This rank's devices, such as [cuda:0, cuda:1] or [cpu:0, cpu:1]; null: two, chosen from what the rank sees."""
    cut: tuple[str, ...] | None = None
    """Pipeline only: the first stage of every device but the first (null: balanced by measured times)."""
    micro_batches: int | None = None
    """Into how many micro-batches each batch is cut (null: the strategy's own choice)."""
    micro_batch_sizes: tuple[int, ...] | None = None
    """The samples of each micro-batch, instead of micro_batches."""
    view_chunks: int | None = None
    """Pipeline only: into how many chunks the views are cut, which flow through the encoder one by one (null: 1)."""
    schedule: Literal["1f1b", "fill-drain", "zero-bubble"] | None = None
    """Pipeline only: order of forward and backward runs (null: zero-bubble, which is 1f1b with the gradients of
    weights left for when a device would wait)."""
    cross: tuple[str, ...] | None = None
    """Kernel only: the stages that read both halves; all others read their own (AlexNet's scheme; sets model.cross)."""
    hang_timeout_s: float = 600.0
    """Seconds without any task ending after which a step is given up."""


@dataclass(frozen=True)
class HorovodConfig:
    """How Horovod averages gradients over ranks; its variables in the environment, such as HOROVOD_CYCLE_TIME, win."""

    cycle_time_ms: float | None = None
    """Milliseconds between two looks at what all ranks have ready (null: Horovod's own, 1)."""
    fusion_threshold_mib: float | None = None
    """Gradients that are ready together are averaged as one, up to so many MiB; 0 averages each on its own (null: 0 on
    CPUs, as measured; on GPUs Horovod's own, 128)."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept."""

    every_steps: int = 100
    """Steps between two checkpoints; the last step always gets one."""
    keep_last: int = 3
    """How many of the newest are kept, besides the best."""
    signal: Literal["USR1", "USR2", "TERM"] | None = "USR1"
    """A rank that gets this signal makes all ranks stop after the same step, with a checkpoint and exit code 85; null:
    none does. TERM otherwise ends a rank at once, since launchers end the ranks of a failed job with it."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on the validation part during training, and on the test part at its end."""

    every_steps: int = 200
    """Steps between two evaluations on the validation part."""
    views: int = 3
    """3D-R2N2 only: views a sample: the first ones of its renderings."""
    threshold: float = 0.4
    """3D-R2N2 only: occupancy probability from which a voxel counts as occupied."""
    batch_size: int = 16
    """Samples of one forward pass on one rank."""


@dataclass(frozen=True)
class LogConfig:
    """What is shown and recorded."""

    every_steps: int = 10
    """Steps between two lines on the console, in metrics.jsonl and in TensorBoard."""
    pictures: int = 4
    """Validation samples drawn at each evaluation; 0 draws none."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    baseline: str | None = None
    """File of `python -m hvd_r2n2.benchmark baseline`, to show the speed-up over one device; a resumed run that it
    does not fit goes on without. `measure`, on a single rank: baseline.json in the run directory, which is measured
    before the first step where there is none that fits."""
    trace_step: int | None = None
    """A step of a split whose tasks are written as trace-step-N.json, one row a device, to be opened in Perfetto."""


@dataclass(frozen=True)
class Config:
    """One run's settings."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Which network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which data."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Layers over local devices."""
    horovod: HorovodConfig = field(default_factory=HorovodConfig)
    """Averaging over ranks."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation during training."""
    log: LogConfig = field(default_factory=LogConfig)
    """Console, metrics.jsonl, TensorBoard."""

    @property
    def view_counts(self) -> range:
        """The numbers of views that a step may have; a classifier's pictures are one view each."""
        return range(1, 2) if self.model.classifies else range(self.train.min_views, self.train.max_views + 1)
