"""Files that a run writes: folder, manifest, lock, log, checkpoints."""
