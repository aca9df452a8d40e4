"""Option files in the layout that basicsr's heirs publish: every key of theirs is taken, or warned about."""

import os
from pathlib import Path

import pytest

from eqmambair.engine import distributed
from eqmambair.engine.options import load_options
from eqmambair.engine.schema import Options
from eqmambair.errors import UserError

SUPER_RESOLUTION = """
name: train_SRx2_scratch
model_type: {model}
scale: 2
num_gpu: auto
manual_seed: 10

datasets:
  train:
    name: DF2K
    type: PairedImageDataset
    dataroot_gt: datasets/DF2K/HR
    dataroot_lq: datasets/DF2K/LR_bicubic/X2
    filename_tmpl: '{{}}x2'
    meta_info_file: basicsr/data/meta_info/meta_info_DF2Ksub_GT.txt
    io_backend:
      type: disk
    gt_size: 128
    use_hflip: True
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 12
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
  val_1:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: datasets/Set5/HR
    dataroot_lq: datasets/Set5/LR_bicubic/X2
    filename_tmpl: '{{}}x2'
    io_backend:
      type: disk

network_g:
{network}

path:
  pretrain_network_g: ~
  strict_load_g: True
  resume_state: ~

train:
  ema_decay: 0.999
  optim_g:
    type: Adam
    lr: !!float 2e-4
    weight_decay: 0
    betas: [ 0.9, 0.99 ]
  scheduler:
    type: MultiStepLR
    milestones: [ 250000, 400000, 450000, 475000 ]
    gamma: 0.5
  total_iter: 500000
  warmup_iter: -1
  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean

val:
  val_freq: !!float 5e3
  save_img: False
  pbar: False
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 2
      test_y_channel: True
      better: higher

logger:
  print_freq: 200
  save_checkpoint_freq: 5000
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
"""
MAMBAIR = """  type: MambaIR
  upscale: 2
  in_chans: 3
  img_size: 64
  img_range: 1.
  d_state: 16
  depths: [6, 6, 6, 6, 6, 6]
  embed_dim: 180
  mlp_ratio: 2
  upsampler: 'pixelshuffle'
  resi_connection: '1conv'"""
MAMBAIRV2 = """  type: {type}
  upscale: 2
  in_chans: 3
  img_size: 64
  img_range: 1.
  embed_dim: 48
  d_state: 8
  depths: [5, 5, 5, 5]
  num_heads: [4, 4, 4, 4]
  window_size: 16
  inner_rank: 32
  num_tokens: 64
  convffn_kernel_size: 5
  mlp_ratio: 1.
  qkv_bias: true
  ape: false
  patch_norm: true
  use_checkpoint: false
  upsampler: 'pixelshuffledirect'
  resi_connection: '1conv'"""
REAL_DENOISING = """
name: RealDenoising_MambaIR
model_type: ImageCleanModel
scale: 1
num_gpu: 8
manual_seed: 100
datasets:
  train:
    name: TrainSet
    type: Dataset_PairedImage
    dataroot_gt: ./Datasets/train/SIDD/target_crops
    dataroot_lq: ./Datasets/train/SIDD/input_crops
    geometric_augs: true
    filename_tmpl: '{}'
    io_backend:
      type: disk
    use_shuffle: true
    num_worker_per_gpu: 8
    batch_size_per_gpu: 8
    mini_batch_sizes: [8,5,4,2,1,1]
    iters: [92000,64000,48000,36000,36000,24000]
    gt_size: 384
    gt_sizes: [128,160,192,256,320,384]
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val:
    name: ValSet
    type: Dataset_PairedImage
    dataroot_gt: ./Datasets/val/SIDD/target_crops
    dataroot_lq: ./Datasets/val/SIDD/input_crops
    io_backend:
      type: disk
network_g:
  type: MambaIRUNet
  inp_channels: 3
  out_channels: 3
  dim: 48
  num_blocks: [4,6,6,8]
  num_refinement_blocks: 4
  mlp_ratio: 1.5
  bias: False
  dual_pixel_task: False
path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~
train:
  total_iter: 300000
  warmup_iter: -1
  grad_clip: 0.01
  scheduler:
    type: CosineAnnealingRestartCyclicLR
    periods: [92000, 208000]
    restart_weights: [1,1]
    eta_mins: [0.0003,0.000001]
  mixing_augs:
    mixup: true
    mixup_beta: 1.2
    use_identity: true
  optim_g:
    type: AdamW
    lr: !!float 3e-4
    weight_decay: !!float 1e-4
    betas: [0.9, 0.999]
  pixel_opt:
    type: L1Loss
    loss_weight: 1
    reduction: mean
val:
  window_size: 8
  val_freq: !!float 4e3
  save_img: false
  rgb2bgr: true
  use_image: true
  max_minibatch: 8
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 0
      test_y_channel: false
"""


