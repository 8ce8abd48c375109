"""The three losses of Exo2Ego §4 as pure functions: text generation, distribution divergence, cycle consistency."""
