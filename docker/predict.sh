#!/bin/sh
# Runs a bundle (fm3d adapters export) on a folder: label maps named as the images, answers in predictions.csv and .json.
# INPUTS may be mounted read-only. Further options of fm3d predict may follow: sh predict.sh --suffix .dcm
set -eu

BUNDLE="${BUNDLE:-/workspace/bundle}"
INPUTS="${INPUTS:-/workspace/inputs}"
OUTPUTS="${OUTPUTS:-/workspace/outputs}"

exec fm3d predict "$INPUTS" --adapter "$BUNDLE" --out "$OUTPUTS" "$@"