@pytest.mark.parametrize("model", ["SRModel", "MambaIRModel", "EQMambaIRModel", "MambaIRv2Model"])
def test_super_resolution_file_passes(tmp_path: Path, model: str) -> None:
    options, warnings = read(tmp_path, SUPER_RESOLUTION.format(model=model, network=MAMBAIR))
    assert [each.split(" has no effect")[0].split(": ")[1] for each in warnings] == [
        "datasets.train.prefetch_mode",
        "datasets.train.dataset_enlarge_ratio",
    ]
    assert options.train is not None
    assert options.train.optim_g["lr"] == 2e-4
    assert options.val is not None
    assert options.val.val_freq == 5000


def test_equivariant_network_of_official_keys_passes(tmp_path: Path) -> None:
    network = MAMBAIR.replace("MambaIR", "EQMambaIR")
    options, _ = read(tmp_path, SUPER_RESOLUTION.format(model="SRModel", network=network))
    assert options.network_g["type"] == "EQMambaIR"


@pytest.mark.parametrize("kind", ["MambaIRv2", "MambaIRv2Light"])
def test_second_version_of_official_keys_passes(tmp_path: Path, kind: str) -> None:
    options, warnings = read(tmp_path, SUPER_RESOLUTION.format(model="MambaIRv2Model", network=MAMBAIRV2.format(type=kind)))
    assert not any("network_g" in each for each in warnings)
    assert options.network_g["num_heads"] == [4, 4, 4, 4]


def test_real_denoising_file_passes_but_for_its_clipping_key(tmp_path: Path) -> None:
    """``use_grad_clip: true`` means 0.01 there, silently; here the number is asked for."""
    options, warnings = read(tmp_path, REAL_DENOISING)
    assert options.datasets["train"].gt_sizes == [128, 160, 192, 256, 320, 384]
    assert any("val.window_size" in each for each in warnings)
    with pytest.raises(UserError, match="use_grad_clip: unknown key; here it is grad_clip"):
        read(tmp_path, REAL_DENOISING.replace("grad_clip: 0.01", "use_grad_clip: true"))


def test_slurm_tells_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "MASTER_ADDR": "first"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what is set below is taken away again
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    distributed._environment_from_slurm(29511)

    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["3", "4", "1"]


def test_slurm_without_srun_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    options, _ = read(tmp_path, SUPER_RESOLUTION.format(model="SRModel", network=MAMBAIR))
    with pytest.raises(UserError, match="SLURM_PROCID is missing"), distributed.processes("slurm", options):
        pass


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo node7; echo node8", None),
        ("true", "scontrol names no host; set MASTER_ADDR"),
        ("exit 1", "scontrol does not tell the first host"),
    ],
)
def test_slurm_asks_scontrol_for_the_first_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, message: str | None) -> None:
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken away again
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    if message:
        with pytest.raises(UserError, match=message):
            distributed._environment_from_slurm(None)
    else:
        distributed._environment_from_slurm(None)
        assert os.environ["MASTER_ADDR"] == "node7"


def read(folder: Path, text: str) -> tuple[Options, list[str]]:
    file = folder / "official.yml"
    file.write_text(text)
    return load_options(file)


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_NTASKS"])
def test_slurm_without_its_variables_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.setenv(each, "0")
    monkeypatch.delenv(name)
    with pytest.raises(UserError, match=f"{name} is missing"):
        distributed._environment_from_slurm(None)
