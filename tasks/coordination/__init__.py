"""The coordinator: it goes through the stages of a run, and judges their failures."""
