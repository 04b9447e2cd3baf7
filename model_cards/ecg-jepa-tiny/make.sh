#!/usr/bin/env bash
# Makes all of model_cards/ecg-jepa-tiny again: the choices on the way, the checkpoint, its evidence and its card.
#
#   bash model_cards/ecg-jepa-tiny/make.sh [PTB_XL_FOLDER]        from the repository's root; default data/ptb-xl
#
# Some hours on two CPU cores. What is finished is not done again, so a killed run goes on where it stopped.
set -euo pipefail

data=${1:-data/ptb-xl}
runs=runs/ecg-jepa-tiny
card=model_cards/ecg-jepa-tiny

pretrain() { # NAME OPTION...
    local name=$1
    shift
    [ -f "$runs/$name/training_state.json" ] || python -m train.pretrain --config train/recipes/tiny.yaml "$@" \
        --corpus "{name: ptb_xl, data_dir: $data, files: 100}" --probe_records 0 \
        --output_dir "$runs/$name" --resume_from_checkpoint latest
}

vary() { # NAME OPTION...: half the channels and fewer steps, to compare what is to be chosen
    pretrain "$@" --hidden_size 96 --num_attention_heads 4 --predictor_hidden_size 48 \
        --predictor_num_attention_heads 2 --max_steps 1200
}

probe() { # NAME MODEL... OPTION...; exit code 3 tells of records that a partial copy of the corpus lacks
    local name=$1
    shift
    python -m train.linear_probe "$@" --data_dir "$data" --output_dir "$runs/$name" --train_fraction 1 0.1 || [ $? -eq 3 ]
}

# 1. The choices, by cross-validation inside folds 1-8; the first is what the others are compared with.
vary base
vary momentum --momentum_start 0.98
vary slow --momentum_start 0.999
vary drop --lead_dropping 0.3
vary synthetic --corpus "{name: synthetic, records: 2600}"
probe choices "$runs"/{base,momentum,slow,drop,synthetic} --cross_validate --baselines --pool lead

# 2. The checkpoint.
pretrain main --max_steps 2500

# 3. The evidence: cross-validated, confirmed on fold 9, and fold 10, which is looked at once, for the report.
probe evidence "$runs/main" --cross_validate --confirm --final

# 4. What is shared. The code that travels with weights lies in this repository already.
for name in config.json preprocessor_config.json model.safetensors verification.json train_log.jsonl curves.png; do
    cp "$runs/main/$name" "$card/"
done
for file in "$runs"/main/*.py; do
    ln -sf "../../modeling_ecg_jepa/$(basename "$file")" "$card/"
done
for name in choices evidence; do
    mkdir -p "$card/$name"
    cp "$runs/$name"/probe.{json,md,png} "$card/$name/"
done
python - "$runs/main/training_state.json" "$card/training_state.json" <<'PYTHON'
"""The run's summary without the messages on records left out, which hold folders of the machine that it ran on."""
import json
import sys

state = json.load(open(sys.argv[1]))
for record in state["records_left_out"]:
    record["message"] = record["reason"]
json.dump(state, open(sys.argv[2], "w"), indent=1)
PYTHON
ecg-jepa card "$card" --results "$card/evidence/probe.json" --compared "$card/choices/probe.json" --notes "$card/notes.md"
ecg-jepa verify "$card"
