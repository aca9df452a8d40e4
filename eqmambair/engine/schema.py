"""The typed form of an option file: every key that means something, its type, range and default.

Keys that only a model knows (losses and such) come from ``Model.train_schema`` and are joined to ``TrainOptions`` when a file is read.
Mappings that stand for an object (networks, datasets, losses, optimisers, metrics) are checked against the signature of what they name.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from eqmambair.models.specs import MetricSpec, NetworkSpec


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(value: str) -> str:
    if value in ("", ".", "..") or any(each in value for each in "/\\\0"):
        raise ValueError(f"files and folders get this name, so it must not be empty, '.' or '..', nor hold / or \\; found {value!r}")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]  # published files write 5000 as 5e3
Name = Annotated[str, AfterValidator(_name)]
Ending = Annotated[str, AfterValidator(lambda value: value and _name(value))]


class Section(BaseModel):
    """A mapping of an option file; unknown keys are errors, infinities are no numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class DatasetOptions(Section):
    """What the loader needs of a dataset section; all other keys are arguments of the dataset class."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())
    name: Name | None = Field(None, description="name in tables and folders; the key of the section if absent")
    type: str = Field(description="class of the dataset")
    batch_size_per_gpu: Whole = Field(1, ge=1, le=65536, description="samples of one process in one forward pass")
    num_worker_per_gpu: Whole = Field(0, ge=0, le=256, description="loader processes of one process; 0 = load in the training process")
    iters: list[Whole] | None = Field(None, description="progressive training: steps of each part; the last goes on to the end")
    mini_batch_sizes: list[Whole] | None = Field(None, description="progressive training: batch_size_per_gpu of each part")
    gt_sizes: list[Whole] | None = Field(None, description="progressive training: gt_size of each part")
    use_shuffle: bool = Field(True, description="a new random order every epoch; false: files by name")
    check: Literal["full", "header", "lazy"] = Field(
        "full", description="before training decode every file (full), read its size only (header), or nothing (lazy)"
    )
    on_bad_file: Literal["error", "skip"] = Field("error", description="unreadable or wrong files: stop, or leave out and count")

    @property
    def arguments(self) -> dict[str, Any]:
        """Keys that are arguments of the dataset class."""
        return dict(self.model_extra or {})


class PathOptions(Section):
    """Where weights come from and where results go."""

    pretrain_network_g: str | None = Field(None, description="weights to start from (ours or official)")
    param_key_g: str | None = Field(None, description="params, params_ema, ...; the best one present if absent")
    pretrain_backbone: str | None = Field(
        None, description="weights for the backbone of a dense-prediction network: a classifier's, or those of such a network"
    )
    strict_load_g: bool = Field(True, description="every key and shape must fit; false: load what fits (x3 from x2)")
    resume_state: str | None = Field(None, description="folder of a training state to go on from")
    experiments_root: str = Field("experiments", description="folder of all runs")
    results_root: str = Field("results", description="folder of test results")


class TrainOptions(Section):
    """The loop, the optimiser and the numbers."""

    total_iter: Whole = Field(ge=1, description="optimiser steps")
    optim_g: dict[str, Any] = Field(description="optimiser: type and its arguments")
    scheduler: dict[str, Any] = Field(default_factory=lambda: {"type": "Constant"}, description="learning-rate schedule")
    warmup_iter: Whole = Field(-1, ge=-1, description="steps of linear warm-up, multiplied with the schedule; -1 = none")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0 = none")
    accumulate: Whole = Field(1, ge=1, le=65536, description="forward passes for one optimiser step")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast type")
    grad_clip: float | None = Field(None, gt=0, description="largest gradient norm")
    nonfinite_limit: Whole = Field(10, ge=0, description="steps with a non-finite loss or gradient to skip before the run stops")
    compile: bool = Field(False, description="torch.compile the network")
    channels_last: bool = Field(True, description="channels_last memory for network and batches")


class ValOptions(Section):
    """When and how to validate."""

    val_freq: Whole = Field(5000, ge=1, description="steps between validations")
    save_img: bool = Field(False, description="write restored pictures")
    suffix: Ending | None = Field(None, description="ending of their file names; the run's name if absent")
    pbar: bool = Field(True, description="progress bar while validating")
    metrics: dict[Name, MetricSpec] = Field(default_factory=dict, description="name: metric")
    tile: Whole | None = Field(None, ge=8, description="side of the tiles that large pictures are restored in, input pixels")
    tile_overlap: Whole = Field(16, ge=0, description="overlap of tiles, input pixels")


class WandbOptions(Section):
    """Weights & Biases, if wanted (needs the package wandb)."""

    project: str | None = None
    resume_id: str | None = None


class LoggerOptions(Section):
    """What is written, and how often."""

    print_freq: Whole = Field(100, ge=1, description="steps between lines of the log")
    save_checkpoint_freq: Whole = Field(5000, ge=1, description="steps between checkpoints")
    keep_last: Whole = Field(3, ge=1, description="checkpoints kept")
    keep_every: Whole | None = Field(None, ge=1, description="checkpoints at multiples of it are kept for ever")
    safetensors: bool = Field(False, description="also write net_g_latest.safetensors")
    use_tb_logger: bool = Field(True, description="write TensorBoard events")
    image_grids: Whole = Field(2, ge=0, description="pictures of each validation set in TensorBoard")
    wandb: WandbOptions | None = None


class DistOptions(Section):
    """Several processes."""

    backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="auto: nccl with GPUs, gloo without")
    port: Whole | None = Field(None, ge=1, le=65535, description="port of the first process, for slurm")
    timeout_minutes: float = Field(60, gt=0, le=10080, description="longest wait for another process")


class Options(Section):
    """A whole option file."""

    name: Name = Field(max_length=200, description="name of the run and of its folder")
    model_type: str = Field("RestorationModel", description="what is done with the network")
    scale: Whole = Field(1, ge=1, le=64, description="output pixels per input pixel and side")
    num_gpu: Whole | Literal["auto"] = Field("auto", description="0 = CPU; otherwise a GPU if there is one")
    manual_seed: Whole = Field(0, ge=0, lt=2**32, description="seed of everything random")
    deterministic: bool = Field(False, description="only deterministic algorithms; two runs are equal to the last bit")
    find_unused_parameters: bool = Field(False, description="for distributed runs of networks that leave parameters out")
    datasets: dict[Name, DatasetOptions] = Field(description="train, val, val_2, test_1, ...")
    network_g: NetworkSpec = Field(description="network: type and its arguments")
    path: PathOptions = Field(default_factory=lambda: PathOptions.model_validate({}))
    train: TrainOptions | None = None
    val: ValOptions | None = None
    logger: LoggerOptions = Field(default_factory=lambda: LoggerOptions.model_validate({}))
    dist_params: DistOptions = Field(default_factory=lambda: DistOptions.model_validate({}))

    _root: Path = PrivateAttr(default_factory=Path.cwd)

    def set_root(self, root: Path) -> None:
        """Take relative paths from this folder."""
        self._root = root.absolute()

    def resolve(self, path: str) -> Path:
        """An absolute path: ``~`` expanded, relative ones taken from the root."""
        expanded = Path(path).expanduser()
        return expanded if expanded.is_absolute() else self._root / expanded

    @property
    def experiment_folder(self) -> Path:
        """Where all that the run writes is."""
        return self.resolve(self.path.experiments_root) / self.name

    def sections(self, *phases: str) -> dict[str, DatasetOptions]:
        """Dataset sections of these phases (train, val, test), in the order of the file."""
        return {key: each for key, each in self.datasets.items() if key.split("_")[0] in phases}


# Keys of published option files that mean nothing here: a warning tells so, once for each.
IGNORED: dict[tuple[str, ...], str] = {
    ("datasets", "*", "prefetch_mode"): "batches are always loaded ahead",
    ("datasets", "*", "num_prefetch_queue"): "batches are always loaded ahead",
    ("datasets", "*", "pin_memory"): "memory is pinned whenever there is a GPU",
    ("datasets", "*", "persistent_workers"): "loader processes live as long as the run",
    ("datasets", "*", "dataset_enlarge_ratio"): "iterations are counted, not epochs",
    ("datasets", "*", "task"): "the keys of the data set tell",
    ("datasets", "*", "phase"): "the name of the section tells",
    ("path", "root"): "paths are relative to the folder of the project",
    ("path", "ignore_resume_networks"): "a state is resumed whole",
    ("val", "window_size"): "networks take pictures of any size",
    ("val", "rgb2bgr"): "pictures are RGB everywhere",
    ("val", "use_image"): "pictures are always measured as they are written, in 8 bit",
    ("val", "max_minibatch"): "pictures are restored one by one",
    ("datasets", "*", "scale"): "the key at the top tells",
    ("path", "models"): "folders of a run have fixed names",
    ("path", "training_states"): "folders of a run have fixed names",
    ("path", "log"): "folders of a run have fixed names",
    ("path", "visualization"): "folders of a run have fixed names",
    ("dist_params", "rank"): "the launcher tells",
    ("dist_params", "world_size"): "the launcher tells",
    ("rank",): "the launcher tells",
    ("world_size",): "the launcher tells",
    ("opt_path",): "the command tells",
    ("print_network",): "the log tells the size of the network",
    ("use_static_graph",): "find_unused_parameters is all that matters here",
    ("is_train",): "the command tells",
    ("dist",): "the launcher tells",
    ("use_tb_logger",): "give logger.use_tb_logger instead",
    ("auto_resume",): "give --auto_resume instead",
}

# Keys that other toolboxes have for something that is called otherwise here: the error tells the name.
INSTEAD: dict[str, str] = {
    "mean": "the network's, which subtracts it itself; pictures stay in [0, 1]",
    "noise_sigma": "a key of the data set type DegradedImageDataset",
    "std": "the network's; pictures stay in [0, 1]",
    "use_amp": "precision (fp32, bf16 or fp16)",
    "amp": "precision (fp32, bf16 or fp16)",
    "use_grad_clip": "grad_clip (the largest norm)",
    "clip_grad_norm": "grad_clip (the largest norm)",
    "accum_iter": "accumulate",
    "use_channels_last": "channels_last",
    "use_compile": "compile",
    "seed": "manual_seed",
    "epochs": "total_iter",
    "lr": "optim_g.lr",
}
