"""Wrong options for multiple-choice questions: the texts nearest to the truth by SentenceBERT (docs/distractors.md)."""
