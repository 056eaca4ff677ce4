"""The stages of a run, one file each: what a stage reads, does in the blocks of the plan, and keeps under which name.

A stage is a function that takes the `run.Run`. The work itself is done by `neighbors`, `graph`, `layout`, `reduce` and `source`, which know
nothing of runs; `run.dispatch` chooses the backend that the plan names.
"""
