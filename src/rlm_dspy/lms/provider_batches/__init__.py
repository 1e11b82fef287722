"""Provider batches: many requests at once, answered within hours at half the price."""

from rlm_dspy.lms.provider_batches.journal import WaveJournal
from rlm_dspy.lms.provider_batches.pending import WavePace, WaveProgress
from rlm_dspy.lms.provider_batches.wave_engine import AsyncWaveEngine, WaveEngine, batched_lm
from rlm_dspy.lms.provider_batches.waves import Waves

__all__ = ["AsyncWaveEngine", "WaveEngine", "WaveJournal", "WavePace", "WaveProgress", "Waves", "batched_lm"]
