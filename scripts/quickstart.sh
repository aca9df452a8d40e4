#!/usr/bin/env bash
# From a fresh checkout to a trained network on any machine: sets up .venv, makes the low-resolution half of the embedded sample, trains a
# small EQ-MambaIR x2 for a few minutes on the CPU, restores pictures it has never seen, and shows how it compares with bicubic.
# Running it again goes on where it stopped; rm -r experiments/quickstart_eq_mambair_x2 starts anew.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup_env.sh"
cd "$root"
python=.venv/bin/python
name=quickstart_eq_mambair_x2
sample=datasets/sample
results=results/quickstart
weights=experiments/$name/models/net_g_latest.pth

step() { printf '\n== %s\n' "$*"; }

step "data: the embedded sample, low resolution by MATLAB-compatible bicubic"
"$python" scripts/prepare_datasets.py sample
for part in train val; do
    "$python" scripts/prepare_datasets.py lr --hr "$sample/$part/HR" --scales 2
done

step "training: options/$name.yml (logs: tensorboard --logdir experiments/$name)"
"$python" basicsr/train.py -opt "options/$name.yml" --auto_resume

step "restoring the held-out pictures"
"$python" scripts/inference.py "$sample/val/LR_bicubic/X2" --output "$results" --weights "$weights" --overwrite

step "measuring"
"$python" -m eqmambair.cli.quickstart --weights "$weights" --gt "$sample/val/HR" --lr "$sample/val/LR_bicubic/X2" --sr "$results" \
    --picture "$results/comparison/comparison.png" --margin 0.5
