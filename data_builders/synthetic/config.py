"""The settings of a generated corpus: its size, its splits, and how hard each view is."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from exo2ego.config import Config

FRAMES_PER_SECOND = 30
"""All frame-aligned videos of Ego-Exo4D have this rate."""
FEWEST_TAKES_WITH_TRAPS = 8


class SyntheticConfig(Config):
    """Everything that decides the bytes of a generated corpus."""

    seed: int = Field(default=0, ge=0)
    """Seed of the whole corpus; the same settings give the same files."""
    takes: int = Field(default=12, ge=2)
    """Number of takes over all splits."""
    seconds_per_take: float = Field(default=30.0, ge=3, le=300)
    """Length of every take in seconds."""
    exo_cameras: int = Field(default=4, ge=1, le=8)
    """Exocentric cameras per take (Ego-Exo4D has 4 or 5)."""
    frame_size: int = Field(default=64, ge=32, le=1024)
    """Side of the square egocentric frame and height of the 16:9 exocentric frame, in pixels; even."""
    supersampling: int = Field(default=1, ge=1, le=8)
    """Frames are drawn this many times larger and averaged down (1: no anti-aliasing, fastest)."""
    ego_difficulty: float = Field(default=0.6, ge=0, le=1)
    """0 (a steady head that follows the action) to 1: more zoom, tremble and roll, follows less, glances away more."""
    exo_difficulty: float = Field(default=0.1, ge=0, le=1)
    """0 (a tight view from opposite the wearer) to 1: wider views from all around, turned, rolled, and off centre."""
    second_annotator_share: float = Field(default=0.3, ge=0, le=1)
    """Share of takes that a second annotator narrates too, in other words and slightly shifted in time."""
    val_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of takes in the val split (at least one take)."""
    test_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of takes in the test split (at least one take from 8 takes on); their narrations are withheld."""
    held_out_combinations: float = Field(default=0.1, ge=0, le=0.5)
    """Share of (verb, colour, shape) combinations that never occur in training takes."""
    traps: bool = True
    """Put in the irregularities of the real dataset; needs at least 8 takes, smaller corpora are clean."""

    @field_validator("frame_size")
    @classmethod
    def _is_even(cls, frame_size: int) -> int:
        if frame_size % 2:
            raise ValueError("expected an even number (H.264 with 4:2:0 chroma)")
        return frame_size

    @model_validator(mode="after")
    def _leaves_training_takes(self) -> SyntheticConfig:
        if self.num_train_takes < 1:
            raise ValueError(
                f"takes={self.takes} leaves no training take beside {self.num_val_takes} for val and "
                f"{self.num_test_takes} for test; raise takes or lower val_share and test_share"
            )
        return self

    @property
    def num_val_takes(self) -> int:
        """Number of takes in the val split."""
        return max(1, round(self.takes * self.val_share))

    @property
    def num_test_takes(self) -> int:
        """Number of takes in the test split."""
        at_least = 1 if self.takes >= FEWEST_TAKES_WITH_TRAPS else 0
        return max(at_least, round(self.takes * self.test_share))

    @property
    def num_train_takes(self) -> int:
        """Number of takes in the train split."""
        return self.takes - self.num_val_takes - self.num_test_takes

    @property
    def with_traps(self) -> bool:
        """Whether the corpus has the irregularities of the real one."""
        return self.traps and self.takes >= FEWEST_TAKES_WITH_TRAPS

    @property
    def num_frames(self) -> int:
        """Frames per camera and take."""
        return round(self.seconds_per_take * FRAMES_PER_SECOND)

    @property
    def exo_width(self) -> int:
        """Width of an exocentric frame in pixels: 16:9, a multiple of 4 (796 for 448, as in Ego-Exo4D)."""
        return 4 * round(self.frame_size * 16 / 9 / 4)
