"""Files that a run writes: its folder, its manifest, its lock, its checkpoints."""
