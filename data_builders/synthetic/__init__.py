"""A small simulated world in the files of Ego-Exo4D v2, with the traps of the real dataset.

Two hands act on coloured objects on a table; every narration is true of the rendered event. With 8 takes or more (and
without `--no-traps`) the corpus contains, beside val and test takes and the pseudo-cameras `collage` and `best_exo`:

* `head_camera`: a UPenn take with `gp*` cameras, `aria02` instead of `aria01`, and a `gp05` worn on the head;
* `missing_camera_number`: no `cam03`; `unreadable_video`: an exocentric mp4 that is cut off;
* `text_flags`: flags as texts or null, `narration_subject` instead of `subject`;
* `equal_timestamps`, `unsorted_timestamps`, `rejected_annotation`, `single_narration`, `without_narrations`;
* `unmapped_uid`: an annotated take that takes.json does not know.

`synthetic.json` beside them records the settings, the takes of every trap, the held-out combinations and the true
events. Streams that the real dataset has and nobody reads (SLAM, eye tracking, collage) are listed, not rendered.

`python -m data_builders.synthetic.sources` makes the raw datasets of EgoIT and EgoBench of such a corpus.
"""

from data_builders.synthetic.ground_truth import read_ground_truth, read_sidecar
from data_builders.synthetic.language import corpus_lines
from data_builders.synthetic.world import Event

__all__ = ["Event", "corpus_lines", "read_ground_truth", "read_sidecar"]
