"""The stages of Exo2Ego training, one readable file each: `python -m stages.<stage> --config FILE.yaml`."""
