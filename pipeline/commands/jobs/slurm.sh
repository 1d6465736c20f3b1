#!/bin/bash
# Written by `pipeline init slurm --shards @SHARDS@`. What is certified, at which eps and under which gates, stands in pipeline.toml.
#
#   job=$(sbatch --parsable robustness.sbatch)
#   sbatch --dependency="afterok:$job" --wrap 'pipeline merge shards/shard-* --report robustness'
#
# Run from a folder that all nodes see, with `pipeline` on the path (@INSTALL@).
#SBATCH --job-name=robustness
#SBATCH --array=1-@SHARDS@
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --output=robustness-%A-%a.log
set -eu
export ORT_DISABLE_TELEMETRY=1
MODEL="@MODEL@"
# A shard that was stopped goes on from what it decided where it is submitted again.
exec pipeline certify "$MODEL" --shard "$SLURM_ARRAY_TASK_ID/@SHARDS@" --report "shards/shard-$SLURM_ARRAY_TASK_ID"
