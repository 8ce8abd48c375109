"""The thirteen raw datasets of EgoIT and EgoBench, and egoclip.csv, made of a generated corpus in their own layouts.

Every question, caption and answer is true of the rendered takes. EGTEA Gaze+, Something-Something-V2, EgoTimeQA,
OpenEQA, EgoExoLearn and EgoClip come from training takes, the eight sources of EgoBench from val takes, so that nothing
leaks. Whole videos are hard links to the rendered egocentric videos, cut clips are encoded anew. File and column names
are the datasets' own; the traps of the real files are there in small numbers. `ground_truth/<source>.jsonl` beside the
datasets says for every row which events make it true.
"""
