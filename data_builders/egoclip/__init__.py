"""EgoClip: 3.8 million narrated clips of Ego4D as a clip table, for the initialisation of the ego branch (§4.1)."""
