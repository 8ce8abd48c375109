#!/bin/bash
# Runs one node's launcher so that signals for the training processes do not end the launcher (used by stage.sbatch).
#
# An ignored signal stays ignored in what is started here; the training processes alone listen again.
trap '' USR1 TERM
exec "$@"
