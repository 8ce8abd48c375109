"""Reading the annotation files of published datasets: typed rows, every fault with its file and row."""
